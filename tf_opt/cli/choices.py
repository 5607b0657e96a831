"""Options with a fixed list of values: checked with the nearest suggested, completed by the shell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from tf_opt.errors import did_you_mean

ENGINES = ("auto", "openvino", "tensorrt", "onnxruntime", "fastest")
"""What `tf_opt.Options` takes; written down, because to ask it would load NumPy for `--help`."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "auto")

OPSETS = (13, 18)
"""The oldest and the newest ONNX opset that segments are exported in, written down for the same reason."""


def one_of(values: Sequence[str], explanation: str) -> dict[str, Any]:
    """Returns the keywords of `typer.Option` for a value, or for several values, out of a list.

    Args:
        values: The list.
        explanation: What the option does; the help adds the values.
    """

    def check(given: Any) -> Any:
        for value in given if isinstance(given, list | tuple) else [given]:
            if value is not None and value not in values:
                raise typer.BadParameter(f"{value!r} is none of {', '.join(values)}.{did_you_mean(value, values)}")
        return given

    return {
        "callback": check,
        "autocompletion": completer(values),
        "metavar": "NAME",
        "help": f"{explanation} One of {', '.join(values)}.",
    }


def engines(explanation: str) -> dict[str, Any]:
    """Returns the keywords of `typer.Option` for engines; several may stand in one value: "tensorrt,openvino"."""
    keywords = one_of(ENGINES, explanation)

    def check(given: list[str] | None) -> list[str] | None:
        separate = [name.strip() for value in given or () for name in value.split(",")]
        return keywords["callback"](separate) or None

    return {**keywords, "callback": check}


def completer(values: Sequence[str]) -> Callable[[str], list[str]]:
    """Returns what typer asks for completions."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete
