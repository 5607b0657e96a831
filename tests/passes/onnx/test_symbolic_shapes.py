from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.onnx.pass_checks import model_of, session_of
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes
from tf_opt.passes.tf.symbolic_dims import broadcast, symbol

B, S = symbol("dim B"), symbol("dim S")


def shapes_of(body, inputs="float[B, S, 8] x", opset=18, **constants):
    model = model_of(f"g ({inputs}) => () {{ {body} }}", opset, **{k: np.asarray(v) for k, v in constants.items()})
    shapes = SymbolicShapes(model)
    values = {value.name: value for node in model.graph for value in node.outputs}
    return shapes, values


def shape_of(body, name="y", **options):
    shapes, values = shapes_of(body, **options)
    return shapes.shape(values[name])


@pytest.mark.parametrize(
    ("body", "constants", "expected"),
    [
        ("y = Relu(x)", {}, (B, S, 8)),
        ("y = Add(x, w)", {"w": np.ones((8,))}, (B, S, 8)),
        ("y = Add(w, x)", {"w": np.ones((3, 1, 1, 1))}, (3, B, S, 8)),
        ("y = MatMul(x, w)", {"w": np.ones((8, 6))}, (B, S, 6)),
        ("t = Transpose <perm=[0, 2, 1]> (x)  y = MatMul(x, t)", {}, (B, S, S)),
        ("y = Transpose(x)", {}, (8, S, B)),
        ("y = Reshape(x, t)", {"t": [0, -1, 2, 4]}, (B, S, 2, 4)),
        ("y = Reshape(x, t)", {"t": [-1, 8]}, (B * S, 8)),
        ("y = ReduceMean(x, t)", {"t": [-1]}, (B, S, 1)),
        ("y = ReduceMean <keepdims=0> (x, t)", {"t": [1]}, (B, 8)),
        ("y = ReduceMean <keepdims=0> (x)", {}, ()),
        ("y = ReduceMean <noop_with_empty_axes=1> (x)", {}, (B, S, 8)),
        ("y = GlobalAveragePool(x)", {}, (B, S, 1)),
        ("y = Unsqueeze(x, t)", {"t": [1, -1]}, (B, 1, S, 8, 1)),
        ("u = Unsqueeze(x, t)  y = Squeeze(u, t)", {"t": [0]}, (B, S, 8)),
        ("y = Concat <axis=1> (x, x)", {}, (B, S * 2, 8)),
        ("y = Slice(x, z, o, o)", {"z": [0], "o": [2]}, (B, S, 2)),
        ("y = Slice(x, z, o, a, s)", {"z": [7], "o": [1], "a": [2], "s": [2]}, (B, S, 0)),
        ("y = Slice(x, z, o, a)", {"z": [-3], "o": [2**31 - 1], "a": [-1]}, (B, S, 3)),
        ("y = Slice(x, z, o, a)", {"z": [0], "o": [2**31 - 1], "a": [1]}, (B, S, 8)),
        ("y = Gather <axis=2> (x, i)", {"i": [[0, 1], [2, 3]]}, (B, S, 2, 2)),
        ("y = Flatten(x)", {}, (B, S * 8)),
        ("a, y = Split <axis=2> (x, s)", {"s": [3, 5]}, (B, S, 5)),
        ("a, y = Split <axis=2, num_outputs=2> (x)", {}, (B, S, 4)),
        ("s = Shape(x)  y = ConstantOfShape(s)", {}, (B, S, 8)),
        ("s = Shape <start=1> (x)  y = Expand(w, s)", {"w": np.ones((1,))}, (S, 8)),
        ("y = Softmax(x)", {}, (B, S, 8)),
        ("y = com.microsoft.Gelu(x)", {}, (B, S, 8)),
        ("y = com.microsoft.MultiHeadAttention <num_heads=2> (x, x, w)", {"w": np.ones((1, 1, 6))}, (B, S, 6)),
    ],
)
def test_rules(body, constants, expected):
    assert shape_of(body, **constants) == expected


