"""Who runs when: groups that fit into memory, and as many rounds as the budget has."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

MINIMUM_ROUNDS = 3

T = TypeVar("T")


def fitting(
    sizes: Mapping[T, float], capacity: float, at_most: int, start: Callable[[T], bool]
) -> tuple[list[T], list[T]]:
    """Starts as many peers as there is room for; returns those that started, and those that have to wait.

    At least one is started where any can be, however large, since it would wait forever otherwise.

    Args:
        sizes: What each needs, in any unit, in the order of preference.
        capacity: How much room there is.
        at_most: How many there is room for.
        start: Starts one; False where it cannot run at all, so that it takes no room.
    """
    started: list[T] = []
    waiting: list[T] = []
    for name, size in sizes.items():
        if started and (size > capacity or len(started) >= at_most):
            waiting.append(name)
        elif start(name):
            started.append(name)
            capacity -= size
    return started, waiting


def rounds_within(seconds_left: float, points_left: int, seconds_a_round: float, maximum: int) -> int:
    """Returns how many rounds the next point gets: an equal share of what is left of the budget, but at least 3.

    Args:
        seconds_left: What is left of the budget; negative where it is used up.
        points_left: How many points have to share it, the next one included.
        seconds_a_round: How long one round takes.
        maximum: Most rounds.
    """
    share = seconds_left / max(1, points_left)
    return max(MINIMUM_ROUNDS, min(maximum, int(share / max(seconds_a_round, 1e-9))))


def orders(names: Sequence[T], rounds: int, seed: int) -> list[list[T]]:
    """Returns a random order of the names for each round; the same seed gives the same orders."""
    generator = random.Random(seed)
    return [generator.sample(list(names), len(names)) for _ in range(rounds)]
