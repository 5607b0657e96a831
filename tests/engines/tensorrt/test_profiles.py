"""The choice of a profile, and profiles in a stored engine."""

from __future__ import annotations

import json

import pytest

from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt.profiles import ProfileTable, from_plain, to_plain
from tf_opt.ops.python_runtime import UnsupportedShapeError

TABLE = ProfileTable(
    shapes=({"a": ((1, 4), (2, 4)), "b": ((1,), (2,))}, {"a": ((1, 1), (8, 8)), "b": ((4,), (8,))}), values=({}, {})
)


def test_profiles_survive_json():
    profiles = [
        ShapeProfile(
            minimum={"b": (1,), "a": ()}, optimum={"b": (2,), "a": ()}, maximum={"b": (3,), "a": ()},
            values={"b": ((0, 1), (1, 2), (2, 3))},
        ),
        ShapeProfile(minimum={}, optimum={}, maximum={}),
    ]  # fmt: skip
    assert from_plain(json.loads(json.dumps(to_plain(profiles)))) == profiles


@pytest.mark.parametrize(
    ("a", "b", "index"), [((1, 4), (1,), 0), ((2, 4), (2,), 0), ((2, 4), (4,), 1), ((8, 8), (8,), 1), ((1, 1), (4,), 1)]
)
def test_first_profile_that_takes_all_inputs(a, b, index):
    assert TABLE.choose({"a": a, "b": b}, {}) == index


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((9, 4), (1,), r"a has the shape \(9, 4\); the engine takes \(1, 4\) to \(2, 4\) or \(1, 1\) to \(8, 8\)"),
        ((2, 4, 1), (1,), r"a has the shape \(2, 4, 1\)"),
        ((2, 4), (3,), r"b has the shape \(3,\)"),
        ((8, 8), (1,), r"all of a \(8, 8\), b \(1,\) together"),
    ],
)
def test_reason_names_the_input(a, b, message):
    with pytest.raises(UnsupportedShapeError, match=message):
        TABLE.choose({"a": a, "b": b}, {})


def test_values_of_shapes_count_too():
    shapes = {"a": ((0,), (9,))}
    table = ProfileTable(shapes=(shapes, shapes), values=({"a": ((1, 1), (4, 4))}, {"a": ((1, 1), (8, 8))}))
    assert table.choose({"a": (2,)}, {"a": (4, 4)}) == 0
    assert table.choose({"a": (2,)}, {"a": (4, 5)}) == 1
    with pytest.raises(UnsupportedShapeError, match=r"a has the values \(9, 1\)"):
        table.choose({"a": (2,)}, {"a": (9, 1)})
