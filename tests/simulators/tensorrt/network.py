"""The simulated network: what the parser read, and the tensors at its border."""

from __future__ import annotations

from typing import Any

import onnx

from tests.simulators.tensorrt import onnx_rules
from tests.simulators.tensorrt.bindings_base import Bound, Dims
from tests.simulators.tensorrt.library import Owner


class ITensor(Bound):
    """An input or output of a network."""

    def __init__(self, network: Any, value: onnx.ValueInfoProto, *, is_input: bool) -> None:
        self._network = network
        self._value = value
        self._is_input = is_input

    @property
    def name(self) -> str:
        return self._value.name

    @property
    def dtype(self) -> Any:
        name = onnx_rules.data_type_name(self._value.type.tensor_type.elem_type)
        return getattr(self.library.module.DataType, name or "")

    @property
    def shape(self) -> Dims:
        return self.library.module.Dims(declared_shape(self._value))

    @property
    def is_shape_tensor(self) -> bool:
        return self._is_input and self.name in onnx_rules.shape_inputs(self._network._model.graph)

    @property
    def is_execution_tensor(self) -> bool:
        return not self.is_shape_tensor

    @property
    def is_network_input(self) -> bool:
        return self._is_input

    @property
    def is_network_output(self) -> bool:
        return not self._is_input


class INetworkDefinition(Owner):
    """A network that an OnnxParser fills."""

    def __init__(self, builder: Any, flags: int) -> None:
        self._builder = builder
        self._logger = builder._logger
        self._flags = flags
        self._model: onnx.ModelProto | None = None
        self._failed = False
        self._outputs: list[onnx.ValueInfoProto] = []

    @property
    def _strongly_typed(self) -> bool:
        flag = self.library.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return bool(self.library.major >= 11 or self._flags >> int(flag) & 1)

    def _take(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._outputs = list(model.graph.output)

    def _inputs(self) -> list[onnx.ValueInfoProto]:
        return [] if self._model is None else onnx_rules.graph_inputs(self._model.graph)

    @property
    def name(self) -> str:
        return "" if self._model is None else self._model.graph.name

    @property
    def flags(self) -> int:
        return self._flags

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    @property
    def num_inputs(self) -> int:
        return len(self._inputs())

    @property
    def num_outputs(self) -> int:
        return len(self._outputs)

    @property
    def num_layers(self) -> int:
        return 0 if self._model is None else len(self._model.graph.node)

    def get_input(self, index: int) -> ITensor | None:
        return self._tensor(self._inputs(), index, is_input=True)

    def get_output(self, index: int) -> ITensor | None:
        return self._tensor(self._outputs, index, is_input=False)

    def unmark_output(self, tensor: ITensor) -> None:
        self._outputs = [value for value in self._outputs if value.name != tensor.name]

    def _tensor(self, values: list[onnx.ValueInfoProto], index: int, *, is_input: bool) -> ITensor | None:
        if not 0 <= index < len(values):
            return None
        made: ITensor = self.library.module.ITensor(self, values[index], is_input=is_input)
        return made


def declared_shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Returns the declared shape, -1 for a dimension that is not known."""
    return tuple(
        dimension.dim_value if dimension.HasField("dim_value") else -1 for dimension in value.type.tensor_type.shape.dim
    )
