from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.simulators.small_contexts import allocator_of, data_dependent, mortal
from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.fixture import Simulation, simulated_tensorrt
from tests.simulators.tensorrt.questions import BATCHES, Asked, growing_allocator
from tests.simulators.tensorrt.violations import SimulatorError
from tf_opt.errors import CudaError

FLOAT = TensorProto.FLOAT


def two_profiles(asked: Asked) -> Any:
    """Returns an engine of `models.dense` with the profiles 1 to 4 and 5 to 16 rows."""
    builder, network, config, _ = asked.parsed(models.dense())
    asked.add_profile(builder, config, {"x": ((1, 8), (2, 8), (4, 8))})
    asked.add_profile(builder, config, {"x": ((5, 8), (8, 8), (16, 8))})
    return asked.load(builder.build_serialized_network(network, config))


def test_shapes_belong_to_the_active_profile(asked: Asked) -> None:
    context = asked.context(two_profiles(asked))

    assert context.set_input_shape("x", (4, 8))
    assert not context.set_input_shape("x", (5, 8))
    assert context.set_optimization_profile_async(1, asked.stream)
    assert context.active_optimization_profile == 1
    assert context.set_input_shape("x", (5, 8))
    assert not context.set_input_shape("x", (4, 8))


def test_switching_the_profile_forgets_shapes(asked: Asked) -> None:
    context = asked.context(two_profiles(asked))
    context.set_input_shape("x", (4, 8))

    context.set_optimization_profile_async(0, asked.stream)
    assert context.infer_shapes() == []  # The same profile: nothing changes.
    context.set_optimization_profile_async(1, asked.stream)
    assert context.infer_shapes() == ["x"]


def test_unknown_profile_raises(asked: Asked) -> None:
    with pytest.raises(RuntimeError):
        asked.context().set_optimization_profile_async(1, asked.stream)


def test_second_context_has_to_choose_a_profile(asked: Asked) -> None:
    engine = two_profiles(asked)
    asked.context(engine)
    second = asked.context(engine)

    assert not second.set_input_shape("x", (4, 8))
    assert second.set_optimization_profile_async(0, asked.stream)
    assert second.set_input_shape("x", (4, 8))


def test_profiles_can_be_asked_for(asked: Asked) -> None:
    engine = two_profiles(asked)

    assert engine.num_optimization_profiles == 2
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 1)] == [(5, 8), (8, 8), (16, 8)]
    assert engine.get_tensor_profile_shape("y", 0) == []


def test_values_of_a_profile_take_their_arguments_in_the_order_of_the_bindings(asked: Asked) -> None:
    engine = asked.engine(models.reshape(), BATCHES, {"s": ((1, 1), (8, 4), (128, 128))})

    assert engine.get_tensor_profile_values(0, "s") == [[1, 1], [8, 4], [128, 128]]


def test_unknown_names(asked: Asked) -> None:
    engine = asked.engine(models.dense())
    context = asked.context(engine)

    assert not context.set_tensor_address("nope", 256)
    assert not context.set_output_allocator("x", growing_allocator(asked))
    assert engine.get_tensor_mode("nope") == asked.trt.TensorIOMode.NONE


def test_addresses_are_numbers(asked: Asked) -> None:
    with pytest.raises(TypeError):
        asked.context().set_tensor_address("x", None)
    with pytest.raises(TypeError):
        asked.context().set_input_shape("x", 3)


def test_empty_tensor_needs_an_address(asked: Asked) -> None:
    context = asked.context(asked.engine(models.dense(), {"x": ((0, 8), (4, 8), (16, 8))}))
    context.set_input_shape("x", (0, 8))
    assert not context.execute_async_v3(asked.stream)

    context.set_tensor_address("x", asked.driver.allocate(1))
    assert not context.execute_async_v3(asked.stream)
    context.set_tensor_address("y", asked.driver.allocate(1))
    assert context.execute_async_v3(asked.stream)
    asked.driver.synchronize_stream(asked.stream)


def test_output_is_poison_before_it_is_computed(asked: Asked) -> None:
    bound = asked.bound()
    address = asked.driver.allocate_pinned(80)
    assert bound.run()
    asked.driver.copy_to_host(address, bound.out, 80, asked.stream)
    import ctypes

    seen = np.frombuffer((ctypes.c_float * 20).from_address(address), np.float32)
    assert np.isnan(seen).all()
    asked.driver.synchronize_stream(asked.stream)
    np.testing.assert_allclose(seen.reshape(5, 4), bound.wanted, atol=1e-5)


