from __future__ import annotations

import contextlib
import ctypes
import threading
from typing import Any

import numpy as np
import pytest

from tests.simulators.pinned_arrays import pinned
from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.simulators.tensorrt.memory import DEVICE_BASE
from tests.simulators.tensorrt.violations import SimulatorError
from tf_opt.errors import CudaError


def test_what_is_asked_about_the_gpu() -> None:
    driver = SimulatedCudaDriver(gpu_name="GPU", compute_capability=(8, 6), device_count=2, driver_version=12040)

    assert driver.device_count() == 2
    assert driver.driver_version() == 12040
    assert driver.device_name(1) == "GPU"
    assert driver.compute_capability(0) == (8, 6)
    with pytest.raises(CudaError, match="INVALID_DEVICE"):
        driver.device_name(2)


def test_methods_are_those_of_the_backend() -> None:
    from tf_opt.engines.tensorrt.cuda import CudaDriver

    wanted = {name for name in vars(CudaDriver) if not name.startswith("_")}

    assert wanted <= set(dir(SimulatedCudaDriver))


def test_a_thread_needs_a_current_context(driver: SimulatedCudaDriver) -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            driver.allocate(4)
        except CudaError as error:
            failures.append(error)
        driver.activate(0)
        driver.free(driver.allocate(4))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()

    assert "INVALID_CONTEXT" in str(failures[0])


def test_device_addresses_are_no_host_addresses(driver: SimulatedCudaDriver) -> None:
    assert driver.allocate(4) >= DEVICE_BASE > 1 << 47


def test_no_memory_of_size_zero(driver: SimulatedCudaDriver) -> None:
    with pytest.raises(CudaError, match="INVALID_VALUE"):
        driver.allocate(0)
    with pytest.raises(CudaError, match="INVALID_VALUE"):
        driver.allocate_pinned(0)


def test_copies_of_nothing_look_at_no_address(driver: SimulatedCudaDriver) -> None:
    stream = driver.create_stream()

    driver.copy_to_device(0, 0, 0, stream)
    driver.copy_to_host(0, 0, 0, stream)
    driver.copy_on_device(0, 0, 0, stream)
    driver.synchronize_stream(stream)


def test_there_and_back(driver: SimulatedCudaDriver) -> None:
    source, _ = pinned(driver, [1, 2, 3, 4])
    target, result = pinned(driver, [0, 0])
    device, other, stream = driver.allocate(16), driver.allocate(16), driver.create_stream()

    driver.copy_to_device(device, source, 16, stream)
    driver.copy_on_device(other, device, 16, stream)
    driver.copy_to_host(target, other + 8, 8, stream)  # A part of an allocation.
    driver.synchronize_stream(stream)

    assert result.tolist() == [3, 4]


def test_results_are_poison_until_the_stream_is_synchronized(driver: SimulatedCudaDriver) -> None:
    source, _ = pinned(driver, [1])
    target, result = pinned(driver, [7])
    device, stream = driver.allocate(4), driver.create_stream()

    driver.copy_to_device(device, source, 4, stream)
    driver.copy_to_host(target, device, 4, stream)

    assert np.isnan(result[0])
    driver.synchronize_stream(stream)
    assert result[0] == 1


def test_pinned_memory_is_read_when_the_copy_runs(driver: SimulatedCudaDriver) -> None:
    source, values = pinned(driver, [1])
    target, result = pinned(driver, [0])
    device, stream = driver.allocate(4), driver.create_stream()

    driver.copy_to_device(device, source, 4, stream)
    values[0] = 2  # Too early: the copy is still queued.
    driver.copy_to_host(target, device, 4, stream)
    driver.synchronize_stream(stream)

    assert result[0] == 2


def test_pageable_memory_is_copied_at_once(driver: SimulatedCudaDriver) -> None:
    source, target = np.array([1], np.float32), np.array([0], np.float32)
    device, stream = driver.allocate(4), driver.create_stream()

    driver.copy_to_device(device, source.ctypes.data, 4, stream)
    source[0] = 2
    driver.copy_to_host(target.ctypes.data, device, 4, stream)

    assert target[0] == 1


@pytest.mark.parametrize(
    "wait",
    [
        lambda driver, second, event: driver.wait_event(second, event),
        lambda driver, second, event: driver.synchronize_event(event),
    ],
    ids=["a stream waits", "the host waits"],
)
def test_event_orders_streams(driver: SimulatedCudaDriver, wait: Any) -> None:
    source, _ = pinned(driver, [5])
    target, result = pinned(driver, [0])
    device, event = driver.allocate(4), driver.create_event()
    first, second = driver.create_stream(), driver.create_stream()

    driver.copy_to_device(device, source, 4, first)
    driver.record_event(event, first)
    wait(driver, second, event)
    driver.copy_to_host(target, device, 4, second)
    driver.synchronize_stream(second)

    assert result[0] == 5


def test_unordered_use_of_the_same_memory(driver: SimulatedCudaDriver) -> None:
    source, _ = pinned(driver, [5])
    target, _ = pinned(driver, [0])
    device, first, second = driver.allocate(4), driver.create_stream(), driver.create_stream()
    driver.copy_to_device(device, source, 4, first)

    with driver.violations.expected("may run at the same time"):
        driver.copy_to_host(target, device, 4, second)


