"""Which nodes an engine would not compute as TensorFlow does: they stay TensorFlow, with a reason for the report.

An engine may be off by a rounding error, never by another meaning: an exception that is not raised, an integer that is
rounded, another element among equals. The rules hold what OpenVINO's CPU plugin and ONNX Runtime, fed by tf2onnx, were
measured to do; integers have a list of what is allowed, since most of what is not on it turned out to be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.dtypes import as_dtype

from tf_opt.tensor_info import TensorInfo

ConstantLookup: TypeAlias = Callable[[str], "np.ndarray[Any, Any] | None"]
"""Gives the value of a small Const by the reference that stands in `node.input`; None for everything else."""

_UNCHECKED_INDICES = "TensorFlow raises on an index outside of the tensor, where an engine would return some value"
_TIES = "among equal values an engine would take another index than TensorFlow"
_LAYOUT = "the conversion to ONNX did not give the values of TensorFlow for every shape"
_ORDER = "the conversion to ONNX does not keep the order and the number of elements for every input"
_MODULO = "an engine would compute another remainder than TensorFlow where the quotient is large or negative"

_REASONS = {
    **dict.fromkeys(
        "ResourceGather ResourceGatherNd GatherNd BatchGather BatchGatherNd GatherTree CropAndResize InTopK InTopKV2"
        " SparseSoftmaxCrossEntropyWithLogits SparseToDense".split(),
        _UNCHECKED_INDICES,
    ),
    "ReverseSequence": "TensorFlow raises on a length beyond the sequence, where an engine would return some value",
    "OneHot": "an engine would take an index of -1 as the last class, which TensorFlow leaves empty",
    **dict.fromkeys(("TopK", "TopKV2"), _TIES),
    **dict.fromkeys(("FloorMod", "Mod", "TruncateMod"), _MODULO),
    **dict.fromkeys(
        "Unique UniqueV2 UniqueWithCounts UniqueWithCountsV2 Where DynamicStitch ParallelDynamicStitch"
        " DynamicPartition".split(),
        _ORDER,
    ),
    **dict.fromkeys(
        ("ResizeArea", "ResizeBicubic"), "an engine would place and weigh the pixels otherwise than TensorFlow"
    ),
    "Einsum": "the conversion to ONNX did not give the values of TensorFlow for every equation",
    **dict.fromkeys(("Erfc", "Erfinv", "Ndtri"), "an engine would lose the accuracy of TensorFlow in the tails"),
}
"""Ops that stay TensorFlow whatever they are given."""

_REASONS_BY_PREFIX = {
    "TensorScatter": _UNCHECKED_INDICES,
    "ScatterNd": "TensorFlow raises on an index outside of the tensor and adds up equal indices; an engine overwrites",
    "MatrixDiag": _LAYOUT,
    "MatrixSetDiag": _LAYOUT,
}

_WIDE_INTEGERS = frozenset(("int32", "int64"))
_NARROW_INTEGERS = frozenset(("int8", "int16", "uint8", "uint16"))
_UNSIGNED_BEYOND_32_BITS = frozenset(("uint32", "uint64"))
_INTEGERS = _WIDE_INTEGERS | _NARROW_INTEGERS | _UNSIGNED_BEYOND_32_BITS
_FLOATS = frozenset(("bfloat16", "float16", "float32", "float64"))

_EXACT_IN_FLOAT32 = 2**24
"""Every integer of a smaller magnitude is exact in float32, and no larger one is rounded to a smaller one than this."""

_MOVING_OPS = frozenset(
    "BroadcastTo Concat ConcatV2 ExpandDims Fill Gather GatherV2 Identity MirrorPad OnesLike Pack Pad PadV2 Rank"
    " Reshape Shape ShapeN Size Slice Split SplitV Squeeze StridedSlice Tile Transpose Unpack ZerosLike".split()
)
"""Ops that move, repeat or make integers without arithmetic. Select and ReverseV2 are missing: OpenVINO
gives wrong integers for both. ReverseV2 rounds them to float32, Select takes them from the wrong side."""

_SELECTIONS = frozenset(("Select", "SelectV2"))

_INT32_OPS = frozenset("Add AddN AddV2 Maximum Minimum Mul Neg Range Sub".split())
"""Ops that an engine computes in 32 bits with TensorFlow's overflow."""

