"""Pinned memory of a simulated driver as NumPy arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tests.simulators.tensorrt.driver import SimulatedCudaDriver


def pinned(driver: SimulatedCudaDriver, values: Any) -> tuple[int, np.ndarray[Any, Any]]:
    """Returns address and array of pinned memory with these float32 values."""
    array = np.asarray(values, np.float32)
    address = driver.allocate_pinned(array.nbytes)
    view = np.frombuffer((ctypes.c_float * array.size).from_address(address), np.float32)
    view[:] = array
    return address, view