def test_host_pointer_for_a_device_tensor(asked: Asked) -> None:
    bound = asked.bound(skip="y")
    host = asked.driver.allocate_pinned(80)
    bound.context.set_tensor_address("y", host)

    with asked.driver.violations.expected("host pointer where device"):
        bound.run()


def test_buffer_too_small(asked: Asked) -> None:
    bound = asked.bound(skip="y")
    bound.context.set_tensor_address("y", asked.driver.allocate(79))

    with asked.driver.violations.expected("80 bytes are needed"):
        bound.run()


def test_buffer_that_was_freed(asked: Asked) -> None:
    bound = asked.bound()
    asked.driver.free(bound.out)

    with asked.driver.violations.expected("was freed"):
        bound.run()


def test_device_pointer_for_a_shape_input(asked: Asked) -> None:
    values = {"s": ((1, 1), (8, 4), (128, 128))}
    context = asked.context(asked.engine(models.reshape(), BATCHES, values))
    context.set_input_shape("x", (4, 8))
    context.set_tensor_address("s", asked.driver.allocate(16))

    with asked.driver.violations.expected("device address where host"):
        context.get_tensor_shape("y")


def test_shape_values_outside_of_the_profile(asked: Asked) -> None:
    context = asked.context(asked.engine(models.reshape(), BATCHES, {"s": ((1, 1), (8, 4), (16, 16))}))
    shape = np.array([32, 1], np.int64)
    context.set_input_shape("x", (4, 8))
    context.set_tensor_address("s", shape.ctypes.data)
    context.set_tensor_address("x", asked.upload(np.ones((4, 8), np.float32)))
    context.set_tensor_address("y", asked.driver.allocate(128))

    assert not context.execute_async_v3(asked.stream)


def test_shape_values_are_read_when_the_work_is_queued(asked: Asked) -> None:
    context = asked.context(asked.engine(models.reshape(), BATCHES, {"s": ((1, 1), (8, 4), (128, 128))}))
    shape, out = np.array([8, 4], np.int64), asked.driver.allocate(128)
    context.set_input_shape("x", (4, 8))
    context.set_tensor_address("s", shape.ctypes.data)
    context.set_tensor_address("x", asked.upload(np.ones((4, 8), np.float32)))
    context.set_tensor_address("y", out)

    assert context.execute_async_v3(asked.stream)
    shape[:] = 0

    assert asked.download(out, (8, 4)).sum() == 32


def test_two_threads_in_one_context(asked: Asked) -> None:
    inside, leave = threading.Event(), threading.Event()

    def address(size: int) -> int:
        inside.set()
        leave.wait(10)
        return int(asked.driver.allocate(max(size, 1)))

    context = data_dependent(asked, allocator_of(asked, address))

    def run() -> None:
        asked.driver.activate(0)
        context.execute_async_v3(asked.stream)

    thread = threading.Thread(target=run)
    thread.start()
    inside.wait(10)
    with asked.driver.violations.expected("two threads"):
        context.set_input_shape("x", (3, 8))
    leave.set()
    thread.join()


def test_one_context_on_two_streams_without_an_event(asked: Asked) -> None:
    bound = asked.bound()
    asked.driver.synchronize_stream(asked.stream)
    assert bound.run()
    other = asked.driver.create_stream()
    bound.context.set_tensor_address("y", asked.driver.allocate(80))

    with asked.driver.violations.expected("may run at the same time"):
        bound.context.execute_async_v3(other)


def test_one_context_on_two_streams_with_an_event(asked: Asked) -> None:
    bound, driver = asked.bound(), asked.driver
    other, event = driver.create_stream(), driver.create_event()
    assert bound.run()
    driver.record_event(event, asked.stream)
    driver.wait_event(other, event)
    assert bound.context.execute_async_v3(other)
    driver.synchronize_stream(other)

    assert bound.is_right()


def test_engine_whose_runtime_died(simulation: Simulation, asked: Asked) -> None:
    plan = asked.plan(models.dense())
    runtime = asked.trt.Runtime(asked.log)
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    del runtime

    with simulation.violations.expected("Runtime was destroyed"):
        engine.create_execution_context()
    with simulation.violations.expected("Runtime was destroyed"):
        context.set_input_shape("x", (4, 8))


