"""Where TensorRT's types are not TensorFlow's: converted where every value fits, never silently wrong."""

from __future__ import annotations

import dataclasses

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

from tests.engines.tensorrt.small_engines import BFLOAT16, FLOAT, HALF, INT32, INT64, profile, ready, rows, run, segment
from tf_opt.engines.tensorrt.data_types import check_output_border, convert_input, numpy_dtype
from tf_opt.errors import EngineRunError
from tf_opt.ops.python_runtime import UnsupportedShapeError


def as_tensorflow_sees_it(model, inputs=(), outputs=()):
    """A segment whose tensors TensorFlow has in other types than the engine, as with versions that lack int64."""

    def retyped(infos, dtypes):
        return tuple(dataclasses.replace(info, dtype=dtype) for info, dtype in zip(infos, dtypes, strict=True))

    return dataclasses.replace(
        model,
        inputs=retyped(model.inputs, inputs) if inputs else model.inputs,
        outputs=retyped(model.outputs, outputs) if outputs else model.outputs,
    )


def negated(dtype):
    node = helper.make_node("Neg", ["input_0"], ["output_0"], name="neg")
    return segment([node], [(dtype, [None, 8])], [(dtype, [None, 8])])


def test_engine_with_narrower_integers(simulation):
    model = as_tensorflow_sees_it(negated(INT32), ["int64"], ["int64"])
    engine = ready(model, [profile()])
    assert not hasattr(engine, "run_on_device")  # The op copies through the host, where values are checked.
    array = np.full((2, 8), -(2**31) + 1, np.int64)
    output = run(engine, array)[0]
    assert output.dtype == np.int64
    np.testing.assert_array_equal(output, -array)
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(UnsupportedShapeError, match=f"input_0 has values .*{value}"):
            run(engine, np.full((2, 8), value, np.int64))
    np.testing.assert_array_equal(run(engine, array)[0], -array)
    engine.close()


def test_engine_with_tensorflows_types_runs_on_the_device(simulation):
    engine = ready(negated(INT64), [profile()])
    assert hasattr(engine, "run_on_device")
    engine.close()


def test_output_that_does_not_hold_every_value_is_an_error(simulation):
    with pytest.raises(EngineRunError, match=r"output_0 as float32, TensorFlow expects float64"):
        ready(as_tensorflow_sees_it(negated(FLOAT), outputs=["float64"]), [profile()])


def test_number_of_outputs_is_checked(simulation):
    model = negated(FLOAT)
    both = dataclasses.replace(model, outputs=(*model.outputs, *model.outputs))
    with pytest.raises(EngineRunError, match="expected 2"):
        ready(both, [profile()])


def test_half_crosses_as_it_is(any_version):
    engine = ready(negated(HALF), [profile()])
    output = run(engine, rows(3).astype(np.float16))[0]
    assert output.dtype == np.float16
    np.testing.assert_array_equal(output, -rows(3).astype(np.float16))
    engine.close()


def test_bfloat16_crosses_as_it_is(any_version):
    engine = ready(negated(BFLOAT16), [profile()])
    array = rows(3).astype(ml_dtypes.bfloat16)
    output = run(engine, array)[0]
    assert output.dtype == np.dtype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(output, -array)
    assert hasattr(engine, "run_on_device")
    engine.close()


def test_converted_inputs():
    same = rows(2)
    assert convert_input("x", same, np.float32) is same
    wide = np.array([1, -5], np.int64)
    assert convert_input("x", wide, np.int32).dtype == np.int32
    assert convert_input("x", np.empty(0, np.int64), np.int32).shape == (0,)
    assert convert_input("x", np.array(7, np.int64), np.int32).shape == ()
    with pytest.raises(UnsupportedShapeError, match="300"):
        convert_input("x", np.array([300], np.int64), np.int8)
    with pytest.raises(EngineRunError, match="fed float64"):
        convert_input("x", np.zeros(2), np.float32)


def test_output_types():
    int32, int64 = np.dtype(np.int32), np.dtype(np.int64)
    check_output_border("y", int32, int64)
    check_output_border("y", int64, int64)
    with pytest.raises(EngineRunError, match="int64"):
        check_output_border("y", int64, int32)
    assert numpy_dtype("bfloat16") == np.dtype(ml_dtypes.bfloat16)
