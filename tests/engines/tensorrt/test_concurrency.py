"""Several calls at the same time, and the end of an engine."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.engines.tensorrt.small_engines import (
    DeviceMemory,
    HostOutputs,
    build,
    dense,
    expected,
    load,
    nonzero,
    profile,
    ready,
    rows,
    run,
)
from tf_opt.engines.tensorrt import TensorRTSettings
from tf_opt.errors import EngineRunError


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("contexts", [1, 3])
def test_calls_from_many_threads_keep_their_values(any_version, contexts, graphs):
    engine = ready(dense(), [profile()], TensorRTSettings(maximum_contexts=contexts, cuda_graphs=graphs))

    def call(seed):
        array = rows(1 + seed % 3, seed)
        np.testing.assert_allclose(run(engine, array)[0], expected(array), rtol=1e-5)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(48)))
    assert 1 <= engine.context_count <= contexts
    engine.close()
    assert any_version.driver.leaks() == []


def test_calls_at_the_same_time_get_a_context_each(simulation, monkeypatch):
    engine = ready(dense(), [profile()], TensorRTSettings(maximum_contexts=3))
    together = threading.Barrier(3, timeout=120)
    synchronize = simulation.driver.synchronize_stream

    def meet(stream):
        together.wait()
        synchronize(stream)

    monkeypatch.setattr(simulation.driver, "synchronize_stream", meet)
    with ThreadPoolExecutor(3) as threads:
        outputs = list(threads.map(lambda seed: run(engine, rows(4, seed))[0], range(3)))
    monkeypatch.undo()
    for seed, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected(rows(4, seed)), rtol=1e-5)
    assert engine.context_count == 3
    engine.close()


def test_host_and_device_calls_at_the_same_time(simulation):
    engine = ready(nonzero(), [profile()], device=0)

    def on_host(seed):
        array = (rows(3, seed) > 0).astype(np.float32)
        np.testing.assert_array_equal(run(engine, array)[0], np.array(np.nonzero(array)))

    def on_device(seed):
        memory = DeviceMemory(simulation.driver)
        for each in range(seed, seed + 3):
            array = (rows(5, each) > 0).astype(np.float32)
            engine.run_on_device([memory.tensor(array)], memory, memory.stream)
            np.testing.assert_array_equal(memory.output(0), np.array(np.nonzero(array)))
        memory.close()

    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(on_host if seed % 2 else on_device, seed) for seed in range(24)]
        for each in calls:
            each.result()
    engine.close()
    assert simulation.driver.leaks() == []


def test_context_that_the_memory_has_no_room_for(simulation, monkeypatch):
    engine = ready(dense(), [profile()], TensorRTSettings(maximum_contexts=4, cuda_graphs=False))
    monkeypatch.setattr(simulation.module.ICudaEngine, "create_execution_context", lambda *_: None)
    with ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(lambda seed: run(engine, rows(4, seed))[0], range(12)))
    for seed, output in enumerate(outputs):
        np.testing.assert_allclose(output, expected(rows(4, seed)), rtol=1e-5)
    assert engine.context_count == 1
    engine.close()


def test_first_context_that_is_not_made_is_an_error(simulation, monkeypatch):
    model = dense()
    engine = build(model, [profile()])
    monkeypatch.setattr(simulation.module.ICudaEngine, "create_execution_context", lambda *_: None)
    with pytest.raises(EngineRunError, match="makes no execution context for s"):
        load(model, engine)


def test_engines_of_one_plan_load_at_the_same_time_and_build_once(simulation, cache_folder):
    model = dense()
    stored = build(model, [profile()])
    for path in cache_folder.glob("plans/*.plan"):
        path.unlink()
    with ThreadPoolExecutor(4) as threads:
        engines = list(threads.map(lambda _: load(model, stored), range(4)))
    assert simulation.builds == 2
    for engine in engines:
        np.testing.assert_allclose(run(engine, rows(4))[0], expected(rows(4)), rtol=1e-5)
        engine.close()
    assert simulation.driver.leaks() == []


def test_failed_run_says_why_and_the_next_one_works(simulation, monkeypatch):
    engine = ready(dense(), [profile(high=64)], TensorRTSettings(maximum_contexts=1))
    context = simulation.module.IExecutionContext
    with monkeypatch.context() as patch:
        patch.setattr(context, "execute_async_v3", lambda *_: False)
        with pytest.raises(EngineRunError, match="does not run for s"):
            run(engine, rows(4))
    with monkeypatch.context() as patch:
        patch.setattr(context, "set_input_shape", lambda *_: False)
        with pytest.raises(EngineRunError, match=r"refuses the shape \(5, 8\) of input_0"):
            run(engine, rows(5))
    # Larger ones first: memory moves, which what the failed runs had enqueued must not notice.
    for count in (64, 5, 4, 4, 4):
        np.testing.assert_allclose(run(engine, rows(count))[0], expected(rows(count)), rtol=1e-5)
    engine.close()
    assert simulation.driver.leaks() == []


def test_output_that_tensorflow_refuses_leaves_the_engine_usable(simulation):
    engine = ready(dense(), [profile()])

    class Refusing(HostOutputs):
        def allocate(self, index, shape, dtype):
            raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        engine.run([rows(4)], Refusing())
    np.testing.assert_allclose(run(engine, rows(4))[0], expected(rows(4)), rtol=1e-5)
    engine.close()


def test_memory_that_a_dynamic_output_does_not_get(simulation, monkeypatch):
    engine = ready(nonzero(), [profile()])
    run(engine, rows(1))
    allocate = simulation.driver.allocate

    def refuse(size):
        if size > 256:
            raise MemoryError("the GPU is full")
        return allocate(size)

    monkeypatch.setattr(simulation.driver, "allocate", refuse)
    with pytest.raises(MemoryError, match="the GPU is full"):
        run(engine, rows(16))
    monkeypatch.undo()
    np.testing.assert_array_equal(run(engine, rows(16))[0], np.array(np.nonzero(rows(16))))
    engine.close()
    assert simulation.driver.leaks() == []


def test_close_frees_everything_once(any_version):
    engine = ready(nonzero(), [profile()])
    run(engine, rows(4))
    assert any_version.driver.leaks() != []
    engine.close()
    engine.close()
    assert any_version.driver.leaks() == []
    with pytest.raises(EngineRunError, match="closed"):
        run(engine, rows(4))


def test_close_waits_for_calls(simulation, monkeypatch):
    engine = ready(dense(), [profile()])
    running, go_on = threading.Event(), threading.Event()
    synchronize = simulation.driver.synchronize_stream

    def slow(stream):
        running.set()
        assert go_on.wait(20)
        synchronize(stream)

    monkeypatch.setattr(simulation.driver, "synchronize_stream", slow)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(run, engine, rows(4))
        assert running.wait(20)
        closing = threads.submit(engine.close)
        assert not closing.done()
        go_on.set()
        np.testing.assert_allclose(call.result()[0], expected(rows(4)), rtol=1e-5)
        closing.result()
    assert simulation.driver.leaks() == []