def test_broadcasting_of_two_unknown_dimensions():
    inputs = "float[B, S, 8] x, float[C, S, 8] p"
    both = broadcast(B, symbol("dim C"))
    assert shape_of("a = Add(x, p)  y = Add(a, x)", inputs=inputs) == (both, S, 8)
    assert shape_of("a = Add(x, p)  y = Sub(p, x)", inputs=inputs) == (both, S, 8)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Shape(x)", (B, S, 8)),
        ("y = Shape <start=-1> (x)", (8,)),
        ("s = Shape(x)  y = Slice(s, one, two)", (S,)),
        ("s = Shape(x)  y = Gather(s, one)", (S,)),
        ("s = Shape(x)  y = ReduceProd(s)", (B * S * 8,)),
        ("s = Shape(x)  c = Cast <to=6> (s)  d = Cast <to=7> (c)  y = Concat <axis=0> (d, two)", (B, S, 8, 2)),
        ("s = Shape(x)  y = Mul(s, s)", (B * B, S * S, 64)),
    ],
)
def test_vectors(body, expected):
    shapes, values = shapes_of(body, one=[1], two=[2])
    assert shapes.vector(values["y"]) == expected


def test_what_is_not_known():
    assert shape_of("y = Reshape(x, t)", inputs="float[B, S, 8] x, int64[n] t") is None
    unknown = shape_of("y = Reshape(x, t)", inputs="float[B, S, 8] x, int64[2] t")
    assert len(unknown) == 2
    assert unknown[0] != unknown[1]
    assert shape_of("n = NonZero(x)  y = Relu(n)") is None
    shapes, values = shapes_of("f = Cast <to=1> (s)  y = Relu(f)", inputs="int64[2] s")
    assert shapes.vector(values["f"]) is None
    cut = shape_of("y = Slice(x, z, o, a)", z=[0], o=[3], a=[1])
    assert cut[0] == B
    assert cut[1] not in (S, 3)


def test_convolutions_keep_batch_and_rank():
    found = shape_of("y = Conv(x, w)", inputs="float[B, 3, H, W] x", w=np.ones((5, 3, 3, 3)))
    assert found[:2] == (B, 5)
    assert len(found) == 4


@given(batch=st.integers(1, 4), length=st.integers(1, 5), steps=st.lists(st.integers(0, 5), max_size=5))
def test_shapes_agree_with_what_onnx_runtime_computes(batch, length, steps):
    """A chain of operators, evaluated at one size."""
    pieces = [
        "{o} = Relu({i})",
        "{o} = Transpose <perm=[1, 0, 2]> ({i})",
        "{o} = Concat <axis=1> ({i}, {i})",
        "{o} = Add({i}, p)",
        "f{o} = Reshape({i}, flat)  {o} = Unsqueeze(f{o}, zero)",
        "r{o} = ReduceMax <keepdims=1> ({i}, one)  {o} = Sub({i}, r{o})",
    ]
    body, current = "", "x"
    for number, step in enumerate(steps):
        body += pieces[step].format(i=current, o=f"v{number}") + "  "
        current = f"v{number}"
    body += f"y = Neg({current})"
    constants = {
        "p": np.ones((1, 1, 8), np.float32),
        "flat": np.array([-1, 8]),
        "zero": np.array([0]),
        "one": np.array([1]),
    }
    used = {name: value for name, value in constants.items() if f"{name})" in body}
    model = model_of(f"g (float[B, S, 8] x) => (float[N, M, 8] y) {{ {body} }}", 18, **used)
    (result,) = session_of(model).run(None, {"x": np.ones((batch, length, 8), np.float32)})
    found = SymbolicShapes(model).shape(model.graph.outputs[0])
    sizes = {"dim B": batch, "dim S": length}

    def value(dim):
        if isinstance(dim, int):
            return dim
        return sum(
            coefficient * int(np.prod([sizes[atom.label] for atom in monomial])) for monomial, coefficient in dim.terms
        )

    assert tuple(value(dim) for dim in found) == result.shape
