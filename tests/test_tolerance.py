"""Tolerances: what they refuse to be, and what they have against outputs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tf_opt.errors import InvalidOptionError
from tf_opt.tolerance import Accuracy, Tolerance, objection, worst_metric


def metric(original: Any, optimized: Any) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({}, "without any criterion"),
        ({"metric": metric}, "at_least or at_most"),
        ({"at_least": 0.5}, "without any criterion"),
        ({"cosine": 0.9, "at_most": 0.5}, "need a metric"),
        ({"cosine": 1.5}, "from 0 to 1"),
        ({"cosine": math.nan}, "cosine is nan"),
        ({"cosine": True}, "cosine is True"),
        ({"maximum_absolute": -1.0}, "maximum_absolute is -1.0"),
        ({"metric": "f1", "at_least": 0.5}, "expected a callable"),
        ({"metric": metric, "at_least": math.nan}, "at_least is nan"),
        ({"metric": metric, "at_least": 1.0, "at_most": 0.5}, "no value of the metric is accepted"),
    ],
)
def test_impossible_tolerances_say_what_is_wrong(keywords: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidOptionError, match=named):
        Tolerance(**keywords)


@pytest.mark.parametrize(
    ("tolerance", "accuracy", "against"),
    [
        (Tolerance(maximum_absolute=0.1), Accuracy(maximum_absolute=0.1), ""),
        (Tolerance(maximum_absolute=0.1), Accuracy(maximum_absolute=0.2), "largest difference 0.2"),
        (Tolerance(maximum_absolute=0.1), Accuracy(maximum_absolute=math.nan), "largest difference nan"),
        (Tolerance(cosine=0.99), Accuracy(maximum_absolute=9.0, cosine=0.99), ""),
        (Tolerance(cosine=0.99), Accuracy(maximum_absolute=0.0, cosine=0.98), "cosine 0.98"),
        (Tolerance(cosine=0.99), Accuracy(maximum_absolute=0.0, cosine=math.nan), "cosine nan"),
        (Tolerance(cosine=0.99), Accuracy(maximum_absolute=0.0), ""),
        (Tolerance(cosine=1.0), Accuracy(maximum_absolute=0.0, cosine=0.9999999998), "cosine 0.9999999998, wanted"),
        (
            Tolerance(cosine=0.99999),
            Accuracy(maximum_absolute=0.0, cosine=0.9),
            "cosine 0.9, wanted is at least 0.99999",
        ),
        (Tolerance(metric=metric, at_least=0.5), Accuracy(maximum_absolute=0.0, metric=0.4), "at least 0.5"),
        (Tolerance(metric=metric, at_most=0.5), Accuracy(maximum_absolute=0.0, metric=0.6), "at most 0.5"),
        (Tolerance(metric=metric, at_most=0.5), Accuracy(maximum_absolute=0.0, metric=math.nan), "metric nan"),
        (Tolerance(metric=metric, at_least=0.1, at_most=0.5), Accuracy(maximum_absolute=0.0, metric=0.3), ""),
    ],
)
def test_objections(tolerance: Tolerance, accuracy: Accuracy, against: str) -> None:
    found = objection(tolerance, accuracy)
    assert against in found
    assert bool(found) == bool(against)


def test_worst_metric_is_on_the_side_that_matters() -> None:
    assert worst_metric(Tolerance(cosine=0.9), [0.5]) is None
    assert worst_metric(Tolerance(metric=metric, at_least=0.5), [0.7, 0.6, 0.9]) == 0.6
    assert worst_metric(Tolerance(metric=metric, at_most=0.5), [0.1, 0.3]) == 0.3
    assert worst_metric(Tolerance(metric=metric, at_least=0.1, at_most=0.5), [0.2, 0.7, 0.3]) == 0.7
    assert math.isnan(worst_metric(Tolerance(metric=metric, at_most=0.5), [0.1, math.nan, 0.0]) or 0.0)


def test_criteria_are_described() -> None:
    text = Tolerance(maximum_absolute=0.1, cosine=0.9, metric=metric, at_least=0.2, at_most=2).describe()
    assert text == "largest difference at most 0.1, cosine at least 0.9, metric at least 0.2, metric at most 2"
