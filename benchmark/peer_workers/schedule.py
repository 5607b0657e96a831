"""Who runs when: groups that fit into memory, and as many rounds as the budget has."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

MINIMUM_ROUNDS = 3

T = TypeVar("T")


def groups_of(original: T, others: Sequence[T], at_once: int) -> list[list[T]]:
    """Returns groups of at most `at_once` peers, each with the original first, of about equal sizes.

    Args:
        original: The peer that every group needs.
        others: The others.
        at_once: How many workers there may be at a time; at least 2.
    """
    count = max(1, -(-len(others) // max(1, at_once - 1)))
    return [[original, *others[number::count]] for number in range(count)]


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
