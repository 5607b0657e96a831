"""What the simulator has to answer to `questions.py`, and what a real TensorRT is expected to."""

from __future__ import annotations

from typing import Any

UNCHANGED = [False, [-1, 4]]
"""The shape was refused, and the output's is as unknown as before."""

NOTHING_RUN = [False, None]

ANSWERS: dict[str, Any] = {
    "right": [True, True],
    "io of dense": {
        "x": ["INPUT", "FLOAT", [-1, 8], "DEVICE", False, [-1, 8]],
        "y": ["OUTPUT", "FLOAT", [-1, 4], "DEVICE", False, [-1, 4]],
    },
    "io of reshape": {
        "x": ["INPUT", "FLOAT", [-1, 8], "DEVICE", False, [-1, 8]],
        "s": ["INPUT", "INT64", [2], "HOST", True, [2]],
        "y": ["OUTPUT", "FLOAT", [-1, -1], "DEVICE", False, [-1, -1]],
    },
    "io of int64": {
        "i": ["INPUT", "INT64", [-1], "DEVICE", False, [-1]],
        "y": ["OUTPUT", "INT64", [-1], "DEVICE", False, [-1]],
    },
    "io of nonzero": {
        "x": ["INPUT", "FLOAT", [-1, 8], "DEVICE", False, [-1, 8]],
        "y": ["OUTPUT", "INT64", [2, -1], "DEVICE", False, [2, -1]],
    },
    "parser errors": True,
    "no profile": False,
    "profile min>opt": "RuntimeError",
    "profile rank": [0, False],
    "profile fixed dim": [0, False],
    "profile unknown name": [0, False],
    "profile min 0": [0, True],
    "shape in range": [True, [16, 4]],
    "shape above": UNCHANGED,
    "shape below": UNCHANGED,
    "shape rank": UNCHANGED,
    "shape fixed dim": UNCHANGED,
    "shape unknown name": UNCHANGED,
    "shape of output": UNCHANGED,
    "infer before shapes": ["x"],
    "run without shape": NOTHING_RUN,
    "run without input": NOTHING_RUN,
    "run without output": NOTHING_RUN,
    "run misaligned": NOTHING_RUN,
    "data dependent": [[2, -1], True, True, ["shape", "y", [2, 2]], [[0, 1], [0, 1]]],
    "shape input": [[-1, -1], [], [4, 8], True, 32.0],
    "shape input unset profile": "AssertionError",
    "garbage plan": False,
    "cuda graph": [True, True],
}

# Before version 10 there is neither DataType.INT64 nor the flag STRONGLY_TYPED (the bindings of 8.5.3.1): networks are
# weakly typed, and the ONNX parser turns INT64 into INT32 (NVIDIA's documentation of it). No question depends on weak
# typing itself. Written from these sources; no real 8.5 has been asked.
_WITHOUT_INT64 = ("io of reshape", "io of int64", "io of nonzero")
_FIRST_WITH_INT64 = (10, 0)


def expected(version: tuple[int, int] = _FIRST_WITH_INT64) -> dict[str, Any]:
    """Returns what a real TensorRT is expected to answer, by question.

    Args:
        version: Its major and minor version. From 10.0 on the answers are the simulator's.
    """
    if version >= _FIRST_WITH_INT64:
        return dict(ANSWERS)
    return ANSWERS | {
        name: {
            tensor: ["INT32" if part == "INT64" else part for part in description]
            for tensor, description in ANSWERS[name].items()
        }
        for name in _WITHOUT_INT64
    }
