"""Axes of batch and sequence are found by what is combined with the mask, never by their sizes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import model_of
from tests.passes.onnx.token_checks import encoder
from tf_opt.errors import SkipPaddingError
from tf_opt.passes.onnx.segment_weights import KNOWN_SHAPE, KNOWN_VECTOR
from tf_opt.passes.onnx.token_layout import TokenLayout, reshape_groups, token_layout
from tf_opt.passes.tf.symbolic_dims import symbol


def layout_of(model: ir.Model, mask: str = "mask") -> tuple[TokenLayout, dict[str, ir.Value]]:
    values = {str(value.name): value for node in model.graph for value in node.outputs}
    values.update((str(value.name), value) for value in model.graph.inputs)
    return token_layout(model, mask), values


def check_encoder(model: ir.Model) -> None:
    layout, values = layout_of(model)
    leading = {name: layout.leading(values[name]) for name in ("x", "q", "q4", "qt", "scores", "joined", "narrow")}
    assert leading == {
        "x": "pair",
        "q": "pair",
        "q4": "pair",
        "qt": None,
        "scores": None,
        "joined": "pair",
        "narrow": "pair",
    }
    positions = {name: layout.sequence_axes_of(values[name]) for name in ("x", "qt", "kt", "scores", "mixed", "bias")}
    assert positions == {"x": (1,), "qt": (2,), "kt": (3,), "scores": (2, 3), "mixed": (2,), "bias": (3,)}
    assert layout.batch_axis_of(values["scores"]) == (None if layout.batch == 1 else 0)
    assert layout.tail(values["q4"], "pair") == (2, 4)


def test_dimensions_of_one_name():
    check_encoder(encoder("y = Add(narrow, normal)"))


def test_dimensions_without_names():
    """Each input of an exported segment has dimensions of its own; attention combines them with the mask's."""
    check_encoder(encoder("y = Add(narrow, normal)", mask_type="int64[M, N]"))


@pytest.mark.parametrize(("batch", "sequence"), [(8, 8), (2, 8), (2, 4), (1, 8), (3, 2)])
def test_sizes_that_are_numbers(batch, sequence):
    """Features, heads and sizes of heads are 8, 2 and 4: nothing here is told by its size."""
    check_encoder(
        encoder(
            "y = Add(narrow, normal)",
            outputs=f"float[{batch}, {sequence}, 8] y",
            mask_type=f"int64[{batch}, {sequence}]",
            x_type=f"float[{batch}, {sequence}, 8]",
            split=np.array([batch, sequence, 2, 4], np.int64),
            join=np.array([batch, sequence, 8], np.int64),
        )
    )


def test_joined_tokens():
    text = """g (float[B, S, 8] x, bool[B, S] mask) => (float y) {
        flat = Reshape(x, matrix) parted = Reshape(flat, heads) s = Shape(x) y = Reshape(parted, s)
    }"""
    constants = {"matrix": np.array([-1, 8], np.int64), "heads": np.array([-1, 2, 4], np.int64)}
    layout, values = layout_of(model_of(text, **constants))
    assert {name: layout.leading(values[name]) for name in ("flat", "parted", "y")} == {
        "flat": "merged",
        "parted": "merged",
        "y": "pair",
    }
    assert layout.tail(values["parted"], "merged") == (2, 4)


def test_mask_that_is_reshaped_to_the_sizes_of_the_tokens():
    """DistilBERT takes rows and positions from its ids, and reshapes the mask to them."""
    text = """g (float[A, T, 8] x, int64[A, T] ids, int64[B, S] mask) => (float y) {
        sizes = Shape(ids) rows = Slice(sizes, zero, one) positions = Slice(sizes, one, two)
        target = Concat<axis=0>(rows, one, one, positions) wide = Reshape(mask, target)
        y = Relu(x)
    }"""
    numbers = {name: np.array([number], np.int64) for name, number in (("zero", 0), ("one", 1), ("two", 2))}
    layout, values = layout_of(model_of(text, **numbers))
    assert layout.leading(values["x"]) == "pair"