def test_waiting_for_an_older_event_does_not_order(driver: SimulatedCudaDriver) -> None:
    source, _ = pinned(driver, [5])
    target, _ = pinned(driver, [0])
    device, event = driver.allocate(4), driver.create_event()
    first, second = driver.create_stream(), driver.create_stream()
    driver.record_event(event, first)
    driver.copy_to_device(device, source, 4, first)
    driver.wait_event(second, event)

    with driver.violations.expected("may run at the same time"):
        driver.copy_to_host(target, device, 4, second)


def test_event_that_was_never_recorded_orders_nothing(driver: SimulatedCudaDriver) -> None:
    stream, event = driver.create_stream(), driver.create_event()

    driver.wait_event(stream, event)
    driver.synchronize_event(event)
    driver.synchronize_stream(stream)

    assert driver.violations.found == ()


def test_event_of_the_same_stream(driver: SimulatedCudaDriver) -> None:
    stream, event = driver.create_stream(), driver.create_event()

    driver.record_event(event, stream)
    driver.wait_event(stream, event)
    driver.synchronize_stream(stream)

    assert driver.violations.found == ()


def test_two_readers_need_no_order(driver: SimulatedCudaDriver) -> None:
    device, first, second = driver.allocate(4), driver.create_stream(), driver.create_stream()
    for stream in (first, second):
        target, _ = pinned(driver, [0])
        driver.copy_to_host(target, device, 4, stream)

    assert driver.violations.found == ()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda d, a, p, s: d.copy_to_device(p, a, 4, s), "host pointer where device"),
        (lambda d, a, p, s: d.copy_to_host(a, a, 4, s), "device address where host"),
        (lambda d, a, p, s: d.copy_to_device(a + (1 << 40), p, 4, s), "no device memory"),
        (lambda d, a, p, s: d.copy_to_device(a, p, 20, s), "20 bytes are needed"),
        (lambda d, a, p, s: d.copy_to_device(a + 8, p, 16, s), "16 bytes are needed"),
        (lambda d, a, p, s: d.copy_to_host(p + 12, a, 8, s), "8 bytes are needed"),
        (lambda d, a, p, s: d.copy_to_device(a, 0, 4, s), "null pointer"),
        (lambda d, a, p, s: d.free(a + 4), "no device allocation"),
        (lambda d, a, p, s: d.free(p), "no device allocation"),
        (lambda d, a, p, s: (d.free(a), d.free(a)), "freed twice"),
        (lambda d, a, p, s: (d.free(a), d.copy_to_device(a, p, 4, s)), "was freed"),
        (lambda d, a, p, s: (d.free_pinned(p), d.copy_to_device(a, p, 4, s)), "was freed"),
        (lambda d, a, p, s: (d.copy_to_device(a, p, 4, s), d.free(a)), "still has to use it"),
        (lambda d, a, p, s: (d.copy_to_device(a, p, 4, s), d.free_pinned(p)), "still has to use it"),
        (lambda d, a, p, s: d.synchronize_stream(12345), "no stream"),
        (lambda d, a, p, s: (d.destroy_stream(s), d.synchronize_stream(s)), "no stream"),
        (lambda d, a, p, s: d.record_event(12345, s), "no event"),
        (lambda d, a, p, s: d.launch_graph(12345, s), "no graph"),
    ],
)
def test_undefined_behaviour(driver: SimulatedCudaDriver, wrong: Any, message: str) -> None:
    address, (host, _), stream = driver.allocate(16), pinned(driver, [0, 0, 0, 0]), driver.create_stream()

    with driver.violations.expected(message):
        wrong(driver, address, host, stream)


def test_write_beside_pinned_memory(driver: SimulatedCudaDriver) -> None:
    address, _ = pinned(driver, [1])
    ctypes.c_float.from_address(address + 4).value = 1.0

    with driver.violations.expected("beside"):
        driver.free_pinned(address)


def test_violation_of_another_thread_fails_the_test() -> None:
    with pytest.raises(SimulatorError, match="no device allocation"):
        _swallow_a_violation()


def _swallow_a_violation() -> None:
    with simulated_tensorrt("10.16") as simulation:

        def wrong() -> None:
            simulation.driver.activate(0)
            with contextlib.suppress(SimulatorError):
                simulation.driver.free(12345)

        thread = threading.Thread(target=wrong)
        thread.start()
        thread.join()


def test_write_beside_memory_that_is_never_freed_fails_the_test() -> None:
    with pytest.raises(SimulatorError, match="beside"):
        _write_beside_memory()


def _write_beside_memory() -> None:
    with simulated_tensorrt("10.16") as simulation:
        simulation.driver.activate(0)
        address, _ = pinned(simulation.driver, [1])
        ctypes.c_float.from_address(address + 4).value = 1.0


def test_leaks(driver: SimulatedCudaDriver) -> None:
    address, (host, _), stream, event = (
        driver.allocate(4),
        pinned(driver, [1]),
        driver.create_stream(),
        driver.create_event(),
    )

    assert len(driver.leaks()) == 4
    driver.free(address)
    driver.free_pinned(host)
    driver.destroy_event(event)
    driver.destroy_stream(stream)
    assert driver.leaks() == []
