"""ONNX Runtime multiplies quantized matrices as integers, also where a bias and a static shape invite it not to."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.engines.conftest import Loader
from tests.engines.onnx_models import Array, definition_of, model_of, run

COLUMNS = 512
RANDOM = np.random.default_rng(0)


def cancelling_weights() -> Array:
    """Returns int8 of shape [COLUMNS, 8] whose columns add up to 0; of 7 bits, so that no sum of two overflows."""
    half = RANDOM.integers(-63, 64, (COLUMNS // 2, 8)).astype(np.int8)
    return RANDOM.permutation(np.concatenate([half, -half]))


@pytest.mark.parametrize("activation", ["Identity", "Relu", "Tanh"])
@pytest.mark.parametrize("shape", [["rows", COLUMNS], [4, COLUMNS], ["a", "b", COLUMNS], [1, 4, COLUMNS]])
def test_integers_cancel_exactly(load: Loader, shape: list[int | str], activation: str) -> None:
    # In floating point each product is rounded, and sums of them, in any order, leave a rest.
    constants = {"scale": np.float32(0.1), "zero": np.uint8(0), "scales": np.full(8, 0.3, np.float32)}
    nodes = [
        helper.make_node("QuantizeLinear", ["input_0", "scale", "zero"], ["levels"]),
        helper.make_node("DequantizeLinear", ["levels", "scale", "zero"], ["activation"]),
        helper.make_node("DequantizeLinear", ["weight_0", "scales"], ["matrix"], axis=1),
        helper.make_node("MatMul", ["activation", "matrix"], ["product"]),
        helper.make_node("Add", ["product", "weight_1"], ["sum"]),
        helper.make_node(activation, ["sum"], ["output_0"]),
    ]
    inputs = {
        "input_0": (TensorProto.FLOAT, shape),
        "weight_0": (TensorProto.INT8, [COLUMNS, 8]),
        "weight_1": (TensorProto.FLOAT, [8]),
    }
    model = model_of(nodes, inputs, {"output_0": TensorProto.FLOAT}, constants)
    engine = load(definition_of(model, [cancelling_weights(), np.zeros(8, np.float32)]))
    sizes = [size if isinstance(size, int) else 4 for size in shape]
    (found,) = run(engine, np.full(sizes, 12.3, np.float32)).arrays.values()
    np.testing.assert_array_equal(found, np.zeros_like(found))
