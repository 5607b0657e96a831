from __future__ import annotations

import dataclasses

import pytest

import tf_opt
from tf_opt import errors
from tf_opt.options import Options
from tf_opt.tolerance import Tolerance


def test_defaults_are_valid_and_frozen():
    options = Options()
    assert (options.engine, options.adopt, options.minimum_segment_size) == ("auto", "measured", 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.engine = "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimum_segment_size": 0}, "minimum_segment_size is 0"),
        ({"minimum_segment_size": 2.5}, "integer"),
        ({"minimum_segment_size": True}, "integer"),
        ({"maximum_cached_engines": 0}, "at least 1"),
        ({"specialize_after": -1}, "at least 0"),
        ({"adopt": "sometimes"}, "measured, always"),
        ({"rtol": -1e-3}, "rtol"),
        ({"atol": float("nan")}, "atol"),
        ({"atol": "much"}, "atol"),
        ({"measurement_seconds": 0}, "positive"),
        ({"supported_list": "MatMul"}, "list of strings"),
        ({"denied_nodes": [1]}, "list of strings"),
        ({"node_filter": "MatMul"}, "callable"),
        ({"strict": "yes"}, "True or False"),
        ({"denied_ops": iter(["MatMul"])}, "list of strings"),
        ({"quantization": {"denied_nodes": ["x"]}}, "quantization is .*; expected a tf_opt.QuantizationSettings"),
        ({"precision": "auto", "adopt": "always"}, "precision is 'auto' and adopt is 'always'"),
        ({"tolerance": Tolerance(cosine=0.9), "adopt": "always"}, "which compares nothing"),
        ({"tolerance": 0.9}, "tolerance is 0.9; expected a tf_opt.Tolerance"),
        ({"minimum_segmentsize": 3}, "Did you mean 'minimum_segment_size'"),
    ],
)
def test_impossible_values(options, message):
    with pytest.raises(errors.InvalidOptionError, match=message):
        tf_opt.Tf2TrtOpt(**options)


def test_unknown_engine_names_the_nearest():
    with pytest.raises(errors.UnknownEngineError, match="Did you mean 'openvino'"):
        tf_opt.Tf2TrtOpt(engine="openvin")


@pytest.mark.parametrize("engine", [b"openvino", 3, None, [b"openvino"]])
def test_engine_that_is_no_name(engine):
    with pytest.raises(errors.InvalidOptionError, match="expected a name"):
        tf_opt.Tf2TrtOpt(engine=engine)
