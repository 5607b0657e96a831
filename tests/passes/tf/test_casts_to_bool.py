from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.passes.tf.pass_testing import apply_pass, constant, graph_of, node_of, ops, placeholder, run
from tf_opt.passes.tf.casts_to_bool import CastsToBool


def test_docstring_before_and_after() -> None:
    after = apply_pass(
        CastsToBool(),
        graph_of(lambda: tf.logical_not(tf.cast(placeholder("mask", [None, 4], tf.int32), tf.bool, name="real"))),
        changed=True,
    )
    real = node_of(after, "real")
    assert (real.op, real.input[0], constant(after, real.input[1])) == ("NotEqual", "mask", 0)
    assert not ops(after)["Cast"]


@pytest.mark.parametrize("dtype", [tf.int32, tf.int64, tf.bfloat16, tf.float16, tf.float32, tf.float64])
def test_values_that_engines_cast_wrong(dtype: tf.DType) -> None:
    graph_def, border = graph_of(lambda: tf.cast(placeholder("mask", [None], dtype), tf.bool, name="real"))
    after = apply_pass(CastsToBool(), (graph_def, border), changed=True)
    others = [0.25, -0.0, np.nan, np.inf] if dtype.is_floating else [256]
    given = np.array([dtype.min, -1, 0, 1, dtype.max, *others], dtype.as_numpy_dtype)
    ((before,),) = run(graph_def, border, [{"mask:0": given}])
    ((real,),) = run(after, border, [{"mask:0": given}])
    assert real.tolist() == before.tolist()
    assert real.tolist()[:5] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("source", "target"), [(tf.uint8, tf.bool), (tf.uint64, tf.bool), (tf.int32, tf.float32), (tf.int64, tf.int32)]
)
def test_leaves_other_casts_alone(source: tf.DType, target: tf.DType) -> None:
    apply_pass(CastsToBool(), graph_of(lambda: tf.cast(placeholder("x", [None, 4], source), target)), changed=False)


def test_shared_and_fetched_mask() -> None:
    def build() -> list[tf.Tensor]:
        mask = placeholder("mask", [None, 4], tf.int32)
        real = tf.cast(mask, tf.bool, name="real")
        return [real, tf.logical_not(real), mask + 1]

    assert node_of(apply_pass(CastsToBool(), graph_of(build), changed=True), "real").op == "NotEqual"
