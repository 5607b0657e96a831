"""Which tests are traced for the list of lines that no test reaches: tracing makes Python half as slow again."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from coverage import Coverage

_TESTS = Path(__file__).resolve().parent

_OTHER_SOURCES = ("benchmark", "examples", "simulators")
"""Folders whose tests are about what the list leaves out."""

_SAME_LINES = ("simulated tensorrt 10.0", "simulated tensorrt 10.16")
"""Engines of tests that run on each: what tells the versions of TensorRT apart has tests of its own."""

_LOADED_BY_ALL = ("tensorflow", "keras", "onnx_ir", "onnxruntime", "openvino", "tf2onnx.tfonnx", "tf_keras")
"""Modules that every process loads which collects all tests, and that take seconds."""


@contextmanager
def untraced() -> Iterator[None]:
    """Traces nothing in the block."""
    # In a process of pytest-xdist, pytest-cov has started two, of which the first goes on where the second is stopped.
    stopped = []
    while (measured := Coverage.current()) is not None:
        measured.stop()
        stopped.append(measured)
    try:
        yield
    finally:
        for measured in reversed(stopped):
            measured.start()


def adds_lines(item: pytest.Item) -> bool:
    """Tells whether a test may reach a line that no other one does.

    Real models do what small ones do, and hypothesis's examples what stated ones do.
    """
    if any(item.get_closest_marker(name) is not None for name in ("slow", "hypothesis")):
        return False
    if item.path.is_relative_to(_TESTS) and item.path.relative_to(_TESTS).parts[0] in _OTHER_SOURCES:
        return False
    call = getattr(item, "callspec", None)
    return call is None or call.params.get("engine") not in _SAME_LINES


def load_what_all_tests_load() -> None:
    """Imports other packages before the modules of tests do, which are traced."""
    with untraced():
        for name in _LOADED_BY_ALL:
            importlib.import_module(name)
