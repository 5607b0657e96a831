"""CUDA graphs: captures of the simulated driver, and of execution contexts."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from tests.simulators.pinned_arrays import pinned
from tests.simulators.small_contexts import mortal
from tests.simulators.tensorrt import models
from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.fixture import Simulation
from tests.simulators.tensorrt.questions import Asked, growing_allocator
from tf_opt.errors import CudaError


def test_graph_replays_with_the_same_addresses(driver: SimulatedCudaDriver) -> None:
    source, values = pinned(driver, [1])
    target, result = pinned(driver, [0])
    device, stream = driver.allocate(4), driver.create_stream()

    driver.begin_capture(stream)
    driver.copy_to_device(device, source, 4, stream)
    driver.copy_to_host(target, device, 4, stream)
    graph = driver.end_capture(stream)
    driver.synchronize_stream(stream)
    assert result[0] == 0  # Recorded, not run.

    for value in (2, 3):
        values[0] = value
        driver.launch_graph(graph, stream)
        assert np.isnan(result[0])
        driver.synchronize_stream(stream)
        assert result[0] == value
    driver.destroy_graph(graph)
    with driver.violations.expected("no graph"):
        driver.launch_graph(graph, stream)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda driver, stream: driver.synchronize_stream(stream),
        lambda driver, stream: driver.allocate(4),
        lambda driver, stream: driver.allocate_pinned(4),
    ],
)
def test_what_a_capture_does_not_allow(driver: SimulatedCudaDriver, forbidden: Any) -> None:
    stream = driver.create_stream()
    driver.begin_capture(stream)

    with pytest.raises(CudaError, match="CAPTURE_UNSUPPORTED"):
        forbidden(driver, stream)
    with pytest.raises(CudaError, match="CAPTURE_INVALIDATED"):
        driver.end_capture(stream)


def test_capture_cannot_wait_for_what_is_not_captured(driver: SimulatedCudaDriver) -> None:
    first, second, event = driver.create_stream(), driver.create_stream(), driver.create_event()
    driver.record_event(event, first)
    driver.begin_capture(second)

    with pytest.raises(CudaError, match="ISOLATION"):
        driver.wait_event(second, event)


def test_event_of_a_capture_cannot_be_waited_for(driver: SimulatedCudaDriver) -> None:
    stream, event = driver.create_stream(), driver.create_event()
    driver.begin_capture(stream)
    driver.record_event(event, stream)

    with pytest.raises(CudaError, match="CAPTURED_EVENT"):
        driver.synchronize_event(event)


def test_capture_within_a_capture(driver: SimulatedCudaDriver) -> None:
    stream = driver.create_stream()
    driver.begin_capture(stream)

    with pytest.raises(CudaError, match="ILLEGAL_STATE"):
        driver.begin_capture(stream)


def test_end_without_a_capture(driver: SimulatedCudaDriver) -> None:
    with pytest.raises(CudaError, match="ILLEGAL_STATE"):
        driver.end_capture(driver.create_stream())


def test_capture_ends_on_the_thread_that_began_it(driver: SimulatedCudaDriver) -> None:
    stream, failures = driver.create_stream(), []
    driver.begin_capture(stream)

    def end() -> None:
        driver.activate(0)
        try:
            driver.end_capture(stream)
        except CudaError as error:
            failures.append(str(error))

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()

    assert "WRONG_THREAD" in failures[0]


def test_other_threads_may_allocate_during_a_capture(driver: SimulatedCudaDriver) -> None:
    stream, addresses = driver.create_stream(), []
    driver.begin_capture(stream)

    def allocate() -> None:
        driver.activate(0)
        addresses.append(driver.allocate(4))

    thread = threading.Thread(target=allocate)
    thread.start()
    thread.join()

    assert addresses
    driver.end_capture(stream)


def test_stream_destroyed_during_a_capture(driver: SimulatedCudaDriver) -> None:
    stream = driver.create_stream()
    driver.begin_capture(stream)

    with driver.violations.expected("being captured"):
        driver.destroy_stream(stream)


def test_no_capture_on_the_default_stream(driver: SimulatedCudaDriver) -> None:
    with pytest.raises(CudaError):
        driver.begin_capture(0)


def test_memory_of_a_graph_that_was_freed(driver: SimulatedCudaDriver) -> None:
    source, _ = pinned(driver, [1])
    device, stream = driver.allocate(4), driver.create_stream()
    driver.begin_capture(stream)
    driver.copy_to_device(device, source, 4, stream)
    graph = driver.end_capture(stream)
    driver.free(device)
    driver.launch_graph(graph, stream)

    with driver.violations.expected("was freed"), pytest.raises(CudaError, match="LAUNCH_FAILED"):
        driver.synchronize_stream(stream)


def test_capture_before_the_first_run(asked: Asked) -> None:
    bound = asked.bound()
    asked.driver.synchronize_stream(asked.stream)
    asked.driver.begin_capture(asked.stream)

    assert not bound.run()
    with pytest.raises(Exception, match="CAPTURE_INVALIDATED"):
        asked.driver.end_capture(asked.stream)


def test_data_dependent_outputs_cannot_be_captured(asked: Asked) -> None:
    context = asked.context(asked.engine(models.non_zero()))
    allocator = growing_allocator(asked)
    context.set_input_shape("x", (2, 8))
    context.set_tensor_address("x", asked.upload(np.eye(2, 8, dtype=np.float32)))
    context.set_output_allocator("y", allocator)
    assert context.execute_async_v3(asked.stream)
    asked.driver.synchronize_stream(asked.stream)
    asked.driver.begin_capture(asked.stream)

    assert not context.execute_async_v3(asked.stream)
    assert any("data-dependent shape cannot be captured" in line for line in asked.log.lines)


def captured(asked: Asked) -> tuple[Any, int]:
    """Returns a bound context and a graph of it."""
    bound = asked.bound()
    bound.run()
    asked.driver.synchronize_stream(asked.stream)
    asked.driver.begin_capture(asked.stream)
    bound.run()
    return bound, asked.driver.end_capture(asked.stream)


def test_graph_of_a_context_that_was_changed(asked: Asked) -> None:
    bound, graph = captured(asked)
    bound.context.set_input_shape("x", (5, 8))  # What it was before.
    asked.driver.launch_graph(graph, asked.stream)
    asked.driver.synchronize_stream(asked.stream)

    bound.context.set_input_shape("x", (4, 8))
    with asked.driver.violations.expected("was changed"):
        asked.driver.launch_graph(graph, asked.stream)


def test_graph_of_a_context_that_is_running_elsewhere(asked: Asked) -> None:
    _, graph = captured(asked)
    other = asked.driver.create_stream()
    asked.driver.launch_graph(graph, asked.stream)

    with asked.driver.violations.expected("may run at the same time"):
        asked.driver.launch_graph(graph, other)


def test_graph_of_a_context_that_was_destroyed(simulation: Simulation, asked: Asked) -> None:
    context = mortal(asked)
    assert context.execute_async_v3(asked.stream)
    asked.driver.synchronize_stream(asked.stream)
    asked.driver.begin_capture(asked.stream)
    assert context.execute_async_v3(asked.stream)
    graph = asked.driver.end_capture(asked.stream)
    del context

    with simulation.violations.expected("context was destroyed"):
        asked.driver.launch_graph(graph, asked.stream)
