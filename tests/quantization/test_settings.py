from __future__ import annotations

import pytest

from tf_opt.errors import InvalidOptionError
from tf_opt.quantization import QuantizationSettings


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"target": "openvin"}, "Did you mean 'openvino'"),
        ({"method": "guess"}, "expected one of search, nncf"),
        ({"denied_ops": ["Matmul"]}, "Did you mean 'MatMul'"),
        ({"denied_ops": "MatMul"}, "expected a list of strings"),
        ({"denied_nodes": [3]}, "expected a list of strings"),
        ({"denied_nodes": iter(["pooler"])}, "expected a list of strings"),
        ({"smoothing": iter([0.5])}, "list of numbers"),
        ({"smoothing": (0.5, 1.5)}, "numbers from 0 to 1"),
        ({"smoothing": (float("nan"),)}, "numbers from 0 to 1"),
        ({"smoothing": 0.5}, "list of numbers"),
        ({"weight_bits": 4}, "expected 7, 8 or None"),
        ({"correct_bias": 1}, "True or False"),
        ({"maximum_samples": 0}, "at least 1"),
        ({"maximum_rows": True}, "at least 1"),
    ],
)
def test_impossible_values_are_refused(keywords, message):
    with pytest.raises(InvalidOptionError, match=message):
        QuantizationSettings(**keywords)


@pytest.mark.parametrize(
    ("keywords", "symmetric", "levels"),
    [
        ({}, False, 63),
        ({"target": "onnxruntime"}, False, 63),
        ({"weight_bits": 8}, False, 127),
        ({"target": "tensorrt"}, True, 127),
        ({"target": "tensorrt", "weight_bits": 7}, True, 63),
    ],
)
def test_form_follows_the_engine(keywords, symmetric, levels):
    settings = QuantizationSettings(**keywords)
    assert settings.symmetric_activations is symmetric
    assert settings.weight_levels == levels
