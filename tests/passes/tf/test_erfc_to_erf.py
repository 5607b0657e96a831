from __future__ import annotations

from typing import Any

import pytest
import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, constant, graph_of, node_of, only, ops, placeholder
from tf_opt.passes.tf.erfc_to_erf import ErfcToErf


def test_docstring_before_and_after() -> None:
    def build() -> list[tf.Tensor]:
        x, y = placeholder("x", [None, 4]), placeholder("y", [None, 4])
        return [tf.math.erfc(-x * 0.7, name="negated"), tf.math.erfc(y, name="plain")]

    after = apply_pass(ErfcToErf(), graph_of(build), changed=True)
    negated, plain = node_of(after, "negated"), node_of(after, "plain")
    assert (negated.op, plain.op) == ("AddV2", "Sub")
    assert constant(after, negated.input[0]) == constant(after, plain.input[0]) == 1.0
    assert node_of(after, negated.input[1]).op == node_of(after, plain.input[1]).op == "Erf"
    assert node_of(after, node_of(after, negated.input[1]).input[0]).input[0] == "x"
    assert "Neg" not in ops(after)


@pytest.mark.parametrize(
    "argument",
    [lambda x: -x, lambda x: -x / 1.4142, lambda x: 0.7 * -x, lambda x: -x * x],
    ids=["Neg", "RealDiv", "Mul with the constant first", "Mul with itself"],
)
def test_finds_the_minus(argument: Any) -> None:
    after = apply_pass(ErfcToErf(), graph_of(lambda: tf.math.erfc(argument(placeholder("x", [None, 4])), name="y")))
    assert (node_of(after, "y").op, ops(after)["Neg"]) == ("AddV2", 0)


def test_leaves_erf_alone() -> None:
    apply_pass(ErfcToErf(), graph_of(lambda: tf.math.erf(-placeholder("x", [None, 4]))), changed=False)


def test_a_minus_further_down_does_not_count() -> None:
    after = apply_pass(ErfcToErf(), graph_of(lambda: tf.math.erfc(1.0 - placeholder("x", [None, 4]), name="y")))
    assert node_of(after, "y").op == "Sub"


def test_fetched_minus_and_fetched_result_keep_their_names() -> None:
    def build() -> list[tf.Tensor]:
        minus = tf.negative(placeholder("x", [None, 4]), name="minus")
        return [minus, tf.math.erfc(minus, name="y")]

    after = apply_pass(ErfcToErf(), graph_of(build), changed=True)
    assert only(after, "Erf").input == ["x"]


def test_shared_scaling_stays_for_its_other_reader() -> None:
    def build() -> list[tf.Tensor]:
        scaled = tf.multiply(-placeholder("x", [None, 4]), 0.7, name="scaled")
        return [tf.math.erfc(scaled), tf.nn.relu(scaled)]

    after = apply_pass(ErfcToErf(), graph_of(build), changed=True)
    assert node_of(after, "scaled").input[0] == only(after, "Neg").name


def test_keeps_the_dtype() -> None:
    after = apply_pass(ErfcToErf(), graph_of(lambda: tf.math.erfc(-placeholder("x", [2], tf.float64))), changed=True)
    assert only(after, "Erf").attr["T"].type == tf.float64.as_datatype_enum
