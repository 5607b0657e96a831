"""What README.md shows works: its marked Python blocks run, and its make targets exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()

RUNNABLE = "<!-- runnable -->"
"""Stands in the line before a Python block that is a whole program. Blocks without it show a part only."""


def runnable_blocks(text: str) -> list[str]:
    return re.findall(rf"^{RUNNABLE}\n```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def make_targets(text: str) -> set[str]:
    """The targets named in code: `make demo`, or a line of a shell block."""
    return set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, flags=re.MULTILINE))


def test_every_mark_belongs_to_a_block() -> None:
    assert README.count(RUNNABLE) == len(runnable_blocks(README)) >= 1


RUN_ALL = """
import runpy, sys
for path in sys.argv[1:]:
    runpy.run_path(path, run_name="__main__")
"""


@pytest.mark.slow
def test_python_blocks_run(tmp_path: Path) -> None:
    paths: dict[bool, list[str]] = {True: [], False: []}
    for number, block in enumerate(runnable_blocks(README)):
        path = tmp_path / f"block_{number}.py"
        path.write_text(block)
        paths[re.search(r"Tf2TrtOpt\(|optimize_saved_model\(", block) is not None].append(str(path))
    assert all(paths.values())
    # Each has its own names. What only loads what another wrote into the folder does so in a process where nothing was
    # optimized; the others share one, as most of the time would go into loading TensorFlow.
    for optimizes in (True, False):
        completed = subprocess.run(
            [sys.executable, "-c", RUN_ALL, *paths[optimizes]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr


def test_make_targets_exist() -> None:
    named = make_targets(README)
    assert {"demo", "test"} <= named
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert named <= targets


def test_files_that_are_linked_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert "ARCHITECTURE.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_blocks_are_found_by_their_mark() -> None:
    text = f"a\n```python\nx\n```\n{RUNNABLE}\n```python\ny\nz\n```\n"
    assert runnable_blocks(text) == ["y\nz\n"]
    assert make_targets("Run `make demo`, or\nmake test-fast\nand make sure") == {"demo", "test-fast"}
