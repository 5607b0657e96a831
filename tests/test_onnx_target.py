from __future__ import annotations

import pytest

from tf_opt.errors import InvalidOptionError
from tf_opt.onnx_target import OnnxTarget


def test_the_default_is_what_every_reader_takes():
    target = OnnxTarget(name="any")
    assert (target.opset, target.gelu, target.attention, target.merge_qkv) == (17, False, "matmul", False)
    assert target.int8 == "openvino"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 16}, "asks for opset 16; expected 17 to 23"),
        ({"opset": 24}, "asks for opset 24"),
        ({"opset": 19, "gelu": True}, "wants Gelu at opset 19, but it appeared in 20"),
        ({"opset": 22, "attention": "onnx"}, "wants Attention at opset 22, but it appeared in 23"),
        ({"attention": "flash"}, "attention form 'flash'; expected 'matmul', 'onnx' or 'microsoft'"),
        ({"int8": "int7"}, "int8 form 'int7'; expected one of openvino, onnxruntime, tensorrt"),
    ],
)
def test_forms_that_the_operator_set_does_not_have(options, message):
    with pytest.raises(InvalidOptionError, match=message):
        OnnxTarget(name="engine", **options)
