"""Each test runs on each version that can be simulated."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulators.tensorrt.fixture import VERSIONS, Simulation, simulated_tensorrt
from tests.simulators.tensorrt.questions import Asked


@pytest.fixture(params=VERSIONS)
def simulation(request: pytest.FixtureRequest) -> Iterator[Simulation]:
    with simulated_tensorrt(request.param) as installed:
        yield installed


@pytest.fixture
def asked(simulation: Simulation) -> Asked:
    return Asked(simulation.module, simulation.driver)
