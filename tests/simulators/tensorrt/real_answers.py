"""Asks the TensorRT of this machine the questions of `questions.py`, and compares its answers with the simulator's::

    python -m tests.simulators.tensorrt.questions --real ANSWERS.json

Each question is asked in a process of its own, so that none can end the others. The answers are written, and those that
are not expected of this version are printed. TensorRT 8.5 and 8.6 are expected to answer otherwise where `answers.py`
says so.

It needs an NVIDIA GPU, its driver, TensorRT (tensorrt), NumPy (numpy), ONNX (onnx) and wrapt; no TensorFlow.

Exit status: 0 where all answers are as expected; 1 where one is not; 3 where there is no TensorRT to ask, and then
nothing is written.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.simulators.tensorrt import questions
from tests.simulators.tensorrt.answers import expected
from tf_opt import files
from tf_opt.engines.tensorrt import bindings, cuda
from tf_opt.errors import TfOptError

DIFFERENT = 1
NO_TENSORRT = 3

_MODULE = "tests.simulators.tensorrt.questions"
_SECONDS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks all questions; see the top of this file for the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--real", metavar="ANSWERS.json", help="ask all questions and write the answers there")
    wanted.add_argument("--ask", metavar="QUESTION", choices=list(questions.QUESTIONS), help="print one answer")
    parsed = parser.parse_args(arguments)
    try:
        module = bindings.tensorrt_module()
    except TfOptError as error:
        print(f"There is no TensorRT to ask: {error}", file=sys.stderr)
        return NO_TENSORRT
    if parsed.ask is not None:
        print(json.dumps(questions.ask(parsed.ask, module, cuda.cuda_driver())))
        return 0
    answers = {name: answer_of_a_process(name) for name in questions.QUESTIONS}
    files.write_text(parsed.real, json.dumps({"tensorrt": module.__version__, "answers": answers}, indent=1) + "\n")
    return _compare(answers, module)


def answer_of_a_process(name: str) -> Any:
    """Returns the answer to a question, or in words how the process that was to give it ended."""
    command = [sys.executable, "-m", _MODULE, "--ask", name]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS} s"
    if result.returncode != 0:
        return f"the process ended with {result.returncode}: {result.stderr.strip()[-300:]}"
    # TensorRT may write to the standard output too.
    return json.loads(result.stdout.strip().splitlines()[-1])


def _compare(answers: dict[str, Any], module: Any) -> int:
    """Prints what is not expected; returns the exit status."""
    of_version, simulated = expected(bindings.version_of(module)), expected()
    different = {name: answer for name, answer in answers.items() if answer != of_version[name]}
    for name, answer in different.items():
        print(f"{name}: {answer}, expected {of_version[name]}")
    print(f"TensorRT {module.__version__}: {len(answers) - len(different)} of {len(answers)} answers are as expected")
    if known := [name for name in answers if name not in different and of_version[name] != simulated[name]]:
        print(f"Not the simulator's, as known of this version: {', '.join(known)}")
    return DIFFERENT if different else 0


if __name__ == "__main__":
    sys.exit(main())
