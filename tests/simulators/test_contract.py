"""What the simulator answers to right and wrong calls. `questions.py --real` asks a real TensorRT the same."""

from __future__ import annotations

import pytest

from tests.simulators.tensorrt import questions
from tests.simulators.tensorrt.answers import ANSWERS, NOTHING_RUN, UNCHANGED
from tests.simulators.tensorrt.fixture import Simulation


@pytest.mark.parametrize("name", questions.QUESTIONS)
def test_answer(simulation: Simulation, name: str) -> None:
    assert questions.ask(name, simulation.module, simulation.driver) == ANSWERS[name]


def test_each_refusal_is_logged(simulation: Simulation) -> None:
    refused = [name for name, answer in ANSWERS.items() if answer in (UNCHANGED, NOTHING_RUN, False, [0, False])]

    for name in refused:
        asked = questions.Asked(simulation.module, simulation.driver)
        questions.QUESTIONS[name](asked)

        assert any("ERROR" in line for line in asked.log.lines), name
