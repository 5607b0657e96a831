"""What every engine backend offers: whether it can run here, what it takes, and how it builds an engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

import tf_opt
from tf_opt.engines.blob import EngineBlob
from tf_opt.errors import EngineBuildError
from tf_opt.onnx_target import OnnxTarget
from tf_opt.tensor_info import TensorInfo

FloatingType: TypeAlias = Literal["fp32", "fp16", "bf16"]


@dataclass(frozen=True, kw_only=True)
class ShapeProfile:
    """The range of shapes that an engine serves, per input of a segment.

    Attributes:
        minimum: Smallest shape per input name.
        optimum: The shape that the engine is tuned for, per input name.
        maximum: Largest shape per input name.
        values: For small integer inputs, which may hold a shape: the smallest, the tuned for and the largest value of
            each element, flattened.
    """

    minimum: Mapping[str, tuple[int, ...]]
    optimum: Mapping[str, tuple[int, ...]]
    maximum: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not set(self.minimum) == set(self.optimum) == set(self.maximum):
            raise EngineBuildError("A shape profile names different inputs in its minimum, optimum and maximum.")
        for name, smallest in self.minimum.items():
            middle, largest = self.optimum[name], self.maximum[name]
            ranks_agree = len(smallest) == len(middle) == len(largest)
            if not ranks_agree or any(
                not 0 <= low <= mid <= high for low, mid, high in zip(smallest, middle, largest, strict=True)
            ):
                raise EngineBuildError(
                    f"The shape profile of {name!r} is inconsistent: minimum {smallest}, optimum {middle}, maximum "
                    f"{largest}; expected equal ranks and 0 <= minimum <= optimum <= maximum in each dimension."
                )


@dataclass(frozen=True, kw_only=True)
class SegmentModel:
    """A segment on its way to a backend.

    Attributes:
        name: The segment's name; the engine node gets it too.
        model: Serialized ONNX model without weights: graph inputs `input_<i>` then `weight_<i>`, outputs `output_<i>`.
        inputs: What is fed at each run, in the order of `input_<i>`.
        outputs: What comes out, in the order of `output_<i>`.
        weights: The constants, in the order of `weight_<i>`.
        weight_array: Returns the values of the i-th weight, as a read-only copy.
        sixteen_bit: What the engine may compute in besides the types that the model states: "fp16", "bf16", or "fp32"
            for nothing else. Engines that take a model's types literally have no use for it.
    """

    name: str
    model: bytes
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[TensorInfo, ...] = ()
    weight_array: Callable[[int], np.ndarray[Any, Any]] = field(repr=False)
    sixteen_bit: FloatingType = "fp32"


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A built engine.

    Attributes:
        runtime: Name under which the op finds the runtime that runs it.
        blob: What the engine node stores (see `tf_opt.engines.blob`).
        library: Package and version that built it, such as "openvino 2026.4.1".
        build_seconds: Wall time of the build.
        log: What the backend said while it built.
        device: Where TensorFlow should place the engine node; empty for wherever it likes.
    """

    runtime: str
    blob: bytes = field(repr=False)
    library: str
    build_seconds: float
    log: str = ""
    device: str = ""


CPU_DEVICE = "/device:CPU:0"
"""The device of nodes whose engine runs on the CPU: TensorFlow would place them on a GPU, and copy to and fro."""

_INFERENCE_PRECISION = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
"""OpenVINO's names of the types."""


class EngineBackend(ABC):
    """Builds engines of one kind. One instance serves any number of segments."""

    name: ClassVar[str]
    """The value of `Tf2TrtOpt(engine=...)` that selects this backend."""
    package: ClassVar[str]
    """The Python package that it needs."""
    install_command: ClassVar[str]
    """The command that installs the package."""
    wants_profiles: ClassVar[bool] = False
    """Whether its engines serve ranges of shapes that have to be known when they are built."""

    @property
    @abstractmethod
    def onnx_target(self) -> OnnxTarget:
        """The operator set and the fused forms that it wants models in."""

    @property
    def identity(self) -> str:
        """Tells backends apart whose engines or their speed differ: the name, with the device or library in use."""
        return self.name

    @abstractmethod
    def unavailable_reason(self) -> str | None:
        """Returns why this backend cannot run on this machine, or None where it can. Imports nothing heavy."""

    @abstractmethod
    def refusal(self, op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> str | None:
        """Returns why this backend does not take a TensorFlow node, or None where it does.

        Args:
            op: The node's op.
            inputs: Its data inputs.
            outputs: Its outputs.
        """

    @abstractmethod
    def precision_refusal(self, precision: str) -> str | None:
        """Returns why this device has no hardware for a precision, or None where it has.

        Args:
            precision: "fp16", "bf16" or "int8".
        """

    @abstractmethod
    def build(self, segment: SegmentModel, profiles: Sequence[ShapeProfile] = ()) -> Engine:
        """Builds an engine, or raises with the backend's whole reason.

        Args:
            segment: The exported segment.
            profiles: Shape ranges seen in the feeds; a backend whose engines take any shape ignores them.

        Raises:
            EngineBuildError: The backend refuses the model.
        """


def pack_segment(segment: SegmentModel, runtime: str, library_version: str) -> bytes:
    """Returns what an engine node stores of a segment whose runtime reads ONNX without weights.

    Args:
        segment: The exported segment.
        runtime: Name of the runtime that reads it.
        library_version: Version of the library that accepted it.
    """
    header = {
        "runtime": runtime,
        "tf_opt_version": tf_opt.__version__,
        "library_version": library_version,
        "inputs": [str(tensor) for tensor in segment.inputs],
        "outputs": [str(tensor) for tensor in segment.outputs],
        "inference_precision": _INFERENCE_PRECISION[segment.sixteen_bit],
    }
    return EngineBlob(header=header, payload=segment.model).pack()
