"""What README.md and the help show can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_group

from tests.cli.conftest import Invoke, Models
from tf_opt.cli.program import app

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
MARK = "<!-- commands -->"
"""Stands in the line before a shell block whose lines are run one after the other."""

QUICK = {"optimize": ["--adopt", "always"], "benchmark": ["--runs", "1", "--warmup", "0"]}
"""What a test adds, so that nothing is measured."""


def readme_commands() -> list[list[str]]:
    [block] = re.findall(rf"^{MARK}\n```sh\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines()]


def examples() -> list[list[str]]:
    commands = get_group(app).commands
    texts = [each.help for each in [*commands.values(), *commands["cache"].commands.values()]]
    return [shlex.split(line)[1:] for text in texts for line in re.findall(r"Example: (tf-opt .*)", text or "")]


def test_commands_of_the_readme_and_examples_of_the_help(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "cache"))
    Path("my_model").symlink_to(models.hugging_face)
    Path("tokenizer_folder").symlink_to(models.hugging_face)
    Path("sentences.jsonl").symlink_to(models.texts)
    shown = readme_commands()
    assert {command[0] for command in shown} == {*get_group(app).commands}
    # An example differs from a line of the README in what a reader may leave out.
    further = [example for example in examples() if not any(example == line[: len(example)] for line in shown)]
    for arguments in [*shown, *further]:
        if arguments != ["doctor"]:  # Looks at the whole machine; it has tests of its own.
            result = invoke(*arguments, *QUICK.get(arguments[0], ()))
            assert result.exit_code == 0, f"{arguments}\n{result.output}"
    assert Path("report.html").is_file()
    assert len(examples()) == 8


def test_exit_codes_are_in_the_readme() -> None:
    section = README.partition("### Command line")[2].partition("###")[0]
    from tf_opt.cli import exit_codes

    for code in (0, exit_codes.ERROR, exit_codes.USAGE, exit_codes.DIFFERENT, exit_codes.INTERRUPTED):
        assert f"| {code} |" in section
