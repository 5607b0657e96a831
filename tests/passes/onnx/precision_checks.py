"""What tests of 16-bit models share: an emulation of both types, and a small BERT in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from tests.passes.onnx.pass_checks import Feed

SIXTEEN_BIT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

Weights = Mapping[str, np.ndarray[Any, Any]]


def emulated(model: ir.Model) -> ir.Model:
    """Returns a model in fp32 that rounds every value that `model` holds in 16 bits.

    This is an EMULATION of hardware with bf16 or fp16: operands are rounded to the type, each operator computes in fp32
    (products sum in fp32, as matrix units do), and its result is rounded to the type. An engine that fuses operators
    rounds less often. ONNX Runtime's CPU kernels do the arithmetic, as they have none for bf16.
    """
    copy = model.clone()
    graph = copy.graph
    for value in graph.initializers.values():
        tensor = value.const_value
        assert tensor is not None
        if tensor.dtype in SIXTEEN_BIT:
            value.const_value = ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        if node.op_type == "Cast":
            target = ir.DataType(node.attributes["to"].as_int())
            rounded = {node.outputs[0]: target} if target in SIXTEEN_BIT else {}
            if rounded:
                node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT))
        else:
            rounded = {value: value.dtype for value in node.outputs if value.dtype in SIXTEEN_BIT}
        for value, dtype in rounded.items():
            assert dtype is not None
            value.type = ir.TensorType(ir.DataType.FLOAT)
            narrow = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=f"{value.name}/narrow")
            wide = ir.Node("", "Cast", narrow.outputs, [ir.AttrInt64("to", 1)], name=f"{value.name}/wide")
            narrow.outputs[0].name, wide.outputs[0].name = f"{value.name}/narrow", f"{value.name}/wide"
            value.replace_all_uses_with(wide.outputs[0], replace_graph_outputs=True)
            narrow.replace_input_with(0, value)
            graph.insert_after(node, [narrow, wide])
    return copy


def run_emulated(model: ir.Model, feed: Feed) -> list[np.ndarray[Any, Any]]:
    """Runs `emulated(model)` without any rewrite of ONNX Runtime's."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.serde.serialize_model(emulated(model))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray[Any, Any]] = session.run(None, feed)
    return outputs


def random_bert_weights(layers: int = 2, hidden: int = 64, intermediate: int = 128, seed: int = 0) -> Weights:
    """Returns random weights under Hugging Face's names, as `bert` reads them; [output, input] as PyTorch has them."""
    random = np.random.default_rng(seed)

    def drawn(*shape: int, scale: float = 0.1, around: float = 0) -> np.ndarray[Any, Any]:
        return (around + random.normal(size=shape) * scale).astype(np.float32)

    weights = {}
    norms = ["embeddings.LayerNorm"]
    for layer in range(layers):
        prefix = f"encoder.layer.{layer}"
        norms += [f"{prefix}.attention.output.LayerNorm", f"{prefix}.output.LayerNorm"]
        for name, rows, columns in (
            ("attention.self.query", hidden, hidden),
            ("attention.self.key", hidden, hidden),
            ("attention.self.value", hidden, hidden),
            ("attention.output.dense", hidden, hidden),
            ("intermediate.dense", intermediate, hidden),
            ("output.dense", hidden, intermediate),
        ):
            weights[f"{prefix}.{name}.weight"] = drawn(rows, columns)
            weights[f"{prefix}.{name}.bias"] = drawn(rows)
    for norm in norms:
        weights[f"{norm}.weight"], weights[f"{norm}.bias"] = drawn(hidden, around=1), drawn(hidden)
    return weights


