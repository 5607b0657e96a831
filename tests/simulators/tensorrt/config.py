"""The simulated builder's settings: optimization profiles, timing cache, configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.simulators.tensorrt.bindings_base import (
    Bound,
    Dims,
    Flagged,
    IHostMemory,
    as_buffer,
    as_shape,
    checked_overridable,
    stored,
    versions,
)
from tests.simulators.tensorrt.library import Owner
from tests.simulators.tensorrt.plan import Bounds, pack_timing_cache, unpack_timing_cache


class IOptimizationProfile(Bound):
    """Ranges of shapes, and of the values of shape inputs."""

    def __init__(self) -> None:
        self._shapes: dict[str, Bounds] = {}
        self._values: dict[str, Bounds] = {}
        self._extra_memory = 1.0

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        bounds = tuple(as_shape(shape, "set_shape()") for shape in (min, opt, max))
        low, middle, high = bounds
        ranks_agree = len(low) == len(middle) == len(high)
        ordered = ranks_agree and all(0 <= a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
        if not ordered or len(low) > Dims.MAX_DIMS:
            raise RuntimeError(f"Shape provided for {input} is inconsistent: min {low}, opt {middle}, max {high}")
        self._shapes[input] = (low, middle, high)

    def set_shape_input(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        low, middle, high = (as_shape(values, "set_shape_input()") for values in (min, opt, max))
        lengths_agree = len(low) == len(middle) == len(high)
        ordered = lengths_agree and all(a <= b <= c for a, b, c in zip(low, middle, high, strict=True))
        if not ordered or len(low) > 64:
            raise RuntimeError(f"Shape input {input} is inconsistent: min {low}, opt {middle}, max {high}")
        self._values[input] = (low, middle, high)

    def get_shape(self, input: str) -> list[Dims]:
        if input not in self._shapes:
            raise RuntimeError(f"no shape is set for {input}")
        return [self.library.module.Dims(shape) for shape in self._shapes[input]]

    def get_shape_input(self, input: str) -> list[list[int]]:
        if input not in self._values:
            raise RuntimeError(f"no values are set for {input}")
        return [list(values) for values in self._values[input]]

    def __bool__(self) -> bool:
        return bool(self._shapes or self._values)

    extra_memory_target = stored("_extra_memory", float)


class ITimingCache(Bound):
    """Measured tactics; here: which networks were built."""

    def __init__(self, gpu: str, keys: list[str]) -> None:
        self._gpu = gpu
        self._keys = keys

    def serialize(self) -> IHostMemory | None:
        data = pack_timing_cache(self.library.version, self._gpu, self._keys)
        made: IHostMemory = self.library.module.IHostMemory(data)
        return made

    def combine(self, input_cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if input_cache._gpu != self._gpu and not ignore_mismatch:
            return False
        self._keys = sorted({*self._keys, *input_cache._keys})
        return True

    def reset(self) -> bool:
        self._keys = []
        return True


class IBuilderConfig(Owner, Flagged):
    """How an engine is built."""

    def __init__(self, builder: Any) -> None:
        self._logger = builder._logger
        self._profiles: list[IOptimizationProfile] = []
        # TF32 is on unless a program clears it.
        self._flags = 1 << int(self.library.module.BuilderFlag.TF32)
        self._pools: dict[int, int] = {}
        self._timing_cache: ITimingCache | None = None
        self._level = 3
        sources = self.library.module.TacticSource.__members__.values()
        self._tactic_sources = sum(1 << int(source) for source in sources)
        self._monitor: Any = None
        self._compatibility = self.library.module.HardwareCompatibilityLevel.NONE
        self._verbosity = self.library.module.ProfilingVerbosity.LAYER_NAMES_ONLY
        self._aux_streams = 0
        self._profile_stream = 0

    def _has(self, flag: str) -> bool:
        member = self.library.module.BuilderFlag.__members__.get(flag)
        return member is not None and self.get_flag(member)

    def _check_flag(self, flag: object) -> None:
        if not isinstance(flag, self.library.module.BuilderFlag):
            raise TypeError(f"incompatible function arguments; expected BuilderFlag, got {flag!r}")

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        if not isinstance(profile, IOptimizationProfile):
            raise TypeError("add_optimization_profile(): incompatible function arguments")
        if not profile:
            self._log("ERROR", "IBuilderConfig::addOptimizationProfile: the profile is not valid: nothing is set")
            return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
        if not isinstance(pool, self.library.module.MemoryPoolType):
            raise TypeError("set_memory_pool_limit(): incompatible function arguments; expected MemoryPoolType")
        self._pools[int(pool)] = int(pool_size)

    def get_memory_pool_limit(self, pool: Any) -> int:
        return self._pools.get(int(pool), 1 << 34)

    @property
    def builder_optimization_level(self) -> int:
        return self._level

    @builder_optimization_level.setter
    def builder_optimization_level(self, arg1: int) -> None:
        if not 0 <= arg1 <= 5:
            self._log("ERROR", f"builder_optimization_level is {arg1}; it must be 0 to 5")
            return
        self._level = int(arg1)

    def create_timing_cache(self, serialized_timing_cache: Any) -> ITimingCache | None:
        data = as_buffer(serialized_timing_cache, "create_timing_cache()")
        driver = self.library.driver
        cls = self.library.module.ITimingCache
        if not data:
            made: ITimingCache = cls(driver.device_name(0), [])
            return made
        found = unpack_timing_cache(data)
        if found is None:
            self._log("ERROR", "IBuilderConfig::createTimingCache: the timing cache is damaged")
            return None
        version, gpu, keys = found
        if version != self.library.version:
            self._log("WARNING", f"the timing cache is of version {version}, this is {self.library.version}")
            gpu = f"{gpu} in version {version}"
        made = cls(gpu, keys)
        return made

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not isinstance(cache, ITimingCache):
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache._gpu != self.library.driver.device_name(0) and not ignore_mismatch:
            self._log("ERROR", f"IBuilderConfig::setTimingCache: the timing cache was made for {cache._gpu}")
            return False
        self._timing_cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing_cache

    def set_tactic_sources(self, tactic_sources: int) -> bool:
        known = sum(1 << int(source) for source in self.library.module.TacticSource.__members__.values())
        if tactic_sources & ~known:
            self._log("ERROR", f"IBuilderConfig::setTacticSources: {tactic_sources:#b} has unknown sources")
            return False
        self._tactic_sources = int(tactic_sources)
        return True

    def get_tactic_sources(self) -> int:
        return self._tactic_sources

    @property
    def hardware_compatibility_level(self) -> Any:
        return self._compatibility

    @hardware_compatibility_level.setter
    def hardware_compatibility_level(self, value: Any) -> None:
        if not isinstance(value, self.library.module.HardwareCompatibilityLevel):
            raise TypeError("hardware_compatibility_level: incompatible function arguments")
        self._compatibility = value

    profiling_verbosity = stored("_verbosity")

    @property
    def progress_monitor(self) -> Any:
        return self._monitor

    @progress_monitor.setter
    def progress_monitor(self, value: Any) -> None:
        if value is not None:
            checked_overridable(value, self.library.module.IProgressMonitor, "progress_monitor")
        self._monitor = value

    max_aux_streams = stored("_aux_streams", int)
    profile_stream = stored("_profile_stream", int)

    @property
    @versions(since=(10, 16))
    def max_num_tactics(self) -> int:
        return -1
