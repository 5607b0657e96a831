"""Memory that grows, and where tensors lie in it."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tf_opt.engines.tensorrt.buffers import ALIGNMENT, DeviceBuffer, Layout, PinnedBuffer, aligned_empty, array_over


def test_buffers_grow_and_stay(simulation):
    simulation.driver.activate(0)
    for buffer in (DeviceBuffer(), PinnedBuffer()):
        first = buffer.ensure(1000)
        assert buffer.ensure(0) == buffer.ensure(1000) == first
        assert buffer.ensure(100_000) != 0
        assert len(simulation.driver.leaks()) == 1
        buffer.close()
        buffer.close()
        assert simulation.driver.leaks() == []


def test_device_buffer_knows_what_fits(simulation):
    simulation.driver.activate(0)
    buffer = DeviceBuffer()
    assert not buffer.fits(0)
    buffer.ensure(1000)
    assert buffer.fits(1000)
    assert not buffer.fits(100_000)
    buffer.close()


def test_layout_gives_each_tensor_an_aligned_place_of_its_own():
    layout = Layout.of([("a", 1), ("empty", 0), ("b", 256), ("c", 257)])
    assert layout.offsets == {"a": 0, "empty": 256, "b": 512, "c": 768}
    assert layout.size == 768 + 512


def test_arrays_over_memory():
    memory = np.zeros(64, np.uint8)
    for dtype in (np.float32, np.bool_, ml_dtypes.bfloat16):
        array = array_over(memory.ctypes.data, (2, 3), np.dtype(dtype))
        array[:] = 1
        assert memory[: array.nbytes].view(dtype).tolist() == [1] * 6
    scalar = array_over(memory.ctypes.data, (), np.dtype(np.int64))
    scalar[...] = 7
    assert memory[:8].view(np.int64)[0] == 7
    assert array_over(0, (0, 4), np.dtype(np.float32)).shape == (0, 4)


def test_aligned_memory():
    arrays = [aligned_empty((3, index), np.dtype(np.int64)) for index in range(20)]
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in arrays if array.size)
    assert [array.shape for array in arrays] == [(3, index) for index in range(20)]
