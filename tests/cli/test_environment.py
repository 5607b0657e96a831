"""What TensorFlow logs while it is imported, before it heeds its log level, is shown as the level says."""

from __future__ import annotations

import pytest

from tf_opt.cli.environment import at_level

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