_COMPARISONS = frozenset("Equal Greater GreaterEqual Less LessEqual NotEqual".split())

_INDEX_OF_FLOATS = frozenset(("ArgMax", "ArgMin"))


def inexact_reason(
    node: NodeDef, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo], constant: ConstantLookup
) -> str | None:
    """Returns why an engine would not keep the meaning of a node.

    Args:
        node: A compute node of the (light) graph, with its attributes.
        inputs: Its data inputs, in their order.
        outputs: Its outputs; none may be missing.
        constant: Gives the value of a small Const that feeds an input, by the reference as it stands in `node.input`
            ("axis" or "axis:0"), else None.

    Returns:
        None where the node may enter an engine, else a sentence fragment for the end of a line of the report.
    """
    reason = _reason_of_op(node.op)
    if reason is not None:
        return reason
    references = [reference for reference in node.input if not reference.startswith("^")]
    constants = [constant(reference) for reference in references]
    if node.op == "Cast":
        return _cast(inputs[0].dtype, outputs[0].dtype)
    if node.op in ("Gather", "GatherV2"):
        reason = _gather(node, inputs, constants)
    elif node.op == "Slice":
        reason = _slice(constants)
    elif node.op == "StridedSlice":
        reason = _strided_slice(inputs, constants)
    elif node.op == "Reshape":
        reason = _reshape(constants)
    return reason if reason is not None else _integers(node, inputs, outputs, constants)


def _reason_of_op(op: str) -> str | None:
    """Returns why an op stays TensorFlow whatever it is given."""
    if op in _REASONS:
        return _REASONS[op]
    if "Segment" in op:
        return _UNCHECKED_INDICES
    return next((reason for prefix, reason in _REASONS_BY_PREFIX.items() if op.startswith(prefix)), None)


def _cast(source: str, target: str) -> str | None:
    """Allows the casts of which each value has one right result that engines give."""
    if source == target or source == "bool" or (source in _FLOATS and target in _FLOATS):
        return None
    change = f"a cast from {source} to {target}"
    if source in _FLOATS:
        return f"{change} gives other values than TensorFlow for NaN and for what does not fit"
    if source in _UNSIGNED_BEYOND_32_BITS or target in _UNSIGNED_BEYOND_32_BITS:
        return f"{change} is done in 32 signed bits by an engine"
    if target == "bool":
        # Measured on OpenVINO: the smallest int32 becomes False.
        return f"{change} takes the smallest int32 for False" if source in _WIDE_INTEGERS else None
    if target in _FLOATS or {source, target} == _WIDE_INTEGERS or np.can_cast(np.dtype(source), np.dtype(target)):
        return None  # int64 to int32 loses nothing: what does not fit 32 bits never gets into an engine.
    return f"{change} saturates in an engine, where TensorFlow keeps the low bits"


def _gather(
    node: NodeDef, inputs: Sequence[TensorInfo], constants: Sequence[np.ndarray[Any, Any] | None]
) -> str | None:
    """Allows indices that are known to lie inside: nothing is left for TensorFlow to raise on."""
    shape, indices = inputs[0].shape, constants[1]
    axis_value = constants[2] if len(constants) > 2 else np.zeros((), np.int32)
    batched = "batch_dims" in node.attr and node.attr["batch_dims"].i != 0
    if shape is None or indices is None or axis_value is None or axis_value.size != 1 or batched:
        return _UNCHECKED_INDICES
    axis = int(axis_value.item())
    if not -len(shape) <= axis < len(shape):
        return _UNCHECKED_INDICES
    size = shape[axis]
    if size is None or np.any(indices < 0) or np.any(indices >= size):
        return _UNCHECKED_INDICES
    return None


