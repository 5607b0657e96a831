from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest

from tf_opt.plain_data import from_plain, to_plain
from tf_opt.report.optimization import Measurement, OptimizationReport, PrecisionAttempt, RefusedNode, SegmentReport


@dataclass(frozen=True)
class Inner:
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    inner: Inner | None = None
    pair: tuple[float, int] = (0.0, 0)
    by_name: Mapping[str, Inner] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"
    anything: Any = None


OUTER = Outer(
    count=3,
    inner=Inner(("x", "y")),
    pair=(math.inf, 2),
    by_name={"z": Inner()},
    kind="b",
    anything={"list": [1, None]},
)


def report() -> OptimizationReport:
    measurement = Measurement(
        original_milliseconds=2.0,
        optimized_milliseconds=1.0,
        ratio=2.0,
        interval=(1.5, math.inf),
        rounds=3,
        verdict="faster",
    )
    segment = SegmentReport(
        name="tf_opt_segment_0",
        node_count=2,
        op_counts={"MatMul": 2},
        inputs=("x:0",),
        outputs=("y:0",),
        weight_bytes=12,
        measurement=measurement,
    )
    return OptimizationReport(
        engine="openvino",
        compute_nodes=3,
        original_nodes=4,
        attempts=(PrecisionAttempt(precision="int8", ratio=3.0),),
        segments=(segment,),
        refused=(RefusedNode(name="n", op="Assert", category="op", reason="no"),),
        stage_seconds={"passes": 1.5},
        measurement=measurement,
        measurements=(measurement,),
        environment={"cpu": "a", "versions": {"openvino": "1"}},
        notes=("note",),
    )


@pytest.mark.parametrize("value", [OUTER, Outer(count=0), report()], ids=["filled", "empty", "report"])
def test_json_and_back(value):
    assert from_plain(type(value), json.loads(json.dumps(to_plain(value)))) == value


def test_numbers_of_numpy_become_python_numbers():
    plain = to_plain(Outer(count=np.int64(3), pair=(np.float32(0.5), np.int32(1))))
    assert json.loads(json.dumps(plain))["pair"] == [0.5, 1]


def test_numbers_that_json_has_not_are_written_as_their_names():
    content = {
        "a": (math.inf, {"b": [np.float32("nan"), -math.inf]}),
        "c": Outer(count=1, pair=(math.inf, 2)),
        "d": 0.5,
    }
    plain = to_plain(content, finite=True)
    assert plain["a"] == ["Infinity", {"b": ["NaN", "-Infinity"]}]
    assert plain["d"] == 0.5
    assert from_plain(Outer, plain["c"]) == content["c"]
    assert to_plain(content)["a"][0] == math.inf


@pytest.mark.parametrize(
    "change",
    [
        {"count": "3"},
        {"count": 3.5},
        {"inner": {"names": "x"}},
        {"inner": {}},
        {"pair": [1.0]},
        {"kind": "c"},
        {"unknown": 1},
        {"by_name": []},
    ],
    ids=lambda change: str(change),
)
def test_data_of_another_form_is_refused(change):
    with pytest.raises(TypeError):
        from_plain(Outer, {**to_plain(OUTER), **change})


def test_missing_field_is_refused():
    plain = to_plain(OUTER)
    del plain["count"]
    with pytest.raises(TypeError):
        from_plain(Outer, plain)


@pytest.mark.parametrize("value", [Outer(count=1, anything=object()), Outer(count=1, anything={1: 2})])
def test_what_is_no_plain_data_is_refused(value):
    with pytest.raises(TypeError, match="plain data"):
        to_plain(value)


def test_lenient_reading_takes_defaults_and_leaves_out_what_is_unknown():
    data = {"count": 3, "inner": {"names": ["x"], "newer": 1}, "newer": {"a": 1}}
    assert from_plain(Outer, data, lenient=True) == Outer(count=3, inner=Inner(("x",)))
    with pytest.raises(TypeError):
        from_plain(Outer, data)
    with pytest.raises(TypeError, match="count"):
        from_plain(Outer, {}, lenient=True)  # There is no default.


def test_numbers_that_json_has_not_are_read_from_their_names():
    data = to_plain(OUTER) | {"pair": ["Infinity", 2]}
    assert from_plain(Outer, data) == OUTER
    with pytest.raises(TypeError):
        from_plain(Outer, data | {"pair": ["Infinite", 2]})
