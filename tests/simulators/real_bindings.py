"""The stubs of the real bindings, for the tests that hold something to them."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from tests.simulators.tensorrt import generate_stubs

FULL_VERSIONS = dict(zip(("10.0", "10.16", "11.4"), generate_stubs.VERSIONS, strict=True))
"""The release whose stubs belong to a simulated version."""


@functools.cache
def _made(version: str) -> Path | str:
    try:
        return generate_stubs.stubs(version)
    except generate_stubs.StubsUnavailableError as error:
        return str(error)


def stubs_or_skip(version: str) -> Path:
    """Returns the folder with a version's stubs; skips the test where they cannot be made, but not in CI."""
    made = _made(version)
    if isinstance(made, Path):
        return made
    reason = f"no stubs of TensorRT {version}: {made}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
