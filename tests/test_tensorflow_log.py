"""What TensorFlow logs while it is imported, before it heeds its log level, is shown as the level says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tf_opt import tensorflow_log
from tf_opt.tensorflow_log import at_level

SAID = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795297910.906079   27873 cudart_stub.cc:31] Could not find cuda drivers on your machine.
a line of something else
W0000 00:00:1795297910.906079   27873 a.cc:1] a warning
E0000 00:00:1795297918.618847   27873 cuda_platform.cc:52] failed call to cuInit
"""


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("1", ["a line of something else", "a warning", "failed call to cuInit"]),
        ("2", ["a line of something else", "failed call to cuInit"]),
        ("3", ["a line of something else"]),
    ],
)
def test_lines_below_the_level_are_left_out(level: str, shown: list[str]) -> None:
    lines = at_level(SAID, level).splitlines()
    assert [line[-len(end) :] for line, end in zip(lines, shown, strict=True)] == shown


# Stands for TensorFlow, whose own log is another one where there is a GPU.
_STAND_IN = """
import os, sys
os.write(2, {said!r}.encode())
print("of Python's", file=sys.stderr)
{end}
"""

# The module alone: tf_opt registers its op with whatever TensorFlow is imported.
_PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from tensorflow_log import import_tensorflow
print("before", file=sys.stderr)
import_tensorflow()
print("after", "tensorflow" in sys.modules, file=sys.stderr)
"""


def written(folder: Path, level: str, end: str = "") -> tuple[list[str], int]:
    """Returns what a process writes to standard error that imports a stand-in for TensorFlow, and its exit status."""
    (folder / "tensorflow.py").write_text(_STAND_IN.format(said=SAID, end=end))
    environment = {"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": level}
    program = _PROGRAM.format(folder=str(Path(tensorflow_log.__file__).parent))
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    return done.stderr.splitlines(), done.returncode


def test_what_is_left_comes_in_order(tmp_path: Path) -> None:
    expected = ["before", "a line of something else", "of Python's", "after True"]
    assert written(tmp_path, "3") == (expected, 0)
    lines, _ = written(tmp_path, "2")
    assert [line for line in lines if "cuInit" in line]
    assert not [line for line in lines if "a warning" in line]


@pytest.mark.parametrize("level", ["", "0"])
def test_all_is_shown_where_no_level_is_set(level: str, tmp_path: Path) -> None:
    assert written(tmp_path, level) == (["before", *SAID.splitlines(), "of Python's", "after True"], 0)


def test_an_import_that_fails_says_so(tmp_path: Path) -> None:
    lines, status = written(tmp_path, "3", end="raise ImportError('no such library')")
    assert status == 1
    assert lines[:3] == ["before", "a line of something else", "of Python's"]
    assert lines[-1] == "ImportError: no such library"
