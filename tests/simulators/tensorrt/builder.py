"""The simulated builder: checks what the real one checks before it measures anything, and packs a plan."""

from __future__ import annotations

import hashlib
from typing import Any

import onnx

from tests.simulators.tensorrt import onnx_rules
from tests.simulators.tensorrt.bindings_base import IHostMemory, versions
from tests.simulators.tensorrt.config import IBuilderConfig, IOptimizationProfile
from tests.simulators.tensorrt.library import Threaded
from tests.simulators.tensorrt.network import INetworkDefinition, declared_shape
from tests.simulators.tensorrt.plan import Plan, strip
from tests.simulators.tensorrt.program import Program
from tests.simulators.tensorrt.strong_typing import mixed_types

_PHASES = (("Building Engine", None, 2), ("Tactic Selection", "Building Engine", 3))


class Builder(Threaded):
    """Builds serialized engines."""

    @property
    @versions(until=(11, 0))
    def platform_has_fast_fp16(self) -> bool:
        return self.library.driver.compute_capability(0) >= (7, 0)

    @property
    @versions(until=(11, 0))
    def platform_has_fast_int8(self) -> bool:
        return self.library.driver.compute_capability(0) >= (6, 1)

    @property
    @versions(until=(11, 0))
    def platform_has_tf32(self) -> bool:
        return self.library.driver.compute_capability(0) >= (8, 0)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        known = self.library.module.NetworkDefinitionCreationFlag.__members__.values()
        if int(flags) & ~sum(1 << int(flag) for flag in known):
            # The real builder answers with a null pointer.
            self._log("ERROR", f"IBuilder::createNetworkV2: unknown flags {int(flags):#b}")
            raise TypeError("pybind11: a null pointer for INetworkDefinition")
        made: INetworkDefinition = self.library.module.INetworkDefinition(self, int(flags))
        return made

    def create_builder_config(self) -> IBuilderConfig:
        made: IBuilderConfig = self.library.module.IBuilderConfig(self)
        return made

    def create_optimization_profile(self) -> IOptimizationProfile:
        made: IOptimizationProfile = self.library.module.IOptimizationProfile()
        return made

    def is_network_supported(self, network: INetworkDefinition, config: IBuilderConfig) -> bool:
        return self._fault(network, config) is None

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        if not isinstance(network, INetworkDefinition) or not isinstance(config, IBuilderConfig):
            raise TypeError("build_serialized_network(): incompatible function arguments")
        if (fault := self._fault(network, config)) is not None:
            self._log("ERROR", f"IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error ({fault})")
            return None
        model = self._network_model(network)
        if not self._report_progress(config._monitor):
            self._log("ERROR", "IBuilder::buildSerializedNetwork: the build was cancelled by the progress monitor")
            return None
        plan = self._plan(model, config)
        try:
            Program(plan.model)._ready_session()
        except Exception as error:
            self._log("ERROR", f"IBuilder::buildSerializedNetwork: Error Code 10: no implementation: {error}")
            return None
        self._fill_timing_cache(model, config)
        self.library.builds += 1
        if config._has("STRIP_PLAN"):
            plan = strip(plan)
        made: IHostMemory = self.library.module.IHostMemory(plan.pack())
        return made

    def _network_model(self, network: INetworkDefinition) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(network._model)
        del model.graph.output[:]
        model.graph.output.extend(network._outputs)
        return model

    def _plan(self, model: onnx.ModelProto, config: IBuilderConfig) -> Plan:
        driver = self.library.driver
        device = driver.current_device() or 0
        names = self.library.module.BuilderFlag.__members__
        return Plan(
            version=self.library.version_text,
            gpu=driver.device_name(device),
            compute_capability=driver.compute_capability(device),
            compatibility=config._compatibility.name,
            flags=tuple(sorted(name for name in names if config._has(name))),
            profiles=tuple(profile._shapes for profile in config._profiles),
            values=tuple(profile._values for profile in config._profiles),
            model=model,
        )

    def _fill_timing_cache(self, model: onnx.ModelProto, config: IBuilderConfig) -> None:
        if config._has("DISABLE_TIMING_CACHE"):
            return
        if config._timing_cache is None:
            config._timing_cache = config.create_timing_cache(b"")
        assert config._timing_cache is not None
        operators = " ".join(node.op_type for node in model.graph.node)
        key = hashlib.sha256(operators.encode()).hexdigest()[:16]
        config._timing_cache._keys = sorted({*config._timing_cache._keys, key})

    def _report_progress(self, monitor: Any) -> bool:
        """Tells a monitor of nested phases; returns whether it lets the build go on."""
        if monitor is None:
            return True
        going = True
        for name, parent, steps in _PHASES:
            monitor.phase_start(name, parent, steps)
        for name, _, steps in reversed(_PHASES):
            for step in range(steps):
                going = going and bool(monitor.step_complete(name, step))
            monitor.phase_finish(name)
        return going

    def _fault(self, network: INetworkDefinition, config: IBuilderConfig) -> str | None:
        """Returns why no engine can be built, None where one can."""
        if network._failed or network._model is None:
            return "the network is empty, or its model could not be parsed"
        if not network._outputs:
            return "the network has no outputs"
        refittable = any(config._has(flag) for flag in ("REFIT", "REFIT_IDENTICAL", "REFIT_INDIVIDUAL", "STRIP_PLAN"))
        if refittable and len(config._profiles) > 1:
            return f"a refittable engine has at most one optimization profile, not {len(config._profiles)}"
        if network._strongly_typed:
            weak = [name for name in ("FP16", "BF16", "INT8", "FP8", "INT4") if config._has(name)]
            if weak:
                return f"a strongly typed network does not allow the builder flag {weak[0]}"
            if (mixed := mixed_types(network._model)) is not None:
                return f"node {mixed.name!r}: {mixed.sentence}"
        return self._profile_fault(network, config)

    def _profile_fault(self, network: INetworkDefinition, config: IBuilderConfig) -> str | None:
        assert network._model is not None
        shape_inputs = onnx_rules.shape_inputs(network._model.graph)
        shapes = {value.name: declared_shape(value) for value in network._inputs()}
        for name in sorted(shape_inputs):
            if len(shapes[name]) > 1 or -1 in shapes[name]:
                return f"input {name!r} decides about shapes; it must have at most one dimension, of known size"
            if shapes[name] and shapes[name][0] > 64:
                return f"shape input {name!r} has {shapes[name][0]} elements; 64 are the most"
        dynamic = {name for name, shape in shapes.items() if -1 in shape}
        if (dynamic or shape_inputs) and not config._profiles:
            return f"input {sorted(dynamic | shape_inputs)[0]!r} needs an optimization profile; none is defined"
        for index, profile in enumerate(config._profiles):
            for name in sorted(dynamic - set(profile._shapes)):
                return f"optimization profile {index} has no shapes for the dynamic input {name!r}"
            for name in sorted(shape_inputs - set(profile._values)):
                return f"optimization profile {index} has no values for the shape input {name!r}"
            for name, bounds in (*profile._shapes.items(), *profile._values.items()):
                if name not in shapes:
                    return f"optimization profile {index} names {name!r}, which is no input of the network"
                declared = shapes[name]
                if name in profile._values and len(bounds[0]) != (declared[0] if declared else 1):
                    return f"optimization profile {index} has {len(bounds[0])} values for {name!r} of shape {declared}"
            for name, bounds in profile._shapes.items():
                declared = shapes[name]
                for shape in bounds:
                    fits = len(shape) == len(declared)
                    if not fits or any(want not in (-1, have) for want, have in zip(declared, shape, strict=True)):
                        return f"optimization profile {index}: {shape} does not fit {name!r} of shape {declared}"
        return None
