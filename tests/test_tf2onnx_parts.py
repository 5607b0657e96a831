"""tf2onnx's parts: where a release moves one, these tests and the user are told which releases have it."""

from __future__ import annotations

import importlib
import sys

import pytest
import tensorflow as tf
import tf2onnx.optimizer

import tf_opt
from tests.small_graphs import feed, mlp
from tf_opt.errors import ExporterVersionError
from tf_opt.export import convertible_ops, export_segment
from tf_opt.tf2onnx_parts import PARTS, WORKING_VERSIONS, optimizers, part


@pytest.mark.parametrize("name", PARTS)
def test_the_installed_tf2onnx_has_every_part(name: str) -> None:
    assert part(name) is not None


def test_all_parts_are_public() -> None:
    assert not [
        name for module, attribute in PARTS.values() for name in (*module.split("."), attribute) if name[0] == "_"
    ]


def test_no_optimizer_of_the_installed_tf2onnx_is_left_out() -> None:
    """A release with others works; whether they are wanted is then to be decided."""
    found = {name for name in vars(tf2onnx.optimizer) if name.endswith("Optimizer")}
    assert found == set(optimizers(()))


@pytest.mark.parametrize("name", ["Select", "EinsumOptimizer"])
def test_an_export_without_a_part_names_it_and_the_releases_that_have_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, attribute = PARTS[name]
    monkeypatch.delattr(importlib.import_module(module), attribute)
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="input_0")
        tf.identity(tf.where(x > 0, x, -x), name="output_0")
    with pytest.raises(ExporterVersionError) as caught:
        export_segment(graph.as_graph_def())
    for each in (f"{module}.{attribute}", f"pip install '{WORKING_VERSIONS}'", "installed tf2onnx 1."):
        assert each in str(caught.value)


def test_an_optimization_raises_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every segment would stay TensorFlow otherwise, for a reason that is none of the model's."""
    monkeypatch.delattr(tf2onnx.optimizer, "EinsumOptimizer")
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", cache=False)
    with pytest.raises(ExporterVersionError, match="EinsumOptimizer"):
        optimizer.optimize_graph_def(mlp(), ["y:0"], [feed(2)])


def test_a_module_that_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    convertible_ops.cache_clear()
    monkeypatch.setitem(sys.modules, "tf2onnx.handler", None)
    with pytest.raises(ExporterVersionError, match=r"tf2onnx\.handler\.tf_op"):
        convertible_ops()
