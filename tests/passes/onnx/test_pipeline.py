"""All passes together, on the segments of whole models."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import tf_opt
from tests.passes.onnx.pass_checks import check_same_outputs, model_of, ops, watch_weights
from tf_opt.dump.weights import model_without_weights
from tf_opt.engines import create_backend, engine_names, load_backend
from tf_opt.onnx_target import OnnxTarget
from tf_opt.passes.onnx.count_patterns import count_patterns
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.pipeline import canonical_passes
from tf_opt.passes.onnx.segment_weights import load_segment
from tf_opt.tensor_info import TensorInfo

TARGETS = {
    "opset 17": OnnxTarget(name="old"),
    "opset 20": OnnxTarget(name="plain", opset=20, gelu=True),
    "opset 23": OnnxTarget(name="new", opset=23, gelu=True, attention="onnx"),
    "contributed": OnnxTarget(name="contributed", opset=20, gelu=True, attention="microsoft"),
    "merged": OnnxTarget(name="merged", opset=20, gelu=True, attention="microsoft", merge_qkv=True, infer_shapes=True),
    "no normalization": OnnxTarget(name="bare", layer_normalization=False),
}
LAYERS = 2
SIZES = {"hidden_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 128}


def hugging_face(kind, **config):
    import transformers

    classes = {"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra"}
    model_class = getattr(transformers, f"TF{classes[kind]}Model")
    model = model_class(getattr(transformers, f"{classes[kind]}Config")(vocab_size=200, **config))
    model(model.dummy_inputs)
    return model


def keras_hub_bert():
    import keras_hub

    return keras_hub.models.BertBackbone(
        vocabulary_size=200, num_layers=LAYERS, num_heads=4, hidden_dim=64, intermediate_dim=128
    )


MODELS = {
    "bert": lambda: hugging_face("bert", **SIZES),
    "bert with tanh": lambda: hugging_face("bert", hidden_act="gelu_new", **SIZES),
    "distilbert": lambda: hugging_face("distilbert", dim=64, n_layers=LAYERS, n_heads=4, hidden_dim=128),
    "electra": lambda: hugging_face("electra", embedding_size=32, **SIZES),
    "keras hub bert": keras_hub_bert,
}


def with_random_vectors(model):
    """Gives scales and biases values of their own: those of a new model are all 1 or 0."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) == 1:
            weight.assign(np.asarray(weight) + 0.1 * random.normal(size=weight.shape).astype(np.float32))
    return model


def segments(model, folder):
    """Returns the exported segments of a model, with random weights, as models with initializers."""
    frozen = tf_opt.freeze_keras(with_random_vectors(model))
    optimizer = tf_opt.Tf2TrtOpt(dump_dir=folder, adopt="always", progress=False)
    optimizer.optimize(frozen, tf_opt.random_feeds(frozen, batch=2, sequence=7))
    paths = sorted(folder.glob("001_*/segments/tf_opt_segment_?.onnx"))
    return [loaded(onnx.load_model_from_string(model_without_weights(path))) for path in paths]


def loaded(proto):
    inputs = [value for value in proto.graph.input if value.name.startswith("weight_")]
    shapes = [tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in inputs]
    random = np.random.default_rng(0)
    arrays = [random.normal(scale=0.05, size=shape).astype(np.float32) for shape in shapes]
    infos = [TensorInfo(name=f"w{i}:0", dtype="float32", shape=shape) for i, shape in enumerate(shapes)]
    return load_segment(proto, infos, lambda index: arrays[index])


def token_feeds(model):
    """Returns feeds for the inputs of a BERT's segment: hidden states, masks, and shapes that another segment made."""
    feeds = []
    for seed, (batch, length) in enumerate(((2, 7), (1, 1), (3, 16))):
        random = np.random.default_rng(seed)
        feed = {}
        for value in model.graph.inputs:
            dims = [dim if isinstance(dim, int) else None for dim in value.shape]
            known = {2: (batch, length), 3: (batch, length, None), 4: (batch, 1, 1, length)}[len(dims)]
            if value.dtype == ir.DataType.FLOAT and len(dims) == 2:
                known = (length, None)
            elif value.dtype != ir.DataType.FLOAT and len(dims) == 3:
                known = (batch, 1, length)
            shape = [dim if dim is not None else size for dim, size in zip(dims, known, strict=True)]
            is_float = value.dtype == ir.DataType.FLOAT
            drawn = random.normal(size=shape) if is_float else random.integers(0, 2, shape)
            feed[value.name] = drawn.astype(value.dtype.numpy())
        feeds.append(feed)
    return feeds


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS)
def encoder(request, tmp_path_factory):
    """The segment that holds the layers of a model."""
    found = segments(request.param(), tmp_path_factory.mktemp("segments"))
    return max(found, key=lambda model: model.graph.num_nodes())


