"""What shows only in a process of its own: the entry point, a quick start, stdout, Ctrl-C, completion."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tf_opt
from tests.cli.conftest import Models
from tf_opt.cli.choices import ENGINES, PRECISIONS

PROGRAM = [sys.executable, "-m", "tf_opt.cli"]
TIMEOUT = 300

NO_HEAVY_IMPORT = """
import sys
from tf_opt.cli import main
sys.argv = ["tf-opt", *ARGUMENTS]
try:
    main()
except SystemExit as error:
    heavy = {"tensorflow", "numpy", "keras", "transformers", "onnx", "openvino"} & set(sys.modules)
    print(error.code, sorted(heavy), file=sys.stderr)
"""


def environment(**changes: str) -> dict[str, str]:
    """This one, without what the tests set for TensorFlow."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "TF_USE_LEGACY_KERAS")
    }
    return {**kept, **changes}


def run(command: list[str], **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(**changes), capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


@pytest.mark.parametrize("option", [[], ["--json"]])
def test_a_result_on_a_full_disk_is_an_error_in_a_line(option: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "cache", "list", *option],
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: The result cannot be written to where stdout goes: No space left on device.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["optimize", "--help"], ["cache", "list"], ["optimize", "a", "b", "--engine", "x"]],
)
def test_nothing_heavy_is_imported_before_it_is_needed(arguments: list[str], tmp_path: Path) -> None:
    code = NO_HEAVY_IMPORT.replace("ARGUMENTS", repr(arguments))
    completed = run([sys.executable, "-c", code], TF_OPT_CACHE_DIR=str(tmp_path))
    expected = 2 if "x" in arguments else 0
    assert completed.stderr.splitlines()[-1] == f"{expected} []", completed.stderr


def test_the_entry_point_is_installed() -> None:
    program = Path(sys.executable).parent / "tf-opt"
    completed = run([str(program), "--version"])
    assert completed.stdout == f"tf-opt {tf_opt.__version__}\n"
    assert run([str(program)]).returncode == 2


def test_help_documents_exit_codes_and_every_command_has_an_example() -> None:
    text = " ".join(run([*PROGRAM, "--help"]).stdout.split())
    for part in (
        "Exit codes",
        "0 done",
        "2 the command line is wrong",
        "3 compare found",
        "130 interrupted",
        "143 and 129 ended by",
    ):
        assert part in text
    from typer.main import get_group

    from tf_opt.cli.program import app

    commands = get_group(app).commands
    leaves = {**{name: each for name, each in commands.items() if name != "cache"}, **commands["cache"].commands}
    assert len(leaves) == 8
    for name, each in leaves.items():
        assert "Example: tf-opt " in each.help, name


def test_json_is_all_that_is_on_stdout_and_stderr_is_quiet(models: Models, tmp_path: Path) -> None:
    arguments = ["optimize", str(models.graph), str(tmp_path / "fast"), "--no-cache", "--adopt", "always", "--json"]
    completed = run([*PROGRAM, *arguments])
    assert completed.returncode == 0, completed.stderr
    assert json.loads(completed.stdout)["kind"] == "frozen graph"
    # No progress without a terminal, nothing that TensorFlow logs, only where the feeds are from.
    assert completed.stderr == f"{json.loads(completed.stdout)['feeds']}\n"


WAITS_WHERE_IT_MEASURES = """
import time
from pathlib import Path
import wrapt
from tf_opt.cli import main

@wrapt.when_imported("tf_opt.trial_measurement")
def wait_there(module):
    def wait(*arguments):
        Path(FILE).touch()
        time.sleep(600)
    module.measure_trial = wait

main()
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGINT, 130, "Interrupted."),
        (signal.SIGTERM, 143, "Ended by SIGTERM."),
    ],
)
def test_signals_leave_nothing_behind(
    models: Models, tmp_path: Path, number: signal.Signals, code: int, message: str
) -> None:
    (tmp_path / "out").mkdir()
    measuring = tmp_path / "measuring"
    # A measurement ends as soon as its answer is clear, which on a busy machine may be before the signal is sent.
    program = WAITS_WHERE_IT_MEASURES.replace("FILE", repr(str(measuring)))
    process = subprocess.Popen(
        [sys.executable, "-c", program, "optimize", str(models.graph), str(tmp_path / "out" / "fast"), "--no-cache"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + TIMEOUT
    while not measuring.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code, stderr
    assert stdout == ""
    assert stderr.splitlines()[-1] == message
    assert "Traceback" not in stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("form", [["--json"], []], ids=["json", "table"])
def test_a_reader_may_stop_early(form: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "cache", "list", *form],
        env=environment(TF_OPT_CACHE_DIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(TIMEOUT) == 0


def complete(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    asked = {"_TF_OPT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    completed = run([str(Path(sys.executable).parent / "tf-opt")], **asked)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.split()


def test_the_shell_completes_commands_options_and_values() -> None:
    commands = ["optimize", "analyze", "inspect", "compare", "benchmark", "doctor", "cache"]
    assert complete("tf-opt", "") == commands
    assert complete("tf-opt", "c") == ["compare", "cache"]
    assert complete("tf-opt", "optimize", "in", "out", "--engine", "") == list(ENGINES)
    assert complete("tf-opt", "optimize", "in", "out", "--precision", "fp") == [
        name for name in PRECISIONS if name.startswith("fp")
    ]
    assert "--tensorrt-profile" in complete("tf-opt", "optimize", "in", "out", "--tensorrt-p")
    assert complete("tf-opt", "cache", "clear", "--kind", "op") == ["optimizations", "ops"]


def test_completion_can_be_shown() -> None:
    # Typer looks for the shell among the parents of the process, which need not have one under a test runner.
    shown = run([*PROGRAM, "--show-completion", "bash"], _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert "_TF_OPT_COMPLETE" in shown.stdout
