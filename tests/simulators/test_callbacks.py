"""Holds the classes that TensorRT calls back to the real bindings.

Their bases are known only once TensorRT is imported, so mypy takes any name for a new method; TensorRT would not call
one that is misspelt.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulators.real_bindings import FULL_VERSIONS, stubs_or_skip
from tests.simulators.tensorrt.conformance import callbacks
from tests.simulators.tensorrt.fixture import VERSIONS

BACKEND = Path(__file__).parents[2] / "tf_opt/engines/tensorrt"

DERIVED = {"ILogger", "IOutputAllocator", "IProgressMonitor"}


def derived_classes(tree: ast.AST) -> Iterator[tuple[str, ast.ClassDef]]:
    """Yields the classes of a module whose base is one of TensorRT's, with the base's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                if isinstance(base, ast.Attribute) and ast.unparse(base.value) in ("module", "trt", "tensorrt"):
                    yield base.attr, node


def faults(source: str, folder: Path) -> list[str]:
    """Returns what of a module's classes TensorRT would not call, or not with these arguments."""
    tree = ast.parse(source)
    found = []
    for base, node in derived_classes(tree):
        real = callbacks(base, folder)
        own = {
            method.name: tuple(argument.arg for argument in method.args.args[1:])
            for method in node.body
            if isinstance(method, ast.FunctionDef)
        }
        found += [f"{base}.{name} is not defined" for name in real if name not in own]
        found += [
            f"{base}.{name}{own[name]}, really {arguments}"
            for name, arguments in real.items()
            if own.get(name, arguments) != arguments
        ]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_backend_defines_what_the_bindings_call(version: str) -> None:
    folder = stubs_or_skip(FULL_VERSIONS[version])
    sources = [path.read_text() for path in sorted(BACKEND.glob("*.py"))]

    assert {base for source in sources for base, _ in derived_classes(ast.parse(source))} == DERIVED
    assert [fault for source in sources for fault in faults(source, folder)] == []


@pytest.mark.parametrize(
    ("file", "right", "wrong", "culprit"),
    [
        ("logger.py", "def log(self, severity: Any, msg: str)", "def log(self, severity: Any)", "ILogger.log("),
        ("logger.py", "def log(", "def logs(", "ILogger.log is not defined"),
        ("output_allocator.py", "def notify_shape(", "def notify_shapes(", "IOutputAllocator.notify_shape is"),
        (
            "output_allocator.py",
            "def reallocate_output_async(self, tensor_name: str, memory: int, size: int, alignment: int, stream: int)",
            "def reallocate_output_async(self, tensor_name: str, memory: int, size: int)",
            "IOutputAllocator.reallocate_output_async(",
        ),
        ("progress.py", "def phase_start(", "def phase_started(", "IProgressMonitor.phase_start is not defined"),
        ("progress.py", "def phase_finish(", "def phase_finished(", "IProgressMonitor.phase_finish is not defined"),
        ("progress.py", "def step_complete(", "def step_completed(", "IProgressMonitor.step_complete is not defined"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_misspelt_callbacks_are_found(version: str, file: str, right: str, wrong: str, culprit: str) -> None:
    source = (BACKEND / file).read_text()
    assert source.count(right) == 1

    found = faults(source.replace(right, wrong), stubs_or_skip(FULL_VERSIONS[version]))

    assert len(found) == 1
    assert found[0].startswith(culprit)
