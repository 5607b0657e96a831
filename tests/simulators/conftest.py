"""What the tests of the simulator run on: each version that can be simulated, or the driver alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulators.tensorrt.driver import SimulatedCudaDriver
from tests.simulators.tensorrt.fixture import VERSIONS, Simulation, simulated_tensorrt
from tests.simulators.tensorrt.questions import Asked


@pytest.fixture(params=VERSIONS)
def simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    with simulated_tensorrt(request.param) as installed:
        yield installed


@pytest.fixture
def asked(simulation: Simulation) -> Asked:
    return Asked(simulation.module, simulation.driver)


@pytest.fixture
def driver() -> SimulatedCudaDriver:
    made = SimulatedCudaDriver()
    made.activate(0)
    return made