def bert(weights: Weights, heads: int, mask_value: float = -10000.0) -> ir.Model:
    """Returns BERT's encoder in canonical form at opset 20.

    Inputs: "embeddings", float [B, S, hidden], the sum of the three embeddings; "mask", int32 [B, S], 1 at real tokens.
    Output: "hidden", float [B, S, hidden].

    Args:
        weights: Tensors by Hugging Face's names.
        heads: Attention heads of a layer.
        mask_value: What is added to the scores of padding.
    """
    hidden = len(weights["embeddings.LayerNorm.bias"])
    size = hidden // heads
    layers = sum(name.endswith("attention.self.query.weight") for name in weights)
    constants: dict[str, np.ndarray[Any, Any]] = {
        "axes": np.array([1, 2]),
        "one": np.float32(1),
        "mask_value": np.float32(mask_value),
        "scale": np.float32(size**-0.5),
        "split": np.array([0, 0, heads, size]),
        "join": np.array([0, 0, hidden]),
    }
    lines = [
        "mask_float = Cast<to=1>(mask)",
        "mask_4d = Unsqueeze(mask_float, axes)",
        "padding = Sub(one, mask_4d)",
        "mask_added = Mul(padding, mask_value)",
    ]

    def norm(target: str, source: str, name: str) -> None:
        constants[f"{target}_g"], constants[f"{target}_b"] = weights[f"{name}.weight"], weights[f"{name}.bias"]
        lines.append(f"{target} = LayerNormalization<axis=-1, epsilon=1e-12>({source}, {target}_g, {target}_b)")

    def dense(target: str, source: str, name: str) -> None:
        constants[f"{target}_w"], constants[f"{target}_b"] = weights[f"{name}.weight"].T, weights[f"{name}.bias"]
        lines.append(f"{target}_p = MatMul({source}, {target}_w)")
        lines.append(f"{target} = Add({target}_p, {target}_b)")

    norm("x0", "embeddings", "embeddings.LayerNorm")
    for number in range(layers):
        x, here, prefix = f"x{number}", f"l{number}", f"encoder.layer.{number}"
        for part, order in (("query", "0, 2, 1, 3"), ("key", "0, 2, 3, 1"), ("value", "0, 2, 1, 3")):
            dense(f"{here}_{part}", x, f"{prefix}.attention.self.{part}")
            lines.append(f"{here}_{part}_s = Reshape({here}_{part}, split)")
            lines.append(f"{here}_{part}_t = Transpose<perm=[{order}]>({here}_{part}_s)")
        lines += [
            f"{here}_scores = MatMul({here}_query_t, {here}_key_t)",
            f"{here}_scaled = Mul({here}_scores, scale)",
            f"{here}_masked = Add({here}_scaled, mask_added)",
            f"{here}_softmax = Softmax<axis=-1>({here}_masked)",
            f"{here}_context = MatMul({here}_softmax, {here}_value_t)",
            f"{here}_context_t = Transpose<perm=[0, 2, 1, 3]>({here}_context)",
            f"{here}_context_j = Reshape({here}_context_t, join)",
        ]
        dense(f"{here}_attention", f"{here}_context_j", f"{prefix}.attention.output.dense")
        lines.append(f"{here}_attention_r = Add({here}_attention, {x})")
        norm(f"{here}_y", f"{here}_attention_r", f"{prefix}.attention.output.LayerNorm")
        dense(f"{here}_inner", f"{here}_y", f"{prefix}.intermediate.dense")
        lines.append(f"{here}_gelu = Gelu({here}_inner)")
        dense(f"{here}_outer", f"{here}_gelu", f"{prefix}.output.dense")
        lines.append(f"{here}_outer_r = Add({here}_outer, {here}_y)")
        norm(f"x{number + 1}", f"{here}_outer_r", f"{prefix}.output.LayerNorm")
    lines.append(f"hidden = Identity(x{layers})")
    graph = f"(float[B, S, {hidden}] embeddings, int32[B, S] mask) => (float[B, S, {hidden}] hidden)"
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> bert {graph} {{ {" ".join(lines)} }}')
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()
    )
    return ir.serde.deserialize_model(proto)


def pooled_cosines(expected: Sequence[Feed], actual: Sequence[Feed]) -> np.ndarray[Any, Any]:
    """Returns the cosines between sentence embeddings: means of "hidden" over the positions where "mask" is 1."""
    cosines = []
    for pair in zip(expected, actual, strict=True):
        sums = [(each["hidden"] * each["mask"][..., None]).sum(axis=1, dtype=np.float64) for each in pair]
        left, right = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in sums)
        cosines.append((left * right).sum(axis=1))
    return np.concatenate(cosines)
