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
def _made(version: str) -> Path | generate_stubs.StubsUnavailableError:
    try:
        return generate_stubs.stubs(version)
    except generate_stubs.StubsUnavailableError as error:
        return error


def stubs_or_skip(version: str) -> Path:
    """Returns the folder with a version's stubs.

    Where they cannot be made the test is skipped; in CI it fails, unless there are none for this Python.
    """
    made = _made(version)
    if isinstance(made, Path):
        return made
    reason = f"no stubs of TensorRT {version}: {made}"
    if os.environ.get("CI") and not isinstance(made, generate_stubs.NoWheelForThisPythonError):
        pytest.fail(reason)
    pytest.skip(reason)
