"""Tokens stay packed through whatever treats each by itself, whichever axes they lie on."""

from __future__ import annotations

import numpy as np

from tests.passes.onnx.pass_checks import model_of
from tests.passes.onnx.token_checks import PRODUCTS, encoder, pack
from tf_opt.passes.onnx.nodes import constant


def test_constant_for_each_position():
    """Position embeddings behind a product, in a model made for one length."""
    table = np.random.default_rng(0).normal(size=(1, 8, 8)).astype(np.float32)
    model = encoder(
        "p = Add(narrow, table) y = Add(p, normal)",
        outputs="float[B, 8, 8] y",
        mask_type="int64[B, 8]",
        x_type="float[B, 8, 8]",
        table=table,
    )
    pack(model, shapes=[(1, 8), (3, 8)])


def test_inputs_for_each_position_and_for_each_row():
    text = """g (float[B, S, 8] x, float[1, S, 8] positions, float[B, 1, 8] rows, int64[B, S] mask)
        => (float[B, S, 8] y) {
        a = MatMul(x, w) b = Add(a, positions) c = Mul(b, rows) d = Cast<to=1>(mask) e = Unsqueeze(d, last)
        y = Mul(c, e)
    }"""
    w = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    pack(model_of(text, w=w, last=np.array([2], np.int64)), products=1)


def test_computed_targets_of_reshapes():
    """Shape arithmetic that reads a packed tensor gets the sizes that it had."""
    ends = """
        shape = Shape(narrow)
        rows = Slice(shape, start, end)
        target = Concat<axis=0>(rows, rest)
        parted = Reshape(narrow, target)
        turned = Transpose<perm=[0, 2, 1, 3]>(parted)
        flat = Transpose<perm=[0, 2, 1, 3]>(turned)
        y = Reshape(flat, shape)
    """
    model = encoder(
        ends, start=np.array([0], np.int64), end=np.array([1], np.int64), rest=np.array([-1, 2, 4], np.int64)
    )
    packed = pack(model)
    assert not any(
        "unpacked" in str(node.inputs[0].name) for node in packed.graph if node.op_type == "Shape" and node.inputs[0]
    )


def test_products_of_matrices():
    """Each dense layer joins rows and positions, as Keras's Tensordot does."""
    ends = """
        flat = Reshape(normal, matrix)
        more = MatMul(flat, w3)
        biased = Add(more, beta)
        shape = Shape(normal)
        three = Reshape(biased, shape)
        y = Add(three, narrow)
    """
    w3 = np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32)
    packed = pack(encoder(ends, w3=w3, matrix=np.array([-1, 8], np.int64)), products=PRODUCTS + 1)
    # Between the two there is nothing but real tokens.
    assert len([node for node in packed.graph if "/unpacked" in str(node.name)]) == 4


def test_heads_that_are_split_from_a_matrix():
    ends = """
        flat = Reshape(normal, matrix)
        more = MatMul(flat, w3)
        shape = Shape(x)
        rows = Slice(shape, start, end)
        target = Concat<axis=0>(rows, rest)
        parted = Reshape(more, target)
        turned = Transpose<perm=[0, 2, 1, 3]>(parted)
        back = Transpose<perm=[0, 2, 1, 3]>(turned)
        y = Reshape(back, shape)
    """.replace("back", "returned")
    constants = {
        "w3": np.random.default_rng(3).normal(size=(8, 8)).astype(np.float32),
        "matrix": np.array([-1, 8], np.int64),
        "start": np.array([0], np.int64),
        "end": np.array([1], np.int64),
        "rest": np.array([-1, 2, 4], np.int64),
    }
    packed = pack(encoder(ends, **constants), products=PRODUCTS + 1)
    parted = next(node for node in packed.graph if node.outputs[0].name == "parted")
    assert constant(parted.inputs[1]).tolist() == [0, 0, 2, 4]


def test_shapes_of_packed_tensors():
    """However they are asked for: of joined tokens, from some axis on, of what has no other source."""
    ends = """
        flat = Reshape(narrow, matrix)
        more = MatMul(flat, wq)
        whole = Shape(more)
        tail = Shape<start=1>(narrow)
        head = Shape<end=2>(narrow)
        none = Shape<start=3>(narrow)
        target = Concat<axis=0>(head, none, last)
        same = Reshape(more, whole)
        three = Reshape(same, target)
        size = ReduceProd<keepdims=0>(tail)
        number = Cast<to=1>(size)
        y = Div(three, number)
    """
    constants = {"matrix": np.array([-1, 8], np.int64), "last": np.array([8], np.int64)}
    pack(encoder(ends, **constants), products=PRODUCTS + 1)


def test_work_on_each_vector_by_itself():
    """Axes of features may be added, turned, taken apart and put together without any unpacking."""
    ends = """
        wide = Unsqueeze(narrow, two)
        turned = Transpose<perm=[0, 1, 3, 2]>(wide)
        cubed = MatMul(turned, weight)
        flat = Squeeze(cubed, three)
        left, right = Split<axis=2>(flat, halves)
        both = Concat<axis=-1>(right, left, narrow)
        part = Slice(both, two, ten, minus_one)
        chances = Softmax<axis=-1>(part)
        best = ReduceMax<axes=[-1], keepdims=1>(chances)
        y = Mul(part, best)
    """.replace("wide", "wider")
    constants = {
        name: np.array([number], np.int64)
        for name, number in (("two", 2), ("three", 3), ("ten", 10), ("minus_one", -1))
    }
    weight = np.ones((1, 1, 1, 1), np.float32) * 2
    packed = pack(encoder(ends, weight=weight, halves=np.array([4, 4], np.int64), **constants), products=PRODUCTS + 1)
    assert len([node for node in packed.graph if "/unpacked" in str(node.name)]) == 4


def test_joined_tokens_from_the_start():
    text = """g (float[B, S, 8] x, int64[B, S] mask) => (float[B, S, 8] y) {
        flat = Reshape(x, matrix) a = Gemm(flat, w, b) shape = Shape(x) back = Reshape(a, shape)
        r = Cast<to=1>(mask) m = Unsqueeze(r, last) y = Mul(back, m)
    }"""
    random = np.random.default_rng(0)
    constants = {
        "w": random.normal(size=(8, 8)).astype(np.float32),
        "b": random.normal(size=8).astype(np.float32),
        "matrix": np.array([-1, 8], np.int64),
        "last": np.array([2], np.int64),
    }
    pack(model_of(text, **constants), products=1)


def test_raw_layer_normalization_and_gelu():
    ends = """
        mean = GlobalAveragePool(narrow)
        centred = Sub(narrow, mean)
        squares = Mul(centred, centred)
        variance = ReduceMean<axes=[2], keepdims=1>(squares)
        deviation = Sqrt(variance)
        normalized = Div(centred, deviation)
        erf = Erf(normalized)
        half = Mul(normalized, scale)
        y = Mul(half, erf)
    """
    packed = pack(encoder(ends), products=PRODUCTS)
    assert len([node for node in packed.graph if "/unpacked" in str(node.name)]) == 4
