from __future__ import annotations

import numpy as np
import pytest

from tests.passes.onnx.pass_checks import apply_pass, model_of, only, ops
from tf_opt.passes.onnx.fold_shapes import FoldShapes
from tf_opt.passes.onnx.segment_weights import KNOWN_SHAPE, KNOWN_VECTOR
from tf_opt.passes.tf.symbolic_dims import symbol


def model(body, outputs, inputs="float[B, S, 8] x", **constants):
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", **{k: np.asarray(v) for k, v in constants.items()})


def target(result):
    return only(result, "Reshape").inputs[1].const_value.numpy().tolist()


BATCH = "s = Shape(x)  b = Slice(s, zero, one, zero)  "
SPLIT = BATCH + "t = Concat <axis=0> (b, rest)  y = Reshape(x, t)"
SPLIT_CONSTANTS = {"zero": [0], "one": [1], "rest": [-1, 2, 4]}


def test_batch_and_sequence_are_taken_from_the_input():
    result = apply_pass(FoldShapes(), model(SPLIT, "float[B, S, 2, 4] y", **SPLIT_CONSTANTS), changes=1)
    assert ops(result) == {"Reshape": 1}
    assert target(result) == [0, 0, 2, 4]


def test_through_gather_cast_and_unsqueeze():
    body = "s = Shape(x)  i = Cast <to=6> (s)  b = Gather(i, zero)  u = Unsqueeze(b, axes)"
    body += "  t = Concat <axis=0> (u, rest)  l = Cast <to=7> (t)  y = Reshape(x, l)"
    constants = {"zero": np.int64(0), "axes": [0], "rest": np.array([-1, 2, 4], np.int32)}
    result = apply_pass(FoldShapes(), model(body, "float[B, S, 2, 4] y", **constants), changes=1)
    assert target(result) == [0, 0, 2, 4]


def test_dimensions_of_an_earlier_tensor():
    """Products and sums keep the dimensions of the tensor whose shape is read, and broadcasting is followed."""
    body = "e = Add(x, p)  s = Shape(e)  m = MatMul(e, w)  r = Add(m, e)  h = Slice(s, zero, two, zero)"
    body += "  t = Concat <axis=0> (h, rest)  y = Reshape(r, t)"
    inputs = "float[B, S, 8] x, float[1, S, 8] p"
    constants = {"w": np.eye(8, dtype=np.float32), "zero": [0], "two": [2], "rest": [2, 4]}
    result = apply_pass(FoldShapes(), model(body, "float[B, S, 2, 4] y", inputs, **constants), changes=1)
    assert target(result) == [0, 0, 2, 4]
    assert ops(result)["Shape"] == 0


def test_empty_tensors_give_empty_tensors():
    body = "s = Shape <start=0, end=2> (x)  t = Concat <axis=0> (s, rest)  y = Reshape(x, t)"
    feeds = [{"x": np.zeros((0, 3, 8), np.float32)}, {"x": np.zeros((2, 0, 8), np.float32)}]
    apply_pass(FoldShapes(), model(body, "float[B, S, 2, 4] y", rest=[2, 4]), changes=1, feeds=feeds)


def test_an_unknown_product_is_left_to_reshape_only_where_it_is_exact_for_empty_tensors():
    flat = "s = Shape(x)  h = Slice(s, zero, two, zero)  p = ReduceProd <keepdims=1> (h)"
    flat += "  t = Concat <axis=0> (p, eight)  y = Reshape(x, t)"
    result = apply_pass(FoldShapes(), model(flat, "float[N, 8] y", zero=[0], two=[2], eight=[8]), changes=1)
    assert target(result) == [-1, 8]
    joined = "s = Shape(x)  b = Gather(s, zero)  c = Gather(s, one)  p = Mul(c, eight)"
    joined += "  t = Concat <axis=0> (b, p)  y = Reshape(x, t)"
    feeds = [{"x": np.ones(shape, np.float32)} for shape in ((2, 3, 8), (0, 3, 8), (2, 0, 8))]
    apply_pass(FoldShapes(), model(joined, "float[B, N] y", zero=[0], one=[1], eight=[8]), changes=0, feeds=feeds)


def test_a_reshape_to_the_same_shape_goes_unless_it_is_an_output():
    body = "s = Shape(x)  r = Reshape(x, s)  y = Relu(r)"
    assert ops(apply_pass(FoldShapes(), model(body, "float[B, S, 8] y"), changes=1)) == {"Relu": 1}
    body = "s = Shape(x)  y = Reshape(x, s)"
    result = apply_pass(FoldShapes(), model(body, "float[B, S, 8] y"), changes=1)
    assert target(result) == [0, 0, 8]


