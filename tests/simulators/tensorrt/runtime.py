"""The simulated runtime and engine."""

from __future__ import annotations

import threading
import weakref
from typing import Any

from tests.simulators.tensorrt import onnx_rules
from tests.simulators.tensorrt.bindings_base import Dims, Flagged, IHostMemory, as_buffer, stored, versions
from tests.simulators.tensorrt.library import Owner, Threaded
from tests.simulators.tensorrt.network import declared_shape
from tests.simulators.tensorrt.plan import Plan, foreign, strip, unpack
from tests.simulators.tensorrt.program import Program


class Runtime(Threaded):
    """Makes engines out of plans; has to live as long as they are used."""

    def __init__(self, logger: Any) -> None:
        super().__init__(logger)
        self._host_code = False

    engine_host_code_allowed = stored("_host_code", bool)

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        data = as_buffer(serialized_engine, "deserialize_cuda_engine()")
        plan = unpack(data)
        driver = self.library.driver
        device = driver.current_device() or 0
        if isinstance(plan, str):
            return self._refuse(plan)
        here = (self.library.version_text, driver.device_name(device), driver.compute_capability(device))
        if (reason := foreign(plan, *here)) is not None:
            return self._refuse(reason)
        lean = "EXCLUDE_LEAN_RUNTIME" in plan.flags
        if "VERSION_COMPATIBLE" in plan.flags and not lean and not self._host_code:
            return self._refuse("the plan has a lean runtime; engine_host_code_allowed is not set")
        made: ICudaEngine = self.library.module.ICudaEngine(self, plan, device)
        return made

    def _refuse(self, reason: str) -> None:
        self._log("ERROR", f"IRuntime::deserializeCudaEngine: Error Code 1: Serialization ({reason})")


class ISerializationConfig(Flagged):
    """What goes into a serialized engine."""

    def __init__(self) -> None:
        self._flags = 0

    # Here the bindings say that it worked; elsewhere they return nothing.
    def set_flag(self, flag: Any) -> bool:
        super().set_flag(flag)
        return True

    def clear_flag(self, flag: Any) -> bool:
        super().clear_flag(flag)
        return True