def test_mask_that_is_reshaped_to_sizes_that_come_in():
    """MPNet does the same with sizes that the segment is given."""
    model = model_of(
        """g (float[A, T, 8] x, int64[4] target, int64[B, S] mask) => (float y) {
            wide = Reshape(mask, target) real = Cast<to=1>(wide)
            heads = Unsqueeze(x, one) k = Transpose<perm=[0, 1, 3, 2]>(heads)
            scores = MatMul(heads, k) y = Add(scores, real)
        }""",
        one=np.array([1], np.int64),
    )
    rows, positions = symbol("ids[0]"), symbol("ids[1]")
    x, target, _ = model.graph.inputs
    x.meta[KNOWN_SHAPE] = (rows, positions, 8)
    target.meta[KNOWN_VECTOR] = (rows, 1, 1, positions)
    layout, values = layout_of(model)
    assert layout.leading(x) == "pair"
    assert layout.shapes.shape(values["real"]) == (layout.batch, 1, 1, layout.sequence)


def test_tokens_that_come_in_joined():
    model = model_of(
        """g (float[N, 8] x, float[A, T, 8] z, int64[B, S] mask) => (float y) {
            real = Cast<to=1>(mask) column = Unsqueeze(real, two) kept = Mul(z, column) y = Relu(x)
        }""",
        two=np.array([2], np.int64),
    )
    rows, positions = symbol("ids[0]"), symbol("ids[1]")
    model.graph.inputs[0].meta[KNOWN_SHAPE] = (rows * positions, 8)
    model.graph.inputs[1].meta[KNOWN_SHAPE] = (rows, positions, 8)
    layout, _ = layout_of(model)
    assert layout.leading(model.graph.inputs[0]) == "merged"


def test_a_reshape_that_says_nothing_of_the_sizes():
    """What is left over for -1 is not the axis that stands at its place."""
    text = """g (float[N, D] x, float[B, S, 8] z, int64[B, S] mask) => (float y) {
        r = Reshape(x, target) y = Relu(r)
    }"""
    layout, values = layout_of(model_of(text, target=np.array([-1, 4], np.int64)))
    shape = layout.shapes.shape(values["y"])
    assert shape is not None
    assert shape[0] != symbol("dim N")


def test_mask_with_axes_between():
    text = "g (float[B, S, 8] x, bool[M, 1, N] mask) => (float y) { t = Squeeze(mask, one) u = Unsqueeze(t, two) \
        v = Cast<to=1>(u) y = Mul(x, v) }"
    constants = {"one": np.array([1], np.int64), "two": np.array([2], np.int64)}
    layout, values = layout_of(model_of(text, **constants))
    assert layout.leading(values["y"]) == "pair"
    assert layout.sequence_axis == 2


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("B, S, 8", "expected"),
        ("B", "expected"),
        ("B, B", "cannot be told apart"),
    ],
)
def test_refuses_another_shape(shape, message):
    model = model_of(f"g (float[B, S, 8] x, bool[{shape}] mask) => (float[B, S, 8] y) {{ y = Relu(x) }}")
    with pytest.raises(SkipPaddingError, match=message):
        token_layout(model, "mask")


def test_groups_of_a_reshape():
    batch, sequence = symbol("B"), symbol("S")
    cases = {
        ((batch, sequence, 384), (batch, sequence, 12, 32)): [((0,), (0,)), ((1,), (1,)), ((2,), (2, 3))],
        ((batch, sequence, 12, 32), (batch, sequence, 384)): [((0,), (0,)), ((1,), (1,)), ((2, 3), (2,))],
        ((batch, sequence, 8), (batch * sequence, 8)): [((0, 1), (0,)), ((2,), (1,))],
        ((batch, sequence), (batch, 1, 1, sequence)): [((0,), (0,)), ((1,), (3,))],
        ((batch, 12, sequence, 4), (batch * 12, sequence, 4)): [((0, 1), (0,)), ((2,), (1,)), ((3,), (2,))],
        ((batch, sequence), (sequence, batch)): [((0, 1), (0, 1))],
        ((batch, 8), (symbol("other"), 8)): [],
        ((6, 4), (4, 6)): [((0, 1), (0, 1))],
    }
    for (source, target), expected in cases.items():
        assert reshape_groups(source, target) == expected, (source, target)
