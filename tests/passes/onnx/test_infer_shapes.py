from __future__ import annotations

import onnx_ir as ir
import onnxruntime
from onnx import load_from_string

from tests.passes.onnx.pass_checks import apply_pass, model_of, ops
from tf_opt.passes.onnx.infer_shapes import InferShapes


def shape_of(model: ir.Model, name: str) -> list[int | str | None] | None:
    (value,) = [value for node in model.graph for value in node.outputs if value.name == name]
    return (
        None
        if value.shape is None
        else [each.value if isinstance(each, ir.SymbolicDim) else each for each in value.shape]
    )


def added(inner: str = "") -> ir.Model:
    return model_of(
        f"g (float[A, B, 8] x, float[C, D, 8] y) => (float[U, V, 8] z) {inner}"
        " { s = Add(x, y)  r = Relu(s)  z = Add(s, r) }"
    )


SIZES = ({"A": 2, "B": 3, "C": 2, "D": 3}, {"A": 1, "B": 3, "C": 2, "D": 1})


def test_tensors_of_unknown_shape_get_the_same_names():
    result = apply_pass(InferShapes(), added(), changes=2, sizes=SIZES)
    shape = shape_of(result, "s")
    assert shape is not None
    assert shape[2] == 8
    assert all(isinstance(name, str) for name in shape[:2])
    assert not {"A", "B", "C", "D"} & set(shape[:2])  # Broadcast, it may be either.
    assert shape_of(result, "r") == shape


def test_known_shapes_stay():
    apply_pass(InferShapes(), added("<float[S, T, 8] s, float[S, T, 8] r>"), changes=0, sizes=SIZES)


def test_graph_outputs_stay_what_they_say():
    model = model_of("g (float[A, 4] x, float[4, 6] y) => (float[N, M] z) { z = MatMul(x, y) }")
    result = apply_pass(InferShapes(), model, changes=0, sizes=({"A": 2},))
    assert str(result.graph.outputs[0].shape) == "[N,M]"


def test_what_is_behind_operators_of_other_domains():
    model = model_of(
        "g (float[A, B, 8] x) => (float[U, V, 8] z)"
        " { s = Sigmoid(x)  q = com.microsoft.QuickGelu<alpha=1.0>(s)  z = Relu(q) }"
    )
    result = apply_pass(InferShapes(), model, changes=1)
    assert shape_of(result, "s") == ["A", "B", 8]
    assert shape_of(result, "q") is None


def test_nested_graphs():
    model = model_of(
        "g (bool flag, float[A, 8] x, float[C, 8] y) => (float[U, 8] z) {"
        " z = If (flag) <then_branch = t () => (float[P, 8] a) { s = Add(x, y)  a = Relu(s) },"
        " else_branch = e () => (float[Q, 8] b) { n = Neg(x)  b = Abs(n) }> }"
    )
    apply_pass(InferShapes(), model, sizes=({"A": 2, "C": 2},))


def test_onnxruntime_fuses_the_sum_in_front_of_a_layer_normalization(tmp_path):
    text = (
        "g (float[A, B, 8] x, float[C, D, 8] y, float[8, 8] w, float[8] g, float[8] h) => (float[U, V, 8] z)"
        " { s = Add(x, y)  m = MatMul(s, w)  t = Add(m, s)  z = LayerNormalization<axis=-1>(t, g, h) }"
    )

    def fused(model: ir.Model) -> bool:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        onnxruntime.InferenceSession(
            ir.serde.serialize_model(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        nodes = load_from_string((tmp_path / "optimized.onnx").read_bytes()).graph.node
        return any(node.op_type == "SkipLayerNormalization" for node in nodes)

    model = model_of(text)
    sizes = ({"A": 2, "B": 3, "C": 2, "D": 3},)
    result = apply_pass(InferShapes(), model, sizes=sizes)
    assert ops(result) == ops(model)
    assert fused(result)
    assert not fused(model)
