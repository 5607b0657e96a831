"""What TensorRT does not take, by version and GPU."""

from __future__ import annotations

import pytest

from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt.engines.tensorrt import TensorRTBackend
from tf_opt.engines.tensorrt.refusals import node_refusal, precision_refusal
from tf_opt.tensor_info import TensorInfo


def info(dtype="float32", shape=(None, 4), name="a:0"):
    return TensorInfo(name=name, dtype=dtype, shape=shape)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "int64", "bool"])
def test_types_that_are_computed(dtype):
    assert node_refusal((10, 0), "AddV2", [info(dtype)], [info(dtype)]) is None


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        ("float64", "float32"),
        ("string", "does not have"),
        ("complex64", "does not have"),
        ("resource", "does not have"),
        ("int8", "quantization"),
        ("uint8", "converts"),
        ("int16", "does not have"),
    ],
)
def test_types_that_are_not(dtype, reason):
    assert reason in node_refusal((10, 0), "AddV2", [info()], [info(dtype, name="b:0")])
    assert "b:0 has dtype" in node_refusal((10, 0), "AddV2", [info(dtype, name="b:0")], [info()])


def test_bytes_may_be_converted_only():
    assert node_refusal((10, 0), "Cast", [info("uint8")], [info()]) is None
    assert node_refusal((8, 6), "Cast", [info("uint8")], [info()]) is not None


@pytest.mark.parametrize("op", ["UniqueV2", "BitwiseAnd", "RFFT", "TensorListReserve", "StringJoin", "Multinomial"])
def test_ops_that_are_not_done(op):
    assert op in node_refusal((11, 4), op, [info()], [info()])


def test_ranks():
    assert "unknown rank" in node_refusal((10, 0), "AddV2", [info(shape=None)], [info()])
    assert node_refusal((10, 0), "AddV2", [info()], [info(shape=None)]) is None
    assert "9 dimensions" in node_refusal((10, 0), "AddV2", [info()], [info(shape=(1,) * 9)])
    assert node_refusal((10, 0), "AddV2", [info(shape=(1,) * 8)], [info()]) is None


def test_before_version_10_there_is_no_int64_arithmetic_and_no_bfloat16():
    assert "int32" in node_refusal((8, 6), "AddV2", [info("int64")], [info("int64")])
    assert node_refusal((8, 6), "GatherV2", [info(), info("int64")], [info()]) is None
    assert "version 10" in node_refusal((8, 6), "AddV2", [info("bfloat16")], [info("bfloat16")])


@pytest.mark.parametrize(("precision", "lowest"), [("fp16", (7, 0)), ("bf16", (8, 0)), ("int8", (6, 1))])
def test_precisions_by_compute_capability(precision, lowest):
    assert precision_refusal((10, 0), lowest, precision) is None
    below = (lowest[0] - 1, 9) if lowest[1] == 0 else (lowest[0], lowest[1] - 1)
    assert f"{below[0]}.{below[1]}" in precision_refusal((10, 0), below, precision)
    assert precision_refusal((10, 0), (12, 0), precision) is None


def test_bf16_needs_version_10():
    assert "8.6" in precision_refusal((8, 6), (9, 0), "bf16")
    assert precision_refusal((8, 6), (9, 0), "fp16") is None


def test_backend_asks_the_gpu():
    with simulated_tensorrt("10.16", compute_capability=(7, 5)):
        backend = TensorRTBackend()
        assert backend.precision_refusal("fp16") is None
        assert "7.5" in backend.precision_refusal("bf16")
        assert backend.refusal("AddV2", [info()], [info()]) is None
        assert "float64" in backend.refusal("AddV2", [info("float64")], [info()])
