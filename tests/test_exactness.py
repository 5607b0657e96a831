"""Tests of the rules on what engines compute otherwise than TensorFlow: each op both ways, where it has both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.exactness import inexact_reason
from tf_opt.tensor_info import Shape, TensorInfo

LIMIT = 2**24


def reason(
    op: str,
    inputs: str,
    outputs: str,
    constants: dict[str, Any] | None = None,
    shape: Shape = (4, 8),
    attributes: dict[str, int] | None = None,
    data: str | None = None,
) -> str | None:
    """Asks about a node.

    Args:
        op: Op of the node.
        inputs: Dtypes of its inputs, named "i0", "i1:0", "i2", ... and all of the same shape.
        outputs: Dtypes of its outputs.
        constants: Values by the references of inputs that are constants.
        shape: Shape of every tensor.
        attributes: Int attributes.
        data: The attribute T; by default the dtype of the first input.
    """
    # Both spellings of a reference occur in graphs.
    references = [f"i{i}:0" if i == 1 else f"i{i}" for i in range(len(inputs.split()))]
    node = NodeDef(name="node", op=op, input=[*references, "^before"])
    if data is not None or (op != "Cast" and inputs):
        node.attr["T"].type = tf.as_dtype(data or inputs.split()[0]).as_datatype_enum
    for key, value in (attributes or {}).items():
        node.attr[key].i = value
    known = {name: np.asarray(value) for name, value in (constants or {}).items()}
    return inexact_reason(
        node,
        [
            TensorInfo(name=f"i{i}:0", dtype=dtype, shape=np.shape(known[name]) if name in known else shape)
            for i, (dtype, name) in enumerate(zip(inputs.split(), references, strict=True))
        ],
        [TensorInfo(name=f"node:{i}", dtype=dtype, shape=shape) for i, dtype in enumerate(outputs.split())],
        known.get,
    )


def cast_reason(pair: str) -> str | None:
    """Asks about a Cast, given as "source>target"."""
    source, target = pair.split(">")
    return reason("Cast", source, target)


GATHER = ("GatherV2", "float32 int32 int32", "float32")


@pytest.mark.parametrize(
    ("indices", "axis", "shape", "attributes", "allowed"),
    [
        ([0, 3], 0, (4, 8), {}, True),
        ([7], -1, (4, 8), {}, True),
        ([7], 1, (None, 8), {}, True),
        ([], 0, (4, 8), {}, True),
        ([0, 3], 0, (4, 8), {"batch_dims": 0}, True),
        ([4], 0, (4, 8), {}, False),
        ([-1], 0, (4, 8), {}, False),
        ([0], 0, (None, 8), {}, False),
        ([0], 0, None, {}, False),
        ([0], 2, (4, 8), {}, False),
        ([0], None, (4, 8), {}, False),
        (None, 0, (4, 8), {}, False),
        ([0], 1, (4, 8), {"batch_dims": 1}, False),
    ],
)
def test_gather_needs_constant_indices_that_lie_inside(
    indices: list[int] | None, axis: int | None, shape: Shape, attributes: dict[str, int], allowed: bool
) -> None:
    constants: dict[str, Any] = {}
    if indices is not None:
        constants["i1:0"] = np.asarray(indices, np.int32)
    if axis is not None:
        constants["i2"] = np.int32(axis)
    found = reason(*GATHER, constants, shape, attributes)
    assert found is None if allowed else "raises on an index outside" in str(found)


def test_gather_of_old_gathers_the_first_axis() -> None:
    assert reason("Gather", "float32 int32", "float32", {"i1:0": [3]}) is None
    assert "index outside" in str(reason("Gather", "float32 int32", "float32", {"i1:0": [5]}))
    assert "index outside" in str(reason("Gather", "float32 int32", "float32"))


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("GatherNd", "index outside"),
        ("ResourceGather", "index outside"),
        ("BatchGather", "index outside"),
        ("TensorScatterUpdate", "index outside"),
        ("TensorScatterAdd", "index outside"),
        ("ScatterNd", "overwrites"),
        ("UnsortedSegmentSum", "index outside"),
        ("SegmentMean", "index outside"),
        ("SparseSegmentSqrtN", "index outside"),
        ("SparseSoftmaxCrossEntropyWithLogits", "index outside"),
        ("ReverseSequence", "length beyond"),
        ("FloorMod", "remainder"),
        ("Mod", "remainder"),
        ("TruncateMod", "remainder"),
        ("OneHot", "index of -1"),
        ("TopK", "equal values"),
        ("TopKV2", "equal values"),
        ("Unique", "order"),
        ("UniqueV2", "order"),
        ("UniqueWithCounts", "order"),
        ("Where", "order"),
        ("DynamicStitch", "order"),
        ("DynamicPartition", "order"),
        ("ResizeArea", "pixels"),
        ("ResizeBicubic", "pixels"),
        ("Einsum", "equation"),
        ("Erfc", "tails"),
        ("Erfinv", "tails"),
        ("Ndtri", "tails"),
        ("MatrixDiagV3", "every shape"),
        ("MatrixSetDiagV3", "every shape"),
    ],
)
def test_ops_that_stay_tensorflow_whatever_they_are_given(op: str, expected: str) -> None:
    assert expected in str(reason(op, "float32 float32", "float32"))


@pytest.mark.parametrize(
    "op",
    ["MatMul", "Erf", "FloorDiv", "RealDiv", "Sum", "Maximum", "SelectV2", "ReverseV2", "ResizeBilinear", "Cumsum"],
)
def test_floats_are_left_to_the_engine(op: str) -> None:
    assert reason(op, "float32 float32", "float32") is None


@pytest.mark.parametrize(
    "pair",
    "float32>float16 float64>float32 bfloat16>float32 int32>float32 int64>float16 uint8>float32 bool>int8 bool>float32"
    " int32>int64 int64>int32 uint8>int32 int8>int64 uint8>bool int16>bool bool>bool int32>int32 uint16>uint16".split(),
)
def test_casts_with_one_right_result_are_allowed(pair: str) -> None:
    assert cast_reason(pair) is None


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("float32>int32", "NaN"),
        ("float16>uint8", "NaN"),
        ("float32>bool", "NaN"),
        ("int32>bool", "smallest int32"),
        ("int64>bool", "smallest int32"),
        ("int32>int8", "low bits"),
        ("int64>int16", "low bits"),
        ("int8>uint8", "low bits"),
        ("int32>uint16", "low bits"),
        ("uint32>float32", "32 signed bits"),
        ("int64>uint32", "32 signed bits"),
    ],
)
def test_casts_that_saturate_or_depend_on_the_engine_are_refused(pair: str, expected: str) -> None:
    assert expected in str(cast_reason(pair))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64"])
@pytest.mark.parametrize("op", ["Identity", "Reshape", "Transpose", "Pack", "Tile", "ZerosLike", "Pad", "MirrorPad"])
def test_integers_may_be_moved(op: str, dtype: str) -> None:
    assert reason(op, f"{dtype} int32", dtype) is None


@pytest.mark.parametrize("op", ["Add", "AddV2", "AddN", "Sub", "Mul", "Maximum", "Minimum", "Neg", "Range"])
@pytest.mark.parametrize(("dtype", "allowed"), [("int32", True), ("int64", False), ("int8", False), ("uint16", False)])
def test_arithmetic_is_exact_in_32_bits_only(op: str, dtype: str, allowed: bool) -> None:
    found = reason(op, f"{dtype} {dtype}", dtype)
    assert found is None if allowed else f"{op} on {dtype} is not exact" in str(found)


@pytest.mark.parametrize(
    "op", "Sum Prod Max Min Mean Cumsum FloorDiv TruncateDiv RealDiv Div Pow ReverseV2 MatMul".split()
)
def test_integers_are_refused_where_no_rule_allows_them(op: str) -> None:
    assert "is not exact" in str(reason(op, "int32 int32", "int32"))


@pytest.mark.parametrize("op", ["Select", "SelectV2"])
def test_selections_of_integers_are_refused(op: str) -> None:
    for dtype in ("int32", "int64", "uint8"):
        assert "wrong side" in str(reason(op, f"bool {dtype} {dtype}", dtype, data=dtype))
    for dtype in ("float32", "bool"):
        assert reason(op, f"bool {dtype} {dtype}", dtype, data=dtype) is None


def test_integer_data_counts_though_the_output_is_a_float() -> None:
    assert "is not exact" in str(reason("ApproximateOp", "int32", "float32"))
    assert reason("Sum", "float32 int32", "float32") is None
    assert reason("Split", "int32 float32", "float32 float32", data="float32") is None


def test_unsigned_integers_of_32_bits_are_refused_even_where_they_are_only_moved() -> None:
    assert "32 signed bits" in str(reason("Identity", "uint32", "uint32"))


def test_integer_constants_have_to_fit_32_bits() -> None:
    two = ("ConcatV2", "int64 int64 int32", "int64")
    assert reason(*two, {"i1:0": [2**31 - 1, -(2**31)], "i2": 0}) is None
    assert "beyond 32 bits" in str(reason(*two, {"i1:0": [2**31], "i2": 0}))
    assert "beyond 32 bits" in str(reason(*two, {"i1:0": [-(2**31) - 1], "i2": 0}))
    bounds: dict[str, Any] = {name: [2**40] for name in ("i1:0", "i2", "i3")}
    assert reason("StridedSlice", "float32 int64 int64 int64", "float32", bounds) is None


@pytest.mark.parametrize(("value", "allowed"), [(0, True), (LIMIT - 1, True), (LIMIT, False), (-LIMIT, False)])
def test_padding_goes_through_float32(value: int, allowed: bool) -> None:
    found = reason("PadV2", "int32 int32 int32", "int32", {"i2": np.int32(value)})
    assert found is None if allowed else "round to float32" in str(found)


def test_padding_of_integers_needs_a_known_value() -> None:
    assert "float32" in str(reason("PadV2", "int32 int32 int32", "int32"))
    assert reason("PadV2", "float32 int32 float32", "float32") is None


@pytest.mark.parametrize("op", ["Equal", "NotEqual", "Less", "LessEqual", "Greater", "GreaterEqual"])
def test_comparisons_of_wide_integers_need_a_constant_that_float32_keeps(op: str) -> None:
    for dtype in ("int32", "int64"):
        wide = (op, f"{dtype} {dtype}", "bool")
        assert "beyond 2^24" in str(reason(*wide))
        assert "beyond 2^24" in str(reason(*wide, {"i1:0": np.asarray(LIMIT, dtype)}))
        assert "beyond 2^24" in str(reason(*wide, {"i1:0": np.asarray([0, -LIMIT], dtype)}))
        assert "beyond 2^24" in str(reason(*wide, {"i1:0": np.asarray(-(2**31), dtype)}))
        assert reason(*wide, {"i1:0": np.asarray([1 - LIMIT, LIMIT - 1], dtype)}) is None
        assert reason(*wide, {"i0": np.asarray(0, dtype)}) is None
    for dtype in ("int8", "uint8", "int16", "float32", "bool"):
        assert reason(op, f"{dtype} {dtype}", "bool") is None


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_the_index_of_the_largest_float_is_allowed(op: str) -> None:
    assert reason(op, "float32 int32", "int64", {"i1:0": 0}) is None
    assert "beyond 2^24" in str(reason(op, "int32 int32", "int64", {"i1:0": 0}))


def test_slice_needs_constant_bounds() -> None:
    assert reason("Slice", "float32 int32 int32", "float32", {"i1:0": [0, 0], "i2": [1, -1]}) is None
    assert "begin or size is computed" in str(reason("Slice", "float32 int32 int32", "float32", {"i1:0": [0, 0]}))
    assert "begin or size is computed" in str(reason("Slice", "float32 int32 int32", "float32", {"i2": [1, 1]}))


@pytest.mark.parametrize(
    ("dtype", "shape", "known", "allowed"),
    [
        ("float32", (4, 8), ("i1:0", "i2", "i3"), True),
        ("float32", (4, 8), ("i1:0", "i3"), False),
        ("float32", (4, 8), ("i2", "i3"), False),
        ("float32", (4, 8), ("i1:0", "i2"), False),
        ("int32", (3,), (), True),
        ("int64", (None,), (), True),
        ("int32", (4, 8), (), False),
        ("int32", None, (), False),
        ("float32", (3,), (), False),
    ],
)
def test_strided_slice_needs_constant_bounds_but_on_shape_vectors(
    dtype: str, shape: Shape, known: tuple[str, ...], allowed: bool
) -> None:
    found = reason("StridedSlice", f"{dtype} int32 int32 int32", dtype, {name: [1] for name in known}, shape)
    assert found is None if allowed else "computed" in str(found)


@pytest.mark.parametrize("op", ["Shape", "Size", "Rank"])
def test_shapes_are_exact(op: str) -> None:
    assert reason(op, "float32", "int32") is None
    assert reason(op, "float32", "int64") is None


def test_what_the_narrow_rules_rest_on() -> None:
    """A constant below the limit is on the same side of every int32 after rounding; the limit itself is not."""
    values = np.array([LIMIT - 2, LIMIT - 1, LIMIT, LIMIT + 1, 2**31 - 1, -(2**31), -LIMIT - 1, 1 - LIMIT], np.int32)
    for limit in (LIMIT - 1, 1 - LIMIT, 0):
        rounded = values.astype(np.float32)
        assert np.array_equal(rounded == np.float32(limit), values == limit)
        assert np.array_equal(rounded < np.float32(limit), values < limit)
        assert np.array_equal(rounded > np.float32(limit), values > limit)
    assert np.float32(LIMIT + 1) == np.float32(LIMIT)


def test_reshape_to_nothing_stays() -> None:
    assert reason("Reshape", "float32 int32", "float32", {"i1:0": [0, 8]}) is not None
    assert reason("Reshape", "float32 int32", "float32", {"i1:0": [-1, 8]}) is None
    assert reason("Reshape", "float32 int32", "float32") is None
