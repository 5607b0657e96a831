"""Engines that are fed TensorFlow's GPU tensors, on TensorFlow's stream."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engines.tensorrt.small_engines import (
    DeviceMemory,
    dense,
    expected,
    nonzero,
    profile,
    ready,
    reshape,
    rows,
    run,
)
from tf_opt.ops.python_runtime import UnsupportedShapeError


@pytest.fixture
def memory(simulation):
    memory = DeviceMemory(simulation.driver)
    yield memory
    memory.close()
    assert simulation.driver.leaks() == []


def test_tensors_stay_on_the_device_and_nothing_waits(simulation, memory, monkeypatch):
    engine = ready(dense(), [profile()], device=0)
    tensors = [memory.tensor(rows(count)) for count in (4, 4, 7)]
    refused = ("copy_to_host", "copy_to_device", "synchronize_stream", "synchronize_event", "copy_on_device")
    with monkeypatch.context() as patch:
        for name in refused:
            patch.setattr(simulation.driver, name, lambda *_, name=name: pytest.fail(f"{name} is called"))
        outputs = []
        for tensor in tensors:
            engine.run_on_device([tensor], memory, memory.stream)
            outputs.append(memory.allocated.pop(0))
    for count, output in zip((4, 4, 7), outputs, strict=True):
        memory.allocated[0] = output
        np.testing.assert_allclose(memory.output(0), expected(rows(count)), rtol=1e-5)
    engine.close()


def test_one_context_on_two_streams(simulation, memory):
    other = DeviceMemory(simulation.driver)
    engine = ready(dense(), [profile()], device=0)
    first, second = memory.tensor(rows(4)), other.tensor(rows(4, 1))
    engine.run_on_device([first], memory, memory.stream)
    engine.run_on_device([second], other, other.stream)
    np.testing.assert_allclose(run(engine, rows(4, 2))[0], expected(rows(4, 2)), rtol=1e-5)
    assert engine.context_count == 1
    np.testing.assert_allclose(other.output(0), expected(rows(4, 1)), rtol=1e-5)
    np.testing.assert_allclose(memory.output(0), expected(rows(4)), rtol=1e-5)
    engine.close()
    other.close()


def test_parts_of_tensors_are_moved_to_where_they_may_begin(simulation, memory):
    engine = ready(dense(), [profile()], device=0)
    for count, shift in ((3, 4), (16, 128), (3, 0)):
        engine.run_on_device([memory.tensor(rows(count), shift)], memory, memory.stream)
        np.testing.assert_allclose(memory.output(0), expected(rows(count)), rtol=1e-5)
    engine.close()


def test_memory_that_grows_waits_for_what_uses_it(simulation, memory):
    engine = ready(dense(), [profile(high=64)], device=0)
    tensors = [memory.tensor(rows(count), 4) for count in (3, 64)]
    outputs = []
    for tensor in tensors:
        engine.run_on_device([tensor], memory, memory.stream)
        outputs.append(memory.allocated.pop(0))
    for count, output in zip((3, 64), outputs, strict=True):
        memory.allocated[0] = output
        np.testing.assert_allclose(memory.output(0), expected(rows(count)), rtol=1e-5)
    engine.close()


def test_close_waits_for_what_was_enqueued(simulation, memory):
    engine = ready(dense(), [profile()], device=0)
    engine.run_on_device([memory.tensor(rows(4), 4)], memory, memory.stream)
    engine.close()
    np.testing.assert_allclose(memory.output(0), expected(rows(4)), rtol=1e-5)


def test_empty_tensors(simulation, memory):
    engine = ready(dense(), [profile(0, 2, 4)], device=0)
    for count in (0, 3):
        engine.run_on_device([memory.tensor(rows(count))], memory, memory.stream)
        assert memory.output(0).shape == (count, 4)
    np.testing.assert_allclose(memory.output(0), expected(rows(3)), rtol=1e-5)
    engine.close()


def test_output_whose_size_depends_on_values(simulation, memory):
    engine = ready(nonzero(), [profile()], device=0)
    for array in (np.eye(2, 8), np.zeros((2, 8)), np.ones((16, 8))):
        values = array.astype(np.float32)
        engine.run_on_device([memory.tensor(values)], memory, memory.stream)
        np.testing.assert_array_equal(memory.output(0), np.array(np.nonzero(values)))
    engine.close()


def test_input_whose_values_are_a_shape(simulation, memory):
    engine = ready(reshape(), [profile(values={"input_1": ((1, 1), (4, 8), (32, 64))})], device=0)
    for shape in ((8, 4), (2, 16), (8, 4)):
        tensors = [memory.tensor(rows(4)), memory.tensor(np.array(shape, np.int64))]
        engine.run_on_device(tensors, memory, memory.stream)
        np.testing.assert_array_equal(memory.output(0), rows(4).reshape(shape))
    engine.close()


def test_shape_outside_every_profile(simulation, memory):
    engine = ready(dense(), [profile()], device=0)
    with pytest.raises(UnsupportedShapeError, match=r"\(17, 8\)"):
        engine.run_on_device([memory.tensor(rows(17))], memory, memory.stream)
    assert memory.allocated == {}
    engine.close()
