"""Names in options that stand for nothing are refused before anything is built, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.small_graphs import feed, mlp
from tf_opt.errors import InvalidOptionError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.light_graph import LightGraph, light_graph
from tf_opt.option_names import check_option_names
from tf_opt.options import Options
from tf_opt.quantization import QuantizationSettings
from tf_opt.quantization.layers import find_layers


def model(name: str = "x") -> LightGraph:
    return light_graph(frozen_from_graph_def(mlp(name=name), "y"))


def check(*models: LightGraph, **options: Any) -> None:
    check_option_names(Options(**options), models or [model()])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"denied_ops": ["Sofmax"]}, r"denied_ops has 'Sofmax'.* Did you mean 'Softmax'"),
        ({"denied_ops": ["StringJion"]}, r"'StringJion'.* Did you mean 'StringJoin'"),
        ({"denied_ops": ["Convv*"]}, r"'Convv\*', which is neither an op of TensorFlow"),
        ({"supported_list": ["MatMul", "Biasadd"]}, r"supported_list has 'Biasadd'.* Did you mean 'BiasAdd'"),
        ({"denied_nodes": ["activaton"]}, r"denied_nodes has 'activaton', which no node .* Did you mean 'activation'"),
        ({"denied_nodes": ["y:0"]}, r"without ':0'"),
        ({"denied_nodes": ["encoder/*"]}, r"'encoder/\*'"),
        ({"supported_nodes": ["hiden*"]}, r"supported_nodes has 'hiden\*'"),
        ({"denied_ops": [""]}, "denied_ops has ''"),
        ({"skip_padding": "z"}, "skip_padding is 'z'"),
        ({"tensorrt": tf_opt.TensorRTSettings(profiles=[{"z": ((1,), (1,), (1,))}])}, "The shape profile names 'z'"),
        (
            {"precision": "int8", "quantization": QuantizationSettings(denied_nodes=["hiden/*"])},
            r"quantization\.denied_nodes has 'hiden/\*'",
        ),
        (
            {"precision": "int8", "quantization": QuantizationSettings(denied_nodes=["produkt"])},
            r"'produkt', which no node of the graph is called. Did you mean 'product' or 'probabilities'\?",
        ),
    ],
)
def test_names_of_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        check(**options)
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", **options)
    with pytest.raises(InvalidOptionError, match=message):
        optimizer.optimize_graph_def(mlp(), ["y"], [feed()])
    with pytest.raises(InvalidOptionError, match=message):
        optimizer.analyze(mlp(), ["y"])


def test_names_of_something() -> None:
    check(denied_ops=["Softmax"], supported_list=["MatMul", "Bias*"])
    check(denied_ops=["StringJoin", "Conv*", "Switch"])  # TensorFlow has them, this graph does not.
    check(denied_nodes=["y", "prob*"], supported_nodes=["?*"])
    check()
    check_option_names(Options(denied_nodes=["nothing"]), [])


def test_nodes_of_any_graph_will_do() -> None:
    check(model("first"), model("second"), denied_nodes=["second"])
    with pytest.raises(InvalidOptionError, match="'third'"):
        check(model("first"), model("second"), denied_nodes=["third"])


def heads() -> FrozenGraph:
    """A product of rows, cut into four heads: a pass writes it anew, as a product of three dimensions."""
    weight = np.random.default_rng(0).normal(size=[64, 64]).astype(np.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 64], tf.float32, name="x")])
    def split(x: tf.Tensor) -> tf.Tensor:
        product = tf.matmul(tf.reshape(x, [-1, 64]), tf.constant(weight), name="product")
        return tf.nn.softmax(tf.nn.relu(tf.reshape(product, [-1, 8, 4, 16])))

    return tf_opt.freeze_concrete_function(split.get_concrete_function())


def test_names_that_a_pass_wrote_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = heads()
    seen: set[str] = set()

    def spy(*arguments: Any) -> Any:
        layers, skipped = find_layers(*arguments)
        seen.update(each.name for each in (*layers, *skipped))
        return layers, skipped

    monkeypatch.setattr("tf_opt.quantization.quantize.find_layers", spy)
    options: dict[str, Any] = {"engine": "openvino", "precision": "int8", "cache": False, "progress": False}
    tf_opt.Tf2TrtOpt(**options, adopt="always").optimize(frozen, tf_opt.random_feeds(frozen, batch=2))
    assert seen - {node.name for node in frozen.graph_def.node}  # Else this says nothing.
    for name in seen:
        check(light_graph(frozen), **options, quantization=QuantizationSettings(denied_nodes=[name]))
        check(light_graph(frozen), **options, denied_nodes=[name])


def test_names_that_no_layer_has_are_unknown() -> None:
    # Products are merged behind the quantization, so that such a name would have no effect.
    with pytest.raises(InvalidOptionError, match="'product/merged'"):
        check(
            light_graph(heads()), precision="int8", quantization=QuantizationSettings(denied_nodes=["product/merged"])
        )
