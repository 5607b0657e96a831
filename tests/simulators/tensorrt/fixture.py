"""Puts a simulated TensorRT and CUDA driver in the place of the real ones::

    with simulated_tensorrt("10.16") as simulation:
        backend = TensorRTBackend()
        ...
        assert simulation.driver.leaks() == []

At the end, whatever the simulator found wrong is raised, even where the program swallowed it or it was on another
thread.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from unittest import mock

from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.library import Library
from tests.simulators.tensorrt.module import create_library
from tests.simulators.tensorrt.violations import Violations

VERSIONS = ("10.0", "10.16", "11.4")
"""The versions that can be simulated."""

_CUDA_MODULE = "tf_opt.engines.tensorrt.cuda"


@dataclass(frozen=True)
class Simulation:
    """What a test can ask of the simulator."""

    library: Library
    driver: SimulatedCudaDriver

    @property
    def module(self) -> Any:
        """The simulated `tensorrt`."""
        return self.library.module

    @property
    def violations(self) -> Violations:
        """What was found wrong so far."""
        return self.driver.violations

    @property
    def builds(self) -> int:
        """How many engines were built."""
        return self.library.builds


@contextlib.contextmanager
def simulated_tensorrt(
    version: str,
    *,
    gpu_name: str = "Simulated GPU",
    compute_capability: tuple[int, int] = (9, 0),
    device_count: int = 1,
    driver_version: int = 13000,
) -> Iterator[Simulation]:
    """Installs a simulated `tensorrt` and CUDA driver.

    Args:
        version: "10.0", "10.16" or "11.4".
        gpu_name: Name of the simulated GPUs.
        compute_capability: Their compute capability.
        device_count: How many there are.
        driver_version: The driver's version, as CUDA numbers it.

    Raises:
        SimulatorError: At the end, where a call had undefined behaviour.
    """
    driver = SimulatedCudaDriver(
        gpu_name=gpu_name,
        compute_capability=compute_capability,
        device_count=device_count,
        driver_version=driver_version,
    )
    simulation = Simulation(create_library(version, driver), driver)
    with contextlib.ExitStack() as stack:
        cuda = _backend_module()
        stack.enter_context(_installed(simulation.module))
        if cuda is not None:
            stack.enter_context(mock.patch.object(cuda, "cuda_driver", return_value=driver))
        stack.callback(driver.streams.stop)
        # What is older than the simulation, such as TensorFlow's million objects, is not searched for its objects.
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield simulation
        # Objects in cycles are destroyed now, so that what is wrong with that is found in this test.
        gc.collect()
        driver.memory.check_guards()
    simulation.violations.raise_first()


@contextlib.contextmanager
def _installed(module: ModuleType) -> Iterator[None]:
    # Not mock.patch.dict: at its end it would forget all modules that were imported meanwhile.
    before = sys.modules.get("tensorrt")
    sys.modules["tensorrt"] = module
    try:
        yield
    finally:
        del sys.modules["tensorrt"]
        if before is not None:
            sys.modules["tensorrt"] = before


def _backend_module() -> ModuleType | None:
    # The simulator's own tests run without the backend.
    try:
        return importlib.import_module(_CUDA_MODULE) if importlib.util.find_spec(_CUDA_MODULE) else None
    except ModuleNotFoundError:
        return None