class ICudaEngine(Owner):
    """An engine; has to live as long as its contexts are used."""

    def __init__(self, runtime: Runtime, plan: Plan, device: int) -> None:
        # The real engine does not keep its runtime alive, and crashes when it is gone.
        self._runtime = weakref.ref(runtime)
        self._logger = runtime._logger
        self._plan = plan
        self._device = device
        self._missing = set(plan.stripped)
        self._program = Program(plan.model)
        graph = plan.model.graph
        self._inputs = {value.name: value for value in onnx_rules.graph_inputs(graph)}
        self._outputs = {value.name: value for value in graph.output}
        self._shape_inputs = onnx_rules.shape_inputs(graph)
        self._data_dependent = onnx_rules.data_dependent(graph) & set(self._outputs)
        # Inputs whose values the network computes with, besides shapes.
        self._lock = threading.Lock()
        self._allocated = 0

    def _alive(self) -> None:
        if self._runtime() is None:
            self.library.violations.fail("an engine is used after its Runtime was destroyed")

    def _value(self, name: str) -> Any:
        self._alive()
        if not isinstance(name, str):
            raise TypeError(f"incompatible function arguments; expected a tensor's name, got {name!r}")
        value = self._inputs.get(name) or self._outputs.get(name)
        if value is None:
            self._log("ERROR", f"ICudaEngine: the engine has no input or output {name!r}")
        return value

    def _data_type(self, name: str) -> str:
        return onnx_rules.data_type_name(self._value(name).type.tensor_type.elem_type) or ""

    @property
    def num_io_tensors(self) -> int:
        self._alive()
        return len(self._inputs) + len(self._outputs)

    def get_tensor_name(self, index: int) -> str:
        names = [*self._inputs, *self._outputs]
        self._alive()
        return names[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self.library.module.TensorIOMode
        if self._value(name) is None:
            return modes.NONE
        return modes.INPUT if name in self._inputs else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        types = self.library.module.DataType
        return types.FLOAT if self._value(name) is None else getattr(types, self._data_type(name))

    def get_tensor_shape(self, name: str) -> Dims:
        value = self._value(name)
        return self.library.module.Dims(() if value is None else declared_shape(value))

    def get_tensor_location(self, name: str) -> Any:
        locations = self.library.module.TensorLocation
        self._value(name)
        return locations.HOST if name in self._shape_inputs else locations.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        self._value(name)
        return name in self._shape_inputs

    @property
    def num_optimization_profiles(self) -> int:
        self._alive()
        # An engine without dynamic inputs has one profile all the same.
        return max(1, len(self._plan.profiles))

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        self._value(name)
        if name not in self._inputs or not 0 <= profile_index < self.num_optimization_profiles:
            self._log("ERROR", f"ICudaEngine::getProfileShape: no profile {profile_index} of input {name!r}")
            return []
        return [self.library.module.Dims(shape) for shape in self._shape_bounds(name, profile_index)]

    def get_tensor_profile_values(self, name: int, profile_index: str) -> list[list[int]]:
        # The real bindings name these two arguments the wrong way round.
        index, tensor = name, profile_index
        self._value(tensor)
        if index >= len(self._plan.values) or tensor not in self._plan.values[index]:
            return []
        return [list(values) for values in self._plan.values[index][tensor]]

    def _shape_bounds(self, name: str, index: int) -> tuple[tuple[int, ...], ...]:
        fixed = declared_shape(self._inputs[name])
        profile = self._plan.profiles[index] if index < len(self._plan.profiles) else {}
        return profile.get(name, (fixed, fixed, fixed))

    def create_execution_context(self, strategy: Any = None) -> Any:
        self._alive()
        strategies = self.library.module.ExecutionContextAllocationStrategy
        if strategy is not None and not isinstance(strategy, strategies):
            raise TypeError("create_execution_context(): incompatible function arguments")
        return self.library.module.IExecutionContext(self)

    @versions(until=(11, 0))
    def create_execution_context_without_device_memory(self) -> Any:
        self.library.violations.fail("contexts without device memory are not simulated")

    def create_serialization_config(self) -> ISerializationConfig:
        made: ISerializationConfig = self.library.module.ISerializationConfig()
        return made

    def serialize(self) -> IHostMemory | None:
        self._alive()
        made: IHostMemory = self.library.module.IHostMemory(self._plan.pack())
        return made

    def serialize_with_config(self, arg0: ISerializationConfig) -> IHostMemory | None:
        self._alive()
        without = arg0.get_flag(self.library.module.SerializationFlag.EXCLUDE_WEIGHTS)
        plan = strip(self._plan) if without else self._plan
        made: IHostMemory = self.library.module.IHostMemory(plan.pack())
        return made

    @property
    def refittable(self) -> bool:
        return self._plan.refittable

    @property
    def name(self) -> str:
        return self._plan.model.graph.name

    @property
    def num_layers(self) -> int:
        return len(self._plan.model.graph.node)

    @property
    def hardware_compatibility_level(self) -> Any:
        return getattr(self.library.module.HardwareCompatibilityLevel, self._plan.compatibility)

    @property
    @versions(until=(11, 0))
    def device_memory_size(self) -> int:
        return 1 << 20

    @property
    @versions(since=(10, 16))
    def device_memory_size_v2(self) -> int:
        return 1 << 20

    def get_tensor_bytes_per_component(self, name: str, profile_index: int = 0) -> int:
        return int(self.get_tensor_dtype(name).itemsize)

    def get_tensor_format_desc(self, name: str, profile_index: int = 0) -> str:
        return f"Row major linear {self._data_type(name)} format (kLINEAR)"
