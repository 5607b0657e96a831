"""The user's metric sees each feed's outputs, may not change them, and has to return a number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tf_opt.errors import InvalidOptionError
from tf_opt.output_accuracy import JudgedOutputs
from tf_opt.tolerance import Metric, Tolerance


def judged(metric: Metric) -> JudgedOutputs:
    """Both sides have run on one feed."""
    outputs = JudgedOutputs(
        lambda feed: {"y": np.zeros(3, np.float32)},
        lambda feed: {"y": np.ones(3, np.float32)},
        Tolerance(metric=metric, at_least=0.5),
    )
    outputs.run_original({})
    outputs.run_optimized({})
    return outputs


@pytest.mark.parametrize("value", [0.75, np.float32(0.75), np.array([0.75])])
def test_numbers_are_taken(value: Any) -> None:
    assert judged(lambda original, optimized: value)._metrics == [0.75]


@pytest.mark.parametrize(
    ("value", "named"), [(None, "None"), ("0.9", "'0.9'"), (np.ones([2, 3]), r"shape \[2, 3\]"), ({}, "{}")]
)
def test_what_is_no_number_is_named(value: Any, named: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"The metric of the tolerance returned .*{named}; expected one"):
        judged(lambda original, optimized: value)


@pytest.mark.parametrize("side", [0, 1])
def test_outputs_cannot_be_changed(side: int) -> None:
    def metric(*outputs: Any) -> float:
        outputs[side]["y"] *= 2.0
        return 1.0

    with pytest.raises(ValueError, match="read-only"):
        judged(metric)
