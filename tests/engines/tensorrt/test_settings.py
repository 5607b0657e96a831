"""Settings: what is possible, what a plan depends on, what a stored engine carries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tf_opt.engines.tensorrt import TensorRTSettings
from tf_opt.errors import InvalidOptionError

RANGE = ((1, 16), (8, 128), (32, 384))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("profile_strategy", "best"),
        ("hardware_compatibility", "all"),
        ("workspace_bytes", 0),
        ("workspace_bytes", 1.5),
        ("optimization_level", 6),
        ("optimization_level", -1),
        ("optimization_level", True),
        ("maximum_contexts", 0),
        ("timing_cache", 3),
        ("tf32", 1),
        ("cuda_graphs", "no"),
        ("version_compatible", None),
        ("strip_weights", "yes"),
        ("tactic_sources", "CUBLAS"),
        ("tactic_sources", [1]),
        ("profiles", {"x": RANGE}),
        ("profiles", [RANGE]),
        ("profiles", [{"x": RANGE[:2]}]),
        ("profiles", [{"x": ((1,), (8, 128), (32, 384))}]),
        ("profiles", [{"x": ((1, 16), (64, 128), (32, 384))}]),
        ("profiles", [{"x": ((-1, 16), (8, 128), (32, 384))}]),
        ("profiles", [{"x": ((1, "16"), (8, 128), (32, 384))}]),
        ("profiles", [{"x": "abc"}]),
    ],
)
def test_impossible_values_name_the_field(field, value):
    with pytest.raises(InvalidOptionError, match="input 'x'|" + field):
        TensorRTSettings(**{field: value})


def test_possible_values():
    TensorRTSettings(
        profiles=[
            {"x": RANGE, "mask": ([1, 16], [8, 128], [32, 384])},
            {"x": ((), (), ())},
            {"x": tuple(np.array(RANGE))},
        ],
        profile_strategy="range+optimal",
        workspace_bytes=2**30,
        optimization_level=0,
        timing_cache=Path("timings"),
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        cuda_graphs=False,
        maximum_contexts=1,
        tf32=True,
        tactic_sources=("JIT_CONVOLUTIONS",),
    )


@pytest.mark.parametrize("smallest", [(0, 16), (1, 0), np.array([0, 16])])
def test_profiles_have_elements(smallest):
    with pytest.raises(InvalidOptionError, match=r"'x'.*at least 1 in each dimension.*without elements"):
        TensorRTSettings(profiles=[{"x": (smallest, (8, 128), (32, 384))}])


@pytest.mark.parametrize("others", [{"profile_strategy": "optimal"}, {"profiles": [{"x": RANGE}, {"x": RANGE}]}])
def test_stripped_weights_and_several_profiles_exclude_each_other(others):
    with pytest.raises(InvalidOptionError, match="one shape profile"):
        TensorRTSettings(strip_weights=True, **others)


def test_fp32_means_fp32():
    assert TensorRTSettings().tf32 is False


def test_stored_form_is_read_back_and_has_no_path_of_this_machine():
    settings = TensorRTSettings(
        timing_cache="/somewhere",
        workspace_bytes=5,
        tactic_sources=("CUDNN",),
        maximum_contexts=7,
        profiles=[{"x": RANGE}],
    )
    plain = json.loads(json.dumps(settings.as_dict()))
    assert "/somewhere" not in json.dumps(plain)
    again = TensorRTSettings.from_dict({**plain, "of_a_later_version": 1})
    assert (again.workspace_bytes, again.tactic_sources, again.maximum_contexts) == (5, ["CUDNN"], 7)
    assert again.plan_options() == settings.plan_options()


def test_plan_options_are_those_that_change_the_plan():
    default = TensorRTSettings().plan_options()
    assert TensorRTSettings(cuda_graphs=False, maximum_contexts=1, timing_cache="t").plan_options() == default
    for changed in ({"tf32": True}, {"workspace_bytes": 1}, {"optimization_level": 4}, {"tactic_sources": ()}):
        assert TensorRTSettings(**changed).plan_options() != default


def test_iterators_are_read_once():
    given = {"x": ((1,), (2,), (3,))}
    assert TensorRTSettings(profiles=iter([given])).profiles == (given,)
    assert TensorRTSettings(tactic_sources=iter(["JIT_CONVOLUTIONS"])).tactic_sources == ("JIT_CONVOLUTIONS",)


def test_numbers_of_numpy_are_plain_numbers():
    plain = TensorRTSettings(profiles=[{"ids": RANGE}], workspace_bytes=2**30, maximum_contexts=2)
    arrays = TensorRTSettings(
        profiles=[{"ids": np.array(RANGE)}], workspace_bytes=np.int64(2**30), maximum_contexts=np.uint8(2)
    )
    assert arrays == plain
    assert json.dumps(arrays.as_dict()) == json.dumps(plain.as_dict())
    assert json.dumps(arrays.plan_options()) == json.dumps(plain.plan_options())
