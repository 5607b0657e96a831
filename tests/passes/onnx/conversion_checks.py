"""What tests of 16-bit conversion share: checks of what `ConvertPrecision` promises, and readings of its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.passes.onnx.pass_checks import Feed, apply_pass, canonical_text, model_of, random_feeds, session_of
from tests.passes.onnx.precision_checks import SIXTEEN_BIT, run_emulated
from tf_opt.passes.onnx.convert_precision import ConvertPrecision
from tf_opt.passes.onnx.pass_base import border_of

TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
ROUNDING = {"fp16": 2.0**-10, "bf16": 2.0**-7}
"""Twice the largest relative error of one rounding: a unit in the last place."""

both_precisions = pytest.mark.parametrize("precision", ["fp16", "bf16"])


def weight(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Returns a random float32 array whose products neither grow nor vanish."""
    return (np.random.default_rng(seed).normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)


def feeds_of(model: ir.Model) -> list[Feed]:
    """Returns random feeds.

    Each row of a mask has a real token, as of a row of nothing but padding 16 bits keep no scores.
    """
    feeds = random_feeds(model)
    for feed in feeds:
        if "mask" in feed:
            feed["mask"][:, 0] = 1
    return feeds


def convert(
    precision: str, model: ir.Model, changes: int | None = None, keep: Sequence[str] = (), tolerance: float = 8.0
) -> ir.Model:
    """Converts a copy of `model` and checks what the pass promises; returns the copy.

    Outputs are compared with an emulation of the 16-bit type; fp16, which ONNX Runtime has on every processor, is run
    as it is too.

    Args:
        precision: "fp16" or "bf16".
        model: The model, in fp32.
        changes: What the pass has to return; None takes any number.
        keep: Nodes that stay fp32.
        tolerance: How many units in the last place of the largest output outputs may be off.
    """
    onnx_pass = ConvertPrecision(precision, keep)
    before = canonical_text(model)
    types_before = [value.dtype for node in model.graph for value in node.outputs]
    if precision == "fp16":
        result = apply_pass(
            onnx_pass, model, changes=changes, feeds=feeds_of(model), atol=tolerance * ROUNDING["fp16"], rtol=1e-2
        )
        session_of(result, optimize=True)
    else:
        result = model.clone()
        count = onnx_pass.run(result)
        assert changes is None or count == changes
        assert border_of(result) == border_of(model)
        assert (count > 0) == (canonical_text(result) != before)
        assert onnx_pass.run(result) == 0
        if not any(node.domain for node in result.graph):
            onnx.checker.check_model(ir.serde.serialize_model(result), full_check=True)
    # The copy shares nothing with the model that a change of the one would show in the other.
    assert canonical_text(model) == before
    assert [value.dtype for node in model.graph for value in node.outputs] == types_before
    check_casts(result)
    for feed in feeds_of(model):
        for wanted, got in zip(session_of(model).run(None, feed), run_emulated(result, feed), strict=True):
            if wanted.dtype.kind == "f" and wanted.size:
                largest = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
                np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * ROUNDING[precision] * largest)
            else:
                np.testing.assert_array_equal(got, wanted)
    return result


def check_casts(model: ir.Model) -> None:
    """Checks that no value is cast twice to one type, and none is rounded, widened and rounded again."""
    seen = set()
    for node in model.graph:
        if node.op_type == "Cast":
            key = (node.inputs[0], node.attributes["to"].as_int())
            assert key not in seen, f"{node.inputs[0].name} is cast twice"
            seen.add(key)
            source = node.inputs[0].producer()
            if source is not None and source.op_type == "Cast" and ir.DataType(key[1]) in SIXTEEN_BIT:
                assert source.inputs[0].dtype is not ir.DataType(key[1]), f"{node.name} undoes {source.name}"
        assert any(value.uses() or value.is_graph_output() for value in node.outputs), f"nothing reads {node.name}"


def types(model: ir.Model) -> dict[str, ir.DataType]:
    """Returns the type of the first output of each node but Casts and Constants, by the name that it had in fp32."""
    return {
        node.outputs[0].name.removesuffix("/fp16").removesuffix("/bf16"): node.outputs[0].dtype or ir.DataType.FLOAT
        for node in model.graph
        if node.op_type not in ("Cast", "Constant")
    }


def narrow(model: ir.Model) -> list[str]:
    """Returns the operators that work in 16 bits, in order."""
    return [node.op_type for node in model.graph if node.op_type != "Cast" and node.outputs[0].dtype in TYPES.values()]


DENSE_AND_NORM = """g (float[B, S, 32] x) => (float[B, S, 32] y) {
    p = MatMul(x, weight)
    s = Add(p, bias)
    r = Add(s, x)
    y = LayerNormalization<axis=-1>(r, gamma, beta)
}"""


def dense_and_norm() -> ir.Model:
    """Returns the end of half a layer: product, bias, residual, normalization."""
    return model_of(
        DENSE_AND_NORM, weight=weight(32, 32), bias=weight(32), gamma=1 + weight(32, seed=1), beta=weight(32, seed=2)
    )