def test_an_expand_to_the_same_shape_goes():
    body = "s = Shape(x)  r = Expand(x, s)  y = Relu(r)"
    assert ops(apply_pass(FoldShapes(), model(body, "float[B, S, 8] y"), changes=1)) == {"Relu": 1}
    wider = "s = Shape(p)  r = Expand(x, s)  y = Relu(r)"
    inputs = "float[1, S, 8] x, float[B, S, 8] p"
    apply_pass(FoldShapes(), model(wider, "float[B, S, 8] y", inputs), changes=0)


def test_reshapes_behind_each_other():
    body = "r = Reshape(x, flat)  q = Relu(x)  y = Reshape(r, split)"
    outputs = "float[B, S, 2, 4] y, float[B, S, 8] q"
    constants = {"flat": [0, -1], "split": [0, -1, 2, 4]}
    result = apply_pass(FoldShapes(), model(body, outputs, **constants), changes=1)
    assert ops(result) == {"Reshape": 1, "Relu": 1}
    assert target(result) == [0, 0, 2, 4]


def test_a_shared_inner_reshape_and_one_that_is_an_output_stay():
    body = "r = Reshape(x, flat)  y = Reshape(r, split)  z = Relu(r)"
    constants = {"flat": [-1, 8], "split": [-1, 2, 4]}
    for text, outputs in ((body, "float[N, 2, 4] y, float[N, 8] z"), (body, "float[N, 2, 4] y, float[N, 8] r")):
        result = apply_pass(FoldShapes(), model(text, outputs, **constants), changes=1)
        assert ops(result)["Reshape"] == 2  # The second one reads x.


def test_what_cannot_be_read_stays():
    body = "t = Concat <axis=0> (n, rest)  y = Reshape(x, t)"
    inputs = "float[B, S, 8] x, int64[1] n"
    feeds = [{"x": np.ones((2, 3, 8), np.float32), "n": np.array([3])}]
    apply_pass(FoldShapes(), model(body, "float[A, B, C] y", inputs, rest=[-1, 8]), changes=0, feeds=feeds)


def test_dimensions_of_different_inputs_are_different():
    body = "s = Shape(p)  y = Reshape(x, s)"
    inputs = "float[B, S, 8] x, float[C, D, 8] p"
    feeds = [{"x": np.ones((2, 3, 8), np.float32), "p": np.ones((3, 2, 8), np.float32)}]
    apply_pass(FoldShapes(), model(body, "float[C, D, 8] y", inputs), changes=0, feeds=feeds)


def test_what_is_known_of_inputs_from_outside():
    body = "y = Reshape(x, t)"
    built = model(body, "float[B, S, 2, 4] y", "float[B, S, 8] x, int64[4] t")
    batch, sequence = symbol("ids[0]"), symbol("ids[1]")
    x, t = built.graph.inputs
    x.meta[KNOWN_SHAPE] = (batch, sequence, 8)
    t.meta[KNOWN_VECTOR] = (batch, -1, 2, 4)
    feeds = [{"x": np.ones((2, 3, 8), np.float32), "t": np.array([2, -1, 2, 4])}]
    assert target(apply_pass(FoldShapes(), built, changes=1, feeds=feeds)) == [0, 0, 2, 4]


@pytest.mark.parametrize("zero", [0, 1])
def test_allowzero(zero):
    """With allowzero a 0 in the target is a size, not a reference to the input."""
    body = f"s = Shape <start=0, end=2> (x)  t = Concat <axis=0> (s, rest)  y = Reshape <allowzero={zero}> (x, t)"
    result = apply_pass(FoldShapes(), model(body, "float[B, S, 2, 4] y", rest=[2, 4]), changes=1)
    assert target(result) == [0, 0, 2, 4]
    assert "allowzero" not in only(result, "Reshape").attributes or not zero
    body = "y = Reshape <allowzero=1> (x, t)"
    feeds = [{"x": np.zeros((0, 3, 8), np.float32)}]
    apply_pass(FoldShapes(), model(body, "float[A, B] y", t=[0, 5]), changes=0, feeds=feeds)


@pytest.mark.parametrize(
    ("starts", "ends", "steps", "goes"),
    [
        ([0, 0], [10**9, 2**63 - 1], [1, 1], True),
        ([0, 1], [10**9, 10**9], [1, 1], False),
        ([0, 0], [10**9, 2], [1, 1], False),
        ([0, 0], [10**9, 10**9], [1, 2], False),
    ],
)
def test_a_slice_of_everything_goes(starts, ends, steps, goes):
    body = "s = Slice(x, starts, ends, axes, steps)  y = Neg(s)"
    graph = model(body, "float[B, T, 8] y", starts=starts, ends=ends, axes=[0, 1], steps=steps)
    assert ops(apply_pass(FoldShapes(), graph, changes=int(goes)))["Slice"] == (not goes)
