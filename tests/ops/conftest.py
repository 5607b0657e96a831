"""Counters of the op that begin at zero, for tests that read them."""

from __future__ import annotations

import pytest

import tf_opt.ops


@pytest.fixture
def fresh_statistics() -> None:
    """Forgets what the op counted so far."""
    tf_opt.ops.reset_statistics()
