"""The result of the GPU check as Markdown tables, laid out as those of NVIDIA's BERT demonstration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TITLES = {"host": "with host copies", "device": "inputs and outputs in GPU memory"}


def markdown(content: Mapping[str, Any]) -> str:
    """Returns a table for each model, sequence length and way of measuring: average / p95 / p99 in milliseconds."""
    rows = content["rows"]
    parts = []
    for model, copies, sequence in sorted({(row["model"], row["copies"], row["sequence"]) for row in rows}):
        some = [row for row in rows if (row["model"], row["copies"], row["sequence"]) == (model, copies, sequence)]
        parts.append(f"{model}, sequence {sequence}, {_TITLES[copies]}: average / p95 / p99 in ms\n\n{_table(some)}")
    wrong = [f"- {each['engine']} ({each['model']}): {each['reason']}" for each in content["failed"]]
    if wrong:
        parts.append("Failed:\n\n" + "\n".join(wrong))
    absent = [f"- {name}: {reason}" for name, reason in content["absent"].items()]
    if absent:
        parts.append("Absent:\n\n" + "\n".join(absent))
    return "\n\n".join(parts)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    cells = {
        (row["batch"], row["engine"]): f"{1e3 * row['average']:.3g} / {1e3 * row['p95']:.3g} / {1e3 * row['p99']:.3g}"
        for row in rows
    }
    lines = ["| batch | " + " | ".join(engines) + " |", "|---" * (1 + len(engines)) + "|"]
    for batch in sorted({row["batch"] for row in rows}):
        lines.append(f"| {batch} | " + " | ".join(cells.get((batch, engine), "–") for engine in engines) + " |")
    return "\n".join(lines)
