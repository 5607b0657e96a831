"""How TensorRT engines are built and run: one frozen dataclass, checked once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

from tf_opt.errors import InvalidOptionError, did_you_mean

ShapeRange: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Smallest shape, the shape that the engine is tuned for, largest shape."""

ProfileStrategy: TypeAlias = Literal["range", "optimal", "range+optimal"]
HardwareCompatibility: TypeAlias = Literal["none", "ampere_plus", "same_compute_capability"]

MAXIMUM_CONTEXTS = 1024
"""Each has memory of its own on the GPU."""

_OF_THE_PLAN = (
    "workspace_bytes",
    "optimization_level",
    "hardware_compatibility",
    "version_compatible",
    "strip_weights",
    "tf32",
    "tactic_sources",
)
"""Settings that change the plan, which is what a stored plan's key depends on."""

_NOT_STORED = ("timing_cache", "profiles", "profile_strategy")
"""Settings that a stored graph does not carry: a path of this machine, and what has become the engine's profiles."""


@dataclass(frozen=True, kw_only=True)
class TensorRTSettings:
    """How TensorRT engines are built and run. Impossible values raise InvalidOptionError when the object is made."""

    profiles: Sequence[Mapping[str, ShapeRange]] = ()
    # Shape ranges by name of the graph's input, one mapping a profile: smallest, tuned for, largest. Empty: the ranges
    # of the feeds. TensorRT tunes each profile for one shape, so shapes that matter equally want one profile each.

    profile_strategy: ProfileStrategy = "range"
    # What becomes of the shapes in the feeds. "range": one profile from the smallest to the largest. "optimal": one for
    # each shape, which is the fastest and takes no other shape. "range+optimal": both, tuned ones first; the plan and
    # the build grow with each.

    workspace_bytes: int | None = None
    # Scratch memory that a kernel may use. None: as much as the GPU has, TensorRT's own default. Fewer bytes rule out
    # fast kernels.

    optimization_level: int = 3
    # 0 (quickest build) to 5 (fastest engine, tries by far the most). 3 is TensorRT's default. Not known to 8.5.

    timing_cache: str | os.PathLike[str] | None = None
    # File that remembers how long kernels took, so that the next build does not measure them again. None: one for each
    # TensorRT version and GPU in the cache folder. Only what tf_opt wrote is read.

    hardware_compatibility: HardwareCompatibility = "none"
    # "ampere_plus": the plan runs on every GPU from Ampere on; "same_compute_capability": on those with the same
    # compute capability (TensorRT 10.9 and later). Both cost speed. "none" is right where each machine may build its
    # own plan. A GPU before Ampere builds its own without the setting, with a warning, as does a TensorRT that lacks it
    # where it loads a stored graph.

    version_compatible: bool = False
    # Whether later TensorRT versions of the same major one may run the plan. It carries a small runtime for that, whose
    # code is executed, and costs speed.

    strip_weights: bool = False
    # Whether stored plans leave the weights out; the graph's own are put in when the engine is loaded. Saves disk, not
    # GPU memory, and makes loading slower. TensorRT 10 and later, one profile only.

    cuda_graphs: bool = True
    # Whether repeated shapes are replayed as a CUDA graph where tensors come from the host. It saves the launches of
    # single kernels. Never used with outputs whose size depends on values, or inputs whose values are a shape.

    maximum_contexts: int = 4
    # How many calls an engine runs at the same time, and for how many shapes it keeps a CUDA graph. Each context has
    # activation memory of its own, made when it is first needed.

    tf32: bool = False
    # Whether float32 products may be computed in TF32, which keeps 10 of 23 mantissa bits. False, against TensorRT's
    # own default, because fp32 has to mean fp32: choose precision="fp16" or "bf16" for speed.

    tactic_sources: Sequence[str] | None = None
    # Libraries that kernels may come from, by the names of tensorrt.TacticSource. None: TensorRT's own default. For
    # installations without cuBLAS or cuDNN, which TensorRT 8 would call.

    def __post_init__(self) -> None:
        for name, allowed in (
            ("profile_strategy", get_args(ProfileStrategy)),
            ("hardware_compatibility", get_args(HardwareCompatibility)),
        ):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise InvalidOptionError(
                    f"{name} is {value!r}; expected one of {', '.join(allowed)}.{did_you_mean(str(value), allowed)}"
                )
        for name in ("version_compatible", "strip_weights", "cuda_graphs", "tf32"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidOptionError(f"{name} is {getattr(self, name)!r}; expected True or False.")
        for name in ("profiles", "tactic_sources"):
            # An iterator could be read once only.
            if isinstance(getattr(self, name), Iterator):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.workspace_bytes is not None:
            self._check_integer("workspace_bytes", 1, 2**63 - 1)
        self._check_integer("optimization_level", 0, 5)
        self._check_integer("maximum_contexts", 1, MAXIMUM_CONTEXTS)
        if self.timing_cache is not None and not isinstance(self.timing_cache, str | os.PathLike):
            raise InvalidOptionError(f"timing_cache is {self.timing_cache!r}; expected a path or None.")
        if self.timing_cache is not None and (not os.fspath(self.timing_cache) or "\0" in os.fspath(self.timing_cache)):
            raise InvalidOptionError(f"timing_cache is {self.timing_cache!r}; expected the path of a file, or None.")
        names = () if self.tactic_sources is None else _items(self.tactic_sources)
        if names is None or not all(isinstance(each, str) for each in names):
            raise InvalidOptionError(
                f"tactic_sources is {self.tactic_sources!r}; expected names such as ['JIT_CONVOLUTIONS'], or None."
            )
        self._check_profiles()
        if self.strip_weights and (len(self.profiles) > 1 or self.profile_strategy != "range"):
            raise InvalidOptionError(
                "strip_weights needs an engine of one shape profile, because TensorRT puts weights into no other. Give "
                "at most one profile with profile_strategy='range', or leave strip_weights off."
            )

    def plan_options(self) -> dict[str, Any]:
        """Returns the settings that change the plan, as plain values: part of the key of a stored plan."""
        return {name: _plain(getattr(self, name)) for name in _OF_THE_PLAN}

    def as_dict(self) -> dict[str, Any]:
        """Returns what a stored engine carries, as plain values; `from_dict` reads it."""
        names = [field.name for field in fields(self) if field.name not in _NOT_STORED]
        return {name: _plain(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> TensorRTSettings:
        """Returns the settings that `as_dict` wrote; names that this version does not know are left out."""
        known = {field.name for field in fields(cls)} - set(_NOT_STORED)
        return cls(**{name: value for name, value in plain.items() if name in known})

    def _check_integer(self, name: str, smallest: int, largest: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, Integral) or not smallest <= int(value) <= largest:
            raise InvalidOptionError(f"{name} is {value!r}; expected an integer from {smallest} to {largest}.")
        # NumPy's integers cannot be written as JSON.
        object.__setattr__(self, name, int(value))

    def _check_profiles(self) -> None:
        profiles = _items(self.profiles)
        if profiles is None or not all(isinstance(profile, Mapping) for profile in profiles):
            raise InvalidOptionError(
                f"profiles is {self.profiles!r}; expected a list with one mapping a profile, from the name of an input "
                "to its smallest, tuned for and largest shape."
            )
        for profile in profiles:
            for name, shapes in profile.items():
                if not isinstance(name, str):
                    raise InvalidOptionError(f"A profile names the input {name!r}; expected the name of an input.")
                if not _is_range(shapes):
                    raise InvalidOptionError(
                        f"The profile of the input {name!r} is {shapes!r}; expected three shapes of equal rank, with "
                        "1 <= smallest <= tuned for <= largest in each dimension."
                    )
                if any(0 in (_items(shape) or ()) for shape in shapes):
                    raise InvalidOptionError(
                        f"The profile of the input {name!r} is {shapes!r}; expected at least 1 in each dimension. "
                        "Inputs without elements run the original TensorFlow nodes, so an engine never gets any."
                    )
        plain = tuple({name: _plain_range(shapes) for name, shapes in profile.items()} for profile in profiles)
        # Whatever they were given as, arrays included: profiles are compared, and stored with an engine.
        object.__setattr__(self, "profiles", plain)


def _is_range(shapes: Any) -> bool:
    three = [_items(shape) for shape in _items(shapes) or ()]
    if len(three) != 3 or None in three or not len(three[0] or ()) == len(three[1] or ()) == len(three[2] or ()):
        return False
    return all(
        all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes)
        and 0 <= sizes[0] <= sizes[1] <= sizes[2]
        for sizes in zip(*(shape or () for shape in three), strict=True)
    )


def _plain_range(shapes: Any) -> ShapeRange:
    smallest, tuned_for, largest = (tuple(int(size) for size in shape) for shape in shapes)
    return smallest, tuned_for, largest


def _items(value: Any) -> tuple[Any, ...] | None:
    """Returns the items of a list, None where it is none."""
    is_list = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
    return tuple(value) if is_list else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
