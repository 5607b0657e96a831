"""SavedModels with engines for a GPU, on a simulated TensorRT: weights in host memory, plans built or found."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.saved_model.saved_models import QUICK, assert_same_signatures, two_feeds, two_inputs, variables
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt.saved_model.weights import WeightVariables, read_host_weight
from tf_opt.weights import detach_weights


def test_engines_of_tensorrt(
    tmp_path: Path, own_optimizations: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tf_opt.cache_files.cache_directory", lambda: own_optimizations)
    original = two_inputs(tmp_path / "original")
    checked = dict.fromkeys(("serve", "serving_default"), two_feeds())
    with simulated_tensorrt("10.16"):
        options = {**QUICK, "engine": "tensorrt"}
        report = tf_opt.optimize_saved_model(original, tmp_path / "out", feeds=[two_feeds()], **options)
        assert not report.unconverted
        caplog.clear()
        with caplog.at_level(logging.WARNING, "tf_opt"):
            assert_same_signatures(original, tmp_path / "out", checked)
            assert not caplog.records
            shutil.rmtree(own_optimizations / "plans")
            assert_same_signatures(original, tmp_path / "out", {name: two_feeds() for name in checked})
        # One line for both signatures: the second finds the plan that the first has built.
        (record,) = caplog.records
        assert "no plan of it for this GPU" in record.getMessage()
    # Whatever is int32 stays in host memory when it is loaded beside a GPU.
    kinds = tf.train.load_checkpoint(str(tmp_path / "out" / "variables" / "variables")).get_variable_to_dtype_map()
    shapes = variables(tmp_path / "out")
    assert {kinds[name] for name, shape in shapes.items() if np.prod(shape) >= 512} == {tf.int32}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int64"])
@pytest.mark.parametrize("elements", [(512,), (7, 103), (31, 17, 1)])
def test_weights_read_out_of_int32(dtype: str, elements: tuple[int, ...]) -> None:
    kind = tf.as_dtype(dtype).as_numpy_dtype
    value = np.random.default_rng(0).normal(scale=50, size=elements).astype(kind)
    graph = tf.Graph()
    with graph.as_default():
        tf.constant(value, name="weight")
    _, store = detach_weights(graph.as_graph_def())
    weights = WeightVariables()
    variable: Any = weights.host_weight(store, "weight")
    assert variable.dtype == tf.int32
    found = tf.function(lambda: read_host_weight(variable, store.info("weight")))()
    assert found.dtype == tf.as_dtype(dtype)
    np.testing.assert_array_equal(found.numpy(), value)
    assert weights.host_weight(store, "weight") is variable