def test_context_whose_engine_died(simulation: Simulation, asked: Asked) -> None:
    runtime = asked.trt.Runtime(asked.log)
    engine = runtime.deserialize_cuda_engine(asked.plan(models.dense()))
    context = engine.create_execution_context()
    del engine

    with simulation.violations.expected("engine was destroyed"):
        context.set_input_shape("x", (4, 8))


def test_context_destroyed_while_it_has_work(simulation: Simulation, asked: Asked) -> None:
    context = mortal(asked)
    assert context.execute_async_v3(asked.stream)

    with simulation.violations.expected("destroyed while"):
        del context
    asked.driver.synchronize_stream(asked.stream)


def leave_work_in_a_cycle() -> None:
    with simulated_tensorrt("10.16") as simulation:
        asked = Asked(simulation.module, simulation.driver)
        context = mortal(asked)
        assert context.execute_async_v3(asked.stream)
        cycle: list[Any] = [context]
        cycle.append(cycle)
        del context, cycle


def test_context_destroyed_in_a_cycle_while_it_has_work() -> None:
    with pytest.raises(SimulatorError, match="destroyed while"):
        leave_work_in_a_cycle()


def test_engine_of_another_device() -> None:
    with simulated_tensorrt("10.16", device_count=2) as simulation:
        asked = Asked(simulation.module, simulation.driver)
        bound = asked.bound()
        simulation.driver.activate(1)

        with simulation.violations.expected("device 0 runs while 1"):
            bound.run()


def test_default_stream_is_warned_of(asked: Asked) -> None:
    bound = asked.bound()
    asked.driver.synchronize_stream(asked.stream)

    assert bound.context.execute_async_v3(0)

    assert any("WARNING" in line and "default stream" in line for line in asked.log.lines)


def test_work_that_fails_on_the_gpu_fails_the_test(asked: Asked) -> None:
    node = helper.make_node("Gather", ["x", "i"], ["y"])
    inputs = [("x", FLOAT, [4]), ("i", TensorProto.INT64, [2])]
    plan = asked.plan(models.model([node], inputs, [("y", FLOAT, [2])]), {"x": ((4,),) * 3, "i": ((2,),) * 3})
    context = asked.context(asked.load(plan))
    context.set_tensor_address("x", asked.upload(np.zeros(4, np.float32)))
    context.set_tensor_address("i", asked.upload(np.array([0, 99], np.int64)))
    context.set_tensor_address("y", asked.driver.allocate(8))
    assert context.execute_async_v3(asked.stream)

    with asked.driver.violations.expected("failed"), pytest.raises(CudaError, match="LAUNCH_FAILED"):
        asked.driver.synchronize_stream(asked.stream)


def test_data_flows_through_more_than_one_output(asked: Asked) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["x"], ["b"])]
    engine = asked.engine(
        models.model(nodes, [("x", FLOAT, [3])], [("a", FLOAT, [3]), ("b", FLOAT, [3])]), {"x": ((3,),) * 3}
    )
    context = asked.context(engine)
    out = asked.driver.allocate(1024)
    context.set_tensor_address("x", asked.upload(np.array([-1, 0, 2], np.float32)))
    context.set_tensor_address("a", out)
    context.set_tensor_address("b", out + 256)

    assert context.execute_async_v3(asked.stream)

    assert asked.download(out, (3,)).tolist() == [0, 0, 2]
    assert asked.download(out + 256, (3,)).tolist() == [1, 0, -2]


def test_largest_size_of_an_output(asked: Asked) -> None:
    context = asked.context()
    assert context.get_max_output_size("y") == -1

    context.set_input_shape("x", (5, 8))

    assert 5 * 4 * 4 <= context.get_max_output_size("y") < 5 * 4 * 4 + 256


def test_questions_about_unknown_tensors(asked: Asked) -> None:
    engine = asked.engine(models.reshape(), BATCHES, {"s": ((1, 1), (8, 4), (128, 128))})

    with pytest.raises(TypeError):
        engine.get_tensor_dtype(0)
    assert engine.get_tensor_dtype("nope") == asked.trt.DataType.FLOAT
    assert any("no input or output 'nope'" in line for line in asked.log.lines)
    assert engine.get_tensor_profile_values(1, "s") == []
    assert engine.get_tensor_profile_values(0, "x") == []
