"""What int8 costs a trained model: embeddings of sentences that calibration has not seen, on the engines' kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from tests import trained_models
from tests.quantization.int8_kernels import ONNXRuntimeModel, OpenVINOModel
from tests.whole_segments import WholeSegment
from tf_opt.engines import create_backend
from tf_opt.quantization import QuantizationSettings, quantize_segment

SENTENCES = (Path(__file__).resolve().parents[1] / "data" / "sentences.txt").read_text().splitlines()
CALIBRATION, UNSEEN = SENTENCES[:64], SENTENCES[64:264]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def minilm():
    """MiniLM as one canonical segment, with its feeds for calibration and for judging."""
    frozen, _ = trained_models.minilm()
    segment = WholeSegment(frozen, create_backend("openvino"))
    names = {info.key: info.name for info in frozen.inputs}

    def feeds(batches):
        tokens = [trained_models.sentence_feed(batch) for batch in batches]
        named = [{name: each[key] for key, name in names.items()} for each in tokens]
        return segment.inputs(named), [each["attention_mask"] for each in tokens]

    calibration, _ = feeds([[sentence] for sentence in CALIBRATION])
    return (
        segment.prepared.model,
        calibration,
        feeds([UNSEEN[start : start + 20] for start in range(0, len(UNSEEN), 20)]),
    )


@pytest.fixture(scope="module")
def original(minilm):
    """Embeddings in floating point."""
    model, _, judged = minilm
    return embeddings(session_of(model), judged)


@pytest.fixture(scope="module")
def result(minilm):
    """What quantization makes of the segment for CPUs."""
    model, calibration, _ = minilm
    return quantize_segment(model, calibration)


def embeddings(compute, judged):
    """Mean-pooled embeddings of unit length, [sentences, hidden]."""
    parts = []
    for feed, mask in zip(*judged, strict=True):
        hidden = next(output for output in compute(feed) if output.ndim == 3)
        pooled = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        parts.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
    return np.concatenate(parts)


def session_of(model, optimize=False):
    """ONNX Runtime, node by node as the model stands, or with its own int8 kernels."""
    options = onnxruntime.SessionOptions()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = ir.serde.serialize_model(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def spearman(first, second):
    """Rank correlation of two lists without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return np.corrcoef(*ranks)[0, 1]


def check(original, actual):
    """The bar: each embedding close to the original's, and the order of neighbours kept."""
    assert len(original) == 200
    assert (original * actual).sum(axis=1).min() >= 0.99
    pairs = np.triu_indices(len(original), 1)
    assert spearman((original @ original.T)[pairs], (actual @ actual.T)[pairs]) >= 0.98


@pytest.mark.parametrize("kernels", ["openvino", "onnxruntime", "by definition"])
def test_embeddings_of_unseen_sentences(minilm, original, result, kernels):
    assert not result.notes
    # All products with constant matrices; those inside of attention have none.
    assert len(result.quantized_layers) == 6 * 6 + 1
    if kernels == "openvino":
        compute = OpenVINOModel(result.model).run
    else:
        compute = session_of(result.model, optimize=kernels == "onnxruntime")
    check(original, embeddings(compute, minilm[2]))


def test_onnx_runtime_fuses_every_product(result, tmp_path):
    """It runs what it does not fuse in floating point, behind conversions: slower than without int8."""
    fused = ONNXRuntimeModel(result.model, tmp_path).operators
    assert fused["MatMulIntegerToFloat"] == len(result.quantized_layers)
    assert not fused["DequantizeLinear"]


def test_the_form_of_tensorrt(minilm, original):
    """Emulated: signed activations with zero point 0, computed as QuantizeLinear and DequantizeLinear define them."""
    model, calibration, judged = minilm
    result = quantize_segment(model, calibration, QuantizationSettings(target="tensorrt"))
    for name, value in result.model.graph.initializers.items():
        if name.endswith("/zero_point"):
            assert value.dtype == ir.DataType.INT8
            assert value.const_value.numpy() == 0
    check(original, embeddings(session_of(result.model), judged))


def test_a_few_sentences_are_too_few_and_that_is_said(minilm):
    model, calibration, _ = minilm
    assert "tokens" in quantize_segment(model, calibration[:4]).notes[0]
