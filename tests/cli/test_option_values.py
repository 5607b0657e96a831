"""Values that an option does not take are told before anything is read: exit code 2, the option, what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tf_opt.cli.choices import OPSETS
from tf_opt.export import SUPPORTED_OPSETS

OPTIMIZE: list[tuple[str, list[str]]] = [
    ("--opset 3", ["'--opset'", "greater than or equal to 13"]),
    ("--opset 19", ["'--opset'", "less than or equal to 18"]),
    ("--opset x", ["'--opset'", "integer"]),
    ("--engine x", ["'--engine'", "is none of auto, openvino"]),
    ("--precision x", ["'--precision'", "is none of fp32"]),
    ("--adopt x", ["'--adopt'", "is none of measured, always"]),
    ("--minimum-segment-size 0", ["'--minimum-segment-size'", "equal to 1"]),
    ("--minimum-segment-size -1", ["'--minimum-segment-size'", "equal to 1"]),
    ("--specialize-after -1", ["'--specialize-after'", "equal to 0"]),
    ("--maximum-cached-engines 0", ["'--maximum-cached-engines'", "equal to 1"]),
    ("--measurement-seconds 0", ["measurement_seconds is 0.0; expected a positive number"]),
    ("--measurement-seconds -1", ["measurement_seconds is -1.0"]),
    ("--measurement-seconds nan", ["measurement_seconds is nan"]),
    ("--tuning-seconds -1 --precision auto", ["'--tuning-seconds'", "equal to 0"]),
    ("--tolerance-cosine 2", ["'--tolerance-cosine'", "equal to 1"]),
    ("--tolerance-cosine nan", ["'--tolerance-cosine'"]),
    ("--tolerance-absolute -1", ["'--tolerance-absolute'", "equal to 0"]),
    ("--rtol -1", ["'--rtol'", "equal to 0"]),
    ("--rtol nan", ["'--rtol'"]),
    ("--atol -1", ["'--atol'", "equal to 0"]),
    ("--quantization-method x --precision int8", ["'--quantization-method'", "is none of search, nncf"]),
    ("--quantization-denied-op Add --precision int8", ["'--quantization-denied-op'", "is none of MatMul, Gemm"]),
    ("--quantization-smoothing 2 --precision int8", ["'--quantization-smoothing'", "equal to 1"]),
    ("--quantization-weight-bits 6 --precision int8", ["'--quantization-weight-bits'", "equal to 7"]),
    ("--quantization-minimum-weight-elements 0 --precision int8", ["equal to 1"]),
    ("--quantization-maximum-samples 0 --precision int8", ["equal to 1"]),
    ("--quantization-maximum-rows 0 --precision int8", ["equal to 1"]),
    ("--tensorrt-profile x=8:4:1", ["smallest <= tuned for <= largest"]),
    ("--tensorrt-profile-strategy x", ["is none of range"]),
    ("--tensorrt-workspace 0", ["workspace_bytes is 0; expected an integer from 1"]),
    ("--tensorrt-workspace -1", ["'-1' is no size"]),
    ("--tensorrt-optimization-level 6", ["'--tensorrt-optimization-level'", "equal to 5"]),
    ("--tensorrt-hardware-compatibility x", ["is none of none, ampere_plus"]),
    ("--tensorrt-maximum-contexts 0", ["'--tensorrt-maximum-contexts'", "equal to 1"]),
    ("--tensorrt-maximum-contexts 99999", ["maximum_contexts is 99999; expected an integer from 1 to 1024"]),
    ("--feed-count 0", ["'--feed-count'", "equal to 1"]),
    ("--seed -1", ["'--seed'", "equal to 0"]),
    ("--batch-size 0", ["'--batch-size'", "equal to 1"]),
    ("--maximum-length 0", ["'--maximum-length'", "equal to 1"]),
    ("--shape x=0x16", ["--shape", "sizes begin with 1"]),
    ("--shape x=-1x16", ["--shape", "is no size"]),
]
OTHERS: list[tuple[str, list[str]]] = [
    ("compare IN IN --rtol nan", ["'--rtol'"]),
    ("compare IN IN --atol -1", ["'--atol'", "equal to 0"]),
    ("benchmark IN --runs 0", ["'--runs'", "equal to 1"]),
    ("benchmark IN --warmup -1", ["'--warmup'", "equal to 0"]),
    ("benchmark IN --batch 1,,2", ["--batch", "no list of sizes"]),
    ("benchmark IN --sequence -1", ["--sequence", "no list of sizes"]),
    ("cache list --kind x", ["'--kind'", "is none of"]),
]
EMPTY = [
    "--engine --precision --skip-padding --denied-op --denied-node --supported-op --supported-node --opset --adopt",
    "--cache-dir --dump --report --signature --tag --output --feeds --texts --tokenizer --shape --text-input",
    "--tensorrt-profile --tensorrt-tactic-source --tensorrt-timing-cache --calibration-feeds --calibration-texts",
]
CASES = [(f"optimize IN OUT {line}", parts) for line, parts in OPTIMIZE] + OTHERS


def refused(invoke: Invoke, folder: Path, *arguments: str) -> str:
    """The message on stderr, after checking that nothing else happened. IN and OUT are not there: nothing is read."""
    result = invoke(*(str(folder / word) if word in ("IN", "OUT") else word for word in arguments))
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert list(folder.iterdir()) == []
    # Long messages are folded into a box.
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize(("line", "parts"), CASES, ids=[line for line, _ in CASES])
def test_values_out_of_range(line: str, parts: list[str], invoke: Invoke, tmp_path: Path) -> None:
    message = refused(invoke, tmp_path, *line.split())
    assert [part for part in parts if part not in message] == [], message


def test_nothing_is_empty(invoke: Invoke, tmp_path: Path) -> None:
    for option in " ".join(EMPTY).split():
        for written in ([option, ""], [f"{option}="]):
            message = refused(invoke, tmp_path, "optimize", "IN", "OUT", *written)
            assert f"Invalid value for {option}: it is empty" in message
    for arguments in (["optimize", "", "OUT"], ["optimize", "IN", ""], ["inspect", ""], ["compare", "IN", ""]):
        assert "Invalid value: it is empty" in refused(invoke, tmp_path, *arguments)


def test_opsets_are_those_of_the_exporter() -> None:
    assert (SUPPORTED_OPSETS.start, SUPPORTED_OPSETS.stop - 1) == OPSETS