@pytest.mark.slow
def test_all_blocks_are_found_for_every_target(encoder):
    feeds = token_feeds(encoder)
    for target in TARGETS.values():
        model = encoder.clone()
        watched = watch_weights(model)
        changes = OnnxPipeline(canonical_passes(target)).run(model)
        assert count_patterns(model) == {
            "layer_normalization": 2 * LAYERS + 1,
            "gelu": LAYERS,
            "attention": LAYERS,
        }, target
        assert not any(tensor.reads for tensor in watched.values()), "weights were read"
        assert not any(OnnxPipeline(canonical_passes(target)).run(model).values()), "a second run found more"
        check_same_outputs(encoder, model, feeds=feeds)
        found = ops(model)
        assert found["LayerNormalization"] == (changes["fuse_layer_normalization"] if target.layer_normalization else 0)
        assert found["Gelu"] == (LAYERS if target.gelu else 0)
        assert found["Attention"] == (LAYERS if target.attention == "onnx" else 0)
        assert found["MultiHeadAttention"] == (LAYERS if target.attention == "microsoft" else 0)
        assert found["Split"] == (LAYERS if target.merge_qkv else 0)
        assert model.opset_imports[""] == target.opset


@pytest.mark.slow
def test_onnx_runtime_keeps_the_fused_operators(encoder, tmp_path, request):
    """Its own optimizer goes on from there: Gelu takes in the bias in front of it, a normalization bias and sum."""
    import onnxruntime

    model = encoder.clone()
    OnnxPipeline(canonical_passes(TARGETS["merged"])).run(model)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # It warns that the file fits this machine only.
    content = ir.serde.serialize_model(model).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert found.count("MultiHeadAttention") == LAYERS
    assert found.count("BiasGelu") + found.count("Gelu") + found.count("FastGelu") == LAYERS
    if request.node.callspec.id != "distilbert":  # Nothing says that its ids have the shape of the rest.
        assert found.count("SkipLayerNormalization") >= 2 * LAYERS
    assert found.count("LayerNormalization") + found.count("SkipLayerNormalization") == 2 * LAYERS + 1


@pytest.mark.slow
@pytest.mark.parametrize("encoder", [MODELS["bert"]], ids=["bert"], indirect=True)
def test_no_arithmetic_on_shapes_is_left(encoder):
    model = encoder.clone()
    OnnxPipeline(canonical_passes(TARGETS["opset 20"])).run(model)
    found = ops(model)
    assert found["Shape"] == 0
    assert found["Softmax"] == LAYERS
    assert found["Sub"] == 1  # The mask is inverted once for all layers.


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_convolutional_network_stays_as_it_is(target):
    text = """g (float[B, 3, 16, 16] x) => (float[B, 5] y) {
        c = Conv <pads=[1, 1, 1, 1]> (x, w)  b = BatchNormalization(c, s, o, m, v)  r = Relu(b)
        p = MaxPool <kernel_shape=[2, 2], strides=[2, 2]> (r)  g = GlobalAveragePool(p)  f = Flatten(g)
        l = Gemm(f, d, e)  y = Softmax(l)
    }"""
    random = np.random.default_rng(0)
    vectors = {name: np.abs(random.normal(size=4)).astype(np.float32) for name in "somv"}
    matrices = {"w": random.normal(size=(4, 3, 3, 3)), "d": random.normal(size=(4, 5)), "e": random.normal(size=5)}
    model = model_of(text, **vectors, **{name: value.astype(np.float32) for name, value in matrices.items()})
    before = ops(model)
    result = model.clone()
    OnnxPipeline(canonical_passes(target)).run(result)
    assert ops(result) == before
    check_same_outputs(model, result)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_unknown_ranks_and_foreign_operators(target):
    text = """g (float[] a, float x, int64[n] shape) => (float y, float z) {
        r = Reshape(x, shape)  m = ReduceMean <axes=[-1]> (r)  d = Sub(r, m)  q = Mul(d, d)
        v = ReduceMean <axes=[-1]> (q)  e = Add(v, a)  s = Sqrt(e)  n = Div(d, s)  t = Softmax(n)
        k = com.microsoft.QuickGelu(t)  y = ReduceSum <keepdims=0> (k)  z = Erf(x)
    }"""
    model = model_of(text)
    model.graph.inputs[1].shape = None
    result = model.clone()
    OnnxPipeline(canonical_passes(target)).run(result)
    assert [node.op_type for node in result.graph] == [node.op_type for node in model.graph]


@pytest.mark.parametrize("name", [name for name in engine_names() if name != "auto"])
def test_every_engine_states_a_target_whose_passes_fit_together(name):
    """Where it cannot run, too: what an engine takes is known without its package."""
    OnnxPipeline(canonical_passes(load_backend(name).onnx_target))  # It raises where a pass lacks what it requires.


def test_passes_fit_together_for_the_installed_version(engine):
    OnnxPipeline(canonical_passes(create_backend(engine).onnx_target))
