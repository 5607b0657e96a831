from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, constant, graph_of, node_of, only, ops, placeholder, weight
from tf_opt.errors import PassError
from tf_opt.passes.tf import fold_constants
from tf_opt.passes.tf.fold_constants import FoldConstants
from tf_opt.weights import is_weight


def test_docstring_before_and_after() -> None:
    def build() -> tf.Tensor:
        return tf.multiply(placeholder("x", [None, 4]), tf.sqrt(tf.constant(16.0)), name="y")

    after = apply_pass(FoldConstants(), graph_of(build), changed=True)
    assert constant(after, only(after, "Mul").input[1]) == 4.0


def test_nothing_to_fold() -> None:
    apply_pass(FoldConstants(), graph_of(lambda: tf.nn.relu(placeholder("x", [None, 4]) * 2.0)), changed=False)


def test_weights_are_not_touched() -> None:
    def build() -> tf.Tensor:
        scale = tf.math.rsqrt(weight("variance", [8]) + 1e-3)
        return placeholder("x", [None, 8]) * scale

    apply_pass(FoldConstants(), graph_of(build), changed=False)


def test_grappler_is_given_no_weight_to_feed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes a tensor of zeros for each Placeholder, which would take as much memory as the model."""
    given: list[str] = []
    optimize = fold_constants.tf_optimizer.OptimizeGraph

    def note(config: Any, meta_graph: Any, **options: Any) -> Any:
        given.extend(node.name for node in meta_graph.graph_def.node if node.op == "Placeholder")
        return optimize(config, meta_graph, **options)

    monkeypatch.setattr(fold_constants.tf_optimizer, "OptimizeGraph", note)

    def build() -> tf.Tensor:
        product = tf.matmul(placeholder("x", [None, 32]), weight("kernel", [32, 32]))
        return product * tf.sqrt(tf.constant(16.0))

    after = apply_pass(FoldConstants(), graph_of(build), changed=True)
    assert set(given) == {"x"}
    assert is_weight(node_of(after, "kernel"))


def test_unused_inputs_stay() -> None:
    def build() -> tf.Tensor:
        placeholder("unused", [None, 2])
        return placeholder("x", [None, 4]) * tf.sqrt(tf.constant(16.0))

    assert node_of(apply_pass(FoldConstants(), graph_of(build), changed=True), "unused").op == "Placeholder"


def test_fetched_constants_keep_their_names() -> None:
    def build() -> list[tf.Tensor]:
        folded = tf.sqrt(tf.constant(16.0), name="folded")
        return [folded, placeholder("x", [None, 4]) * folded]

    assert node_of(apply_pass(FoldConstants(), graph_of(build), changed=True), "folded").op == "Const"


def test_shared_intermediate() -> None:
    def build() -> list[tf.Tensor]:
        shared = tf.exp(tf.sqrt(tf.constant(16.0)), name="shared")
        x = placeholder("x", [None, 4])
        return [x * shared, x + shared]

    assert "Exp" not in ops(apply_pass(FoldConstants(), graph_of(build), changed=True))


def test_large_results_are_not_written() -> None:
    def build() -> tf.Tensor:
        return placeholder("x", [1, 1]) * tf.fill([300, 300], 2.0)

    after = apply_pass(FoldConstants(), graph_of(build))
    assert after.ByteSize() < 50_000


def test_no_fused_or_vendor_ops() -> None:
    def build() -> tf.Tensor:
        x = placeholder("x", [None, 8, 8, 4])
        y = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, weight("w", [3, 3, 4, 4]), 1, "SAME"), weight("b", [4])))
        return y * tf.sqrt(tf.constant(16.0))

    after = apply_pass(FoldConstants(), graph_of(build), changed=True)
    assert not [node.op for node in after.node if node.op.startswith("_")]


def test_a_graph_that_grappler_refuses_is_a_pass_error() -> None:
    graph_def, border = graph_of(lambda: tf.nn.relu(placeholder("x", [None, 4])))
    graph_def.node[-1].input[0] = "missing"
    with pytest.raises(PassError, match="Grappler"):
        FoldConstants().run(graph_def, border)
