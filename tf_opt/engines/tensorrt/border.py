"""The inputs and outputs of a loaded engine, as it describes them itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt.data_types import check_output_border, dtype_of, numpy_dtype
from tf_opt.engines.tensorrt.profiles import ProfileTable
from tf_opt.errors import EngineRunError

if TYPE_CHECKING:
    import tensorrt as trt

INPUT_PREFIX, OUTPUT_PREFIX = "input_", "output_"


@dataclass(frozen=True, kw_only=True)
class BorderTensor:
    """One input or output.

    Attributes:
        name: `input_<i>` or `output_<i>`.
        index: The i of it, which is its place among the op's inputs or outputs.
        dtype: The engine's own type: TensorRT may have changed the model's.
        on_host: Whether TensorRT reads it from host memory: an input whose values are a shape.
        tensorflow_dtype: What TensorFlow feeds or expects.
    """

    name: str
    index: int
    dtype: np.dtype[Any]
    on_host: bool
    tensorflow_dtype: np.dtype[Any]


@dataclass(frozen=True, kw_only=True)
class Border:
    """All of them.

    Attributes:
        inputs: In the engine's order.
        outputs: In the order of their indices.
        profiles: Which shapes the engine takes.
    """

    inputs: tuple[BorderTensor, ...]
    outputs: tuple[BorderTensor, ...]
    profiles: ProfileTable

    @property
    def has_tensorflow_types(self) -> bool:
        """Whether TensorFlow's memory can be handed over as it is."""
        return all(tensor.dtype == tensor.tensorflow_dtype for tensor in (*self.inputs, *self.outputs))

    @property
    def host_inputs(self) -> tuple[str, ...]:
        """Names of the inputs whose values are a shape, which TensorRT reads on the host."""
        return tuple(tensor.name for tensor in self.inputs if tensor.on_host)


def describe_border(
    engine: trt.ICudaEngine,
    input_dtypes: Sequence[str],
    output_dtypes: Sequence[str],
    ranges: Sequence[ShapeProfile],
) -> Border:
    """Asks an engine for its inputs and outputs.

    Args:
        engine: The engine.
        input_dtypes: TensorFlow's names of the types of the op's inputs.
        output_dtypes: The same of its outputs.
        ranges: The profiles that it was built with, for the values of inputs that hold a shape.

    Raises:
        EngineRunError: The engine is not one for these outputs.
    """
    import tensorrt as trt

    inputs: list[BorderTensor] = []
    outputs: list[BorderTensor] = []
    for number in range(engine.num_io_tensors):
        name = engine.get_tensor_name(number)
        dtype = dtype_of(engine.get_tensor_dtype(name))
        on_host = engine.get_tensor_location(name) == trt.TensorLocation.HOST
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        index = int(name.removeprefix(INPUT_PREFIX if is_input else OUTPUT_PREFIX))
        wanted = numpy_dtype((input_dtypes if is_input else output_dtypes)[index])
        if not is_input:
            check_output_border(name, dtype, wanted)
        tensor = BorderTensor(name=name, index=index, dtype=dtype, on_host=on_host, tensorflow_dtype=wanted)
        (inputs if is_input else outputs).append(tensor)
    outputs.sort(key=lambda tensor: tensor.index)
    if [tensor.index for tensor in outputs] != list(range(len(output_dtypes))):
        names = [tensor.name for tensor in outputs]
        raise EngineRunError(f"The engine has the outputs {names}; expected {len(output_dtypes)}.")
    return Border(inputs=tuple(inputs), outputs=tuple(outputs), profiles=_profile_table(engine, inputs, ranges))


def _profile_table(
    engine: trt.ICudaEngine, inputs: Sequence[BorderTensor], ranges: Sequence[ShapeProfile]
) -> ProfileTable:
    shapes, values = [], []
    for profile in range(engine.num_optimization_profiles):
        of_profile: dict[str, Any] = {}
        for tensor in inputs:
            smallest, _, largest = map(tuple, engine.get_tensor_profile_shape(tensor.name, profile))
            of_profile[tensor.name] = (smallest, largest)
        shapes.append(of_profile)
        # From what it was built with: each version has other ways to ask the engine for these.
        known: Mapping[str, Any] = ranges[profile].values if profile < len(ranges) else {}
        values.append({name: (tuple(given[0]), tuple(given[2])) for name, given in known.items()})
    return ProfileTable(shapes=tuple(shapes), values=tuple(values))