def _slice(constants: Sequence[np.ndarray[Any, Any] | None]) -> str | None:
    """Allows fixed bounds. TensorFlow raises on bounds outside of the tensor, engines cut them to fit."""
    if any(value is None for value in constants[1:3]):
        return "its begin or size is computed, and TensorFlow raises where they do not fit, which no engine does"
    return None


def _strided_slice(inputs: Sequence[TensorInfo], constants: Sequence[np.ndarray[Any, Any] | None]) -> str | None:
    """Allows fixed bounds, and any bounds on a shape vector, whose elements models pick by computed positions."""
    data = inputs[0]
    is_shape_vector = data.dtype in _WIDE_INTEGERS and data.shape is not None and len(data.shape) == 1
    if any(value is None for value in constants[1:4]) and not is_shape_vector:
        return "its begin, end or strides are computed, which an engine does not check as TensorFlow does"
    return None


def _reshape(constants: Sequence[np.ndarray[Any, Any] | None]) -> str | None:
    """Refuses sizes of zero, which ONNX takes for "as before"."""
    if constants[1] is not None and not constants[1].all():
        return "its result has no elements, which the conversion to ONNX does not keep"
    return None


def _integers(
    node: NodeDef,
    inputs: Sequence[TensorInfo],
    outputs: Sequence[TensorInfo],
    constants: Sequence[np.ndarray[Any, Any] | None],
) -> str | None:
    """Refuses integer data but for what was measured to be exact. Integers that are parameters (axes, shapes) pass."""
    data = _data_dtype(node)
    dtypes = {tensor.dtype for tensor in outputs} | ({data} if data is not None else set())
    integers = sorted(dtypes & _INTEGERS)
    if not integers:
        return None
    listed = " and ".join(integers)
    if not _UNSIGNED_BEYOND_32_BITS.isdisjoint(integers):
        return f"{node.op} is on {listed}, which an engine would hold in 32 signed bits"
    if any(value is not None and not _fits_int32(value) for value in constants):
        return f"{node.op} has a constant beyond 32 bits, in which an engine holds {listed}"
    if node.op in _MOVING_OPS:
        if node.op == "PadV2" and not _is_exact_in_float32(constants[2]):
            return "it pads with an integer that an engine would round to float32"
        return None
    if node.op in _SELECTIONS:
        return f"an engine may select {listed} from the wrong side of {node.op}"
    if node.op in _INDEX_OF_FLOATS:
        if data in _INTEGERS or data is None:
            return f"{node.op} of {listed} would be computed in float32, which rounds beyond 2^24"
        return None
    if node.op in _COMPARISONS:
        # Rounding keeps the order, so that a small constant is on the same side of every integer, rounded or not.
        if _NARROW_INTEGERS.issuperset(integers) or any(_is_exact_in_float32(value) for value in constants):
            return None
        return f"{node.op} would compare {listed} in float32, which takes integers beyond 2^24 for equal"
    if node.op in _INT32_OPS and integers == ["int32"]:
        return None
    return f"{node.op} on {listed} is not exact in an engine, which rounds to float32, saturates or has 32 bits only"


def _data_dtype(node: NodeDef) -> str | None:
    """Returns the type of what the node computes with, which every op with arithmetic calls T."""
    return str(as_dtype(node.attr["T"].type).name) if "T" in node.attr and node.attr["T"].type else None


def _fits_int32(value: np.ndarray[Any, Any]) -> bool:
    """True unless the array holds an integer beyond int32."""
    if value.dtype.kind not in "iu" or value.size == 0:
        return True
    limits = np.iinfo(np.int32)
    return bool(int(value.min()) >= limits.min and int(value.max()) <= limits.max)


def _is_exact_in_float32(value: np.ndarray[Any, Any] | None) -> bool:
    """True for a known integer array that float32 keeps; the limit itself is what the next integer is rounded to."""
    if value is None or value.dtype.kind not in "iu":
        return False
    # Both ends, since the magnitude of the smallest integer does not fit its own type.
    return value.size == 0 or (int(value.max()) < _EXACT_IN_FLOAT32 and int(value.min()) > -_EXACT_IN_FLOAT32)
