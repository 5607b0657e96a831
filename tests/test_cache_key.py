from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tensorflow.core.framework import graph_pb2

from tests.small_graphs import feed, mlp
from tf_opt import cache_key as module
from tf_opt.cache_key import cache_key, digest_of_weights
from tf_opt.options import Options
from tf_opt.tolerance import Tolerance
from tf_opt.weights import detach_weights


def key(graph_def: graph_pb2.GraphDef | None = None, **changed: Any) -> str | None:
    light, weights = detach_weights(mlp() if graph_def is None else graph_def)
    feeds = [feed()]
    arguments: dict[str, Any] = {
        "outputs": ["y:0"],
        "feeds": feeds,
        "calibration": feeds,
        "options": Options(),
        "opset": 17,
        "engine": "openvino",
    }
    arguments.update(changed)
    return cache_key(light, weights, **arguments)


def changed_weight(element: int) -> graph_pb2.GraphDef:
    graph_def = mlp()
    tensor = next(node for node in graph_def.node if node.name == "first").attr["value"].tensor
    array = np.frombuffer(tensor.tensor_content, np.float32).copy()
    array[element] = np.nextafter(array[element], np.float32(9))
    tensor.tensor_content = array.tobytes()
    return graph_def


def changed_small_constant() -> graph_pb2.GraphDef:
    graph_def = mlp()
    tensor = next(node for node in graph_def.node if node.name == "bias").attr["value"].tensor
    tensor.tensor_content = bytes(len(tensor.tensor_content))
    return graph_def


def changed_op() -> graph_pb2.GraphDef:
    graph_def = mlp()
    next(node for node in graph_def.node if node.op == "Relu").op = "Elu"
    return graph_def


def test_equal_ingredients_give_equal_keys():
    first = key()
    assert first is not None
    assert key() == first
    assert key(options=Options(denied_ops=["Relu"])) == key(options=Options(denied_ops=("Relu",)))


@pytest.mark.parametrize("graph_def", [changed_weight(0), changed_weight(-1), changed_small_constant(), changed_op()])
def test_graph_and_weights_count(graph_def):
    assert key(graph_def) != key()


def test_exchanged_weights_count():
    _, weights = detach_weights(mlp())
    _, others = detach_weights(mlp(seed=1))
    one, other = weights.node("first"), others.node("first")
    digest = digest_of_weights(weights.extended({"a": one, "b": other}))
    assert digest != digest_of_weights(weights.extended({"a": other, "b": one}))


def test_weights_that_are_stored_as_one_value_count():
    _, weights = detach_weights(mlp())
    digests = set()
    for value in (0.0, 1.0):
        node = graph_pb2.GraphDef().node.add(name="w", op="Const")
        tensor = node.attr["value"].tensor
        tensor.dtype = 1
        tensor.tensor_shape.dim.add(size=1000)
        tensor.float_val.append(value)
        digests.add(digest_of_weights(weights.extended({"w": node})))
    assert len(digests) == 2


@pytest.mark.parametrize(
    "changed",
    [
        {"outputs": ["probabilities:0"]},
        {"outputs": ["y:0", "probabilities:0"]},
        {"opset": 18},
        {"engine": "onnxruntime"},
        {"feeds": [feed(seed=1)]},
        {"feeds": [feed(batch=4)]},
        {"feeds": [feed(), feed()]},
        {"feeds": [{"x:0": feed()["x:0"].astype(np.float64)}]},
        {"calibration": [feed()]},
    ],
    ids=lambda changed: str(next(iter(changed))),
)
def test_what_is_asked_for_counts(changed):
    assert key(**changed) != key()


def test_shape_of_a_feed_counts_where_its_bytes_are_the_same():
    assert key(feeds=[{"x:0": np.zeros((2, 3))}]) != key(feeds=[{"x:0": np.zeros((3, 2))}])


def test_values_of_strings_count():
    feeds = [[{"x:0": np.array([text], object)}] for text in (b"one", b"two", b"one")]
    first, second, third = (key(feeds=each) for each in feeds)
    assert first == third != second


@pytest.mark.parametrize(
    "option",
    [
        {"precision": "int8"},
        {"tolerance": Tolerance(cosine=0.9)},
        {"minimum_segment_size": 4},
        {"dynamic_opt": False},
        {"supported_list": []},
        {"supported_list": ["MatMul"]},
        {"denied_nodes": ["*"]},
        {"adopt": "always"},
        {"rtol": 1e-5},
        {"atol": 1e-5},
        {"measurement_seconds": 1.0},
        {"strict": True},
        {"keep_fallback": False},
        {"specialize_after": 0},
        {"skip_padding": "mask"},
    ],
    ids=lambda option: str(option),
)
def test_options_count(option):
    assert key(options=Options(**option)) != key()


def test_options_that_change_no_result_do_not_count(tmp_path):
    assert key(options=Options(progress=False, cache_dir=tmp_path, dump_dir=tmp_path)) == key()


def test_every_option_is_either_in_the_key_or_known_not_to_matter():
    """A new option counts by itself; one that is excluded has to exist."""
    assert {field.name for field in Options.__dataclass_fields__.values()} >= module._IRRELEVANT_OPTIONS


@pytest.mark.parametrize(
    "options",
    [
        Options(node_filter=lambda node: True),
        Options(tolerance=Tolerance(metric=lambda original, optimized: 1.0, at_least=0.5)),
    ],
    ids=["node_filter", "metric"],
)
def test_functions_cannot_be_compared(options):
    assert key(options=options) is None
    assert key(options=replace(options, node_filter=None, tolerance=None)) == key()


@pytest.mark.parametrize("package", ["tensorflow", "openvino", "tf2onnx", "tf_opt"])
def test_versions_count(monkeypatch, package):
    first = key()
    environment = module.describe_environment()
    versions = {**environment["versions"], package: "0.0.1"}
    monkeypatch.setattr(module, "describe_environment", lambda: {**environment, "versions": versions})
    assert key() != first


@pytest.mark.parametrize(("entry", "value"), [("cpu", "another"), ("cores", 99)])
def test_processor_counts(monkeypatch, entry, value):
    first = key()
    environment = module.describe_environment()
    monkeypatch.setattr(module, "describe_environment", lambda: {**environment, entry: value})
    assert key() != first


def test_instruction_sets_count(monkeypatch):
    first = key()
    monkeypatch.setattr(module, "cpu_flags", lambda: frozenset({"sse"}))
    assert key() != first


@pytest.mark.parametrize("name", ["TF_ENABLE_ONEDNN_OPTS", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA"])
def test_variables_that_choose_kernels_count(monkeypatch, name):
    monkeypatch.delenv(name, raising=False)
    first = key()
    monkeypatch.setenv(name, "7")
    assert key() != first


def test_share_of_the_processors_counts(monkeypatch, tmp_path):
    share = tmp_path / "cpu.max"
    share.write_text("max 100000")
    monkeypatch.setattr(module, "_MACHINE_FILES", (str(share), str(tmp_path / "absent")))
    first = key()
    share.write_text("150000 100000")
    assert key() != first


def test_sources_count(monkeypatch, tmp_path):
    source = tmp_path / "tf_opt" / "module.py"
    source.parent.mkdir()
    source.write_text("one = 1\n")
    monkeypatch.setattr(module.tf_opt, "__path__", [str(source.parent)])
    module.digest_of_sources.cache_clear()
    try:
        first = key()
        module.digest_of_sources.cache_clear()
        source.write_text("one = 2\n")
        assert key() != first
    finally:
        module.digest_of_sources.cache_clear()
