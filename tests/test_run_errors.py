from __future__ import annotations

import pytest
import tensorflow as tf

from tf_opt.errors import OriginalGraphError, UnknownOpError
from tf_opt.run_errors import brief_message, original_graph_error

PYTHON = """Graph execution error:

Detected at node 'PyFunc' defined at (most recent call last):
Node: 'PyFunc'
ValueError: Could not find callback with key=pyfunc_0 in the registry.
Traceback (most recent call last):

  File "script_ops.py", line 257, in __call__
    raise ValueError(f"Could not find callback with key={token} in the "

ValueError: Could not find callback with key=pyfunc_0 in the registry.


\t [[{{node PyFunc}}]]"""


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (PYTHON, "ValueError: Could not find callback with key=pyfunc_0 in the registry (node 'PyFunc')"),
        ("{{function_node __wrapped__Add}} no room", "{{function_node __wrapped__Add}} no room"),
        ("assertion failed: [x]\n\t [[{{node a/Assert}}]]\n  (0) more", "assertion failed: [x] (node 'a/Assert')"),
        ("", "InvalidArgumentError"),
    ],
)
def test_brief_message(message: str, expected: str) -> None:
    assert brief_message(tf.errors.InvalidArgumentError(None, None, message)) == expected


def test_long_messages_are_cut() -> None:
    assert len(brief_message(tf.errors.InternalError(None, None, "x" * 10_000))) < 600


def test_errors_of_the_original_graph() -> None:
    error = original_graph_error(tf.errors.InvalidArgumentError(None, None, PYTHON), 3)
    assert isinstance(error, OriginalGraphError)
    assert str(error).startswith("The original graph fails on feed 3 (counted from 0): ValueError: Could not")
    missing = "No OpKernel was registered to support Op 'Odd'"
    assert isinstance(original_graph_error(tf.errors.InvalidArgumentError(None, None, missing), 0), UnknownOpError)
