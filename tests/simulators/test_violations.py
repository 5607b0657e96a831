from __future__ import annotations

import pytest

from tests.simulators.tensorrt.violations import SimulatorError, Violations


def test_violation_that_was_expected_is_forgiven() -> None:
    violations = Violations()

    with violations.expected("freed"):
        violations.fail("memory was freed")

    violations.raise_first()
    assert violations.found == ()


def test_violation_that_does_not_come() -> None:
    with pytest.raises(AssertionError, match="freed"), Violations().expected("freed"):
        pass


def test_another_violation_than_the_expected_one() -> None:
    violations = Violations()

    with pytest.raises(AssertionError, match="too small"), violations.expected("freed"):
        violations.fail("too small")


def test_violation_that_was_only_recorded() -> None:
    violations = Violations()
    violations.record("first")
    violations.record("second")

    with pytest.raises(SimulatorError, match="first"):
        violations.raise_first()
