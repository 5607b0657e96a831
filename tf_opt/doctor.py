"""Tells what of tf_opt works on this machine, what does not, and the command that repairs or gets it.

python -m tf_opt.doctor [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from tf_opt.doctor_findings import EngineFinding, Finding

_MARKS = {"ok": "[green]✓[/]", "absent": "[dim]–[/]", "problem": "[red]✗[/]"}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The result of `doctor`.

    Attributes:
        findings: What was looked at besides the engines, by topic.
        engines: The engines in the order in which `engine="auto"` tries them.
        chosen: The label of the engine that "auto" takes here; None where there is none.
    """

    findings: tuple[Finding, ...]
    engines: tuple[EngineFinding, ...]
    chosen: str | None

    @property
    def works(self) -> bool:
        """Whether a graph can be optimized and run here: there is an engine, TensorFlow, and the op that joins them."""
        needed = [each for each in self.findings if (each.topic, each.name) in _NEEDED]
        return self.chosen is not None and {each.status for each in needed} == {"ok"}

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as what JSON can hold."""
        return {
            "works": self.works,
            "chosen": self.chosen,
            "engines": [asdict(each) for each in self.engines],
            "findings": [asdict(each) for each in self.findings],
        }

    def print(self, console: Console | None = None) -> None:
        """Prints it as tables, and at the end what there is to do.

        Args:
            console: Where to; None for standard output.
        """
        from rich.markup import escape

        from tf_opt.terminal import default_console

        console = console or default_console()
        table = _table("", "topic", "what", "found")
        topic = ""
        for each in self.findings:
            table.add_row(_MARKS[each.status], "" if each.topic == topic else each.topic, each.name, escape(each.text))
            topic = each.topic
        console.print(table)
        console.print(self._engine_table())
        fixes = [(each.name, each.fix) for each in self.findings if each.fix is not None]
        fixes += [(each.label, each.fix) for each in self.engines if each.fix is not None]
        if fixes:
            console.print("What can be done:")
        for name, fix in fixes:
            console.print(f"  {escape(name)}: {escape(fix)}", soft_wrap=True)
        console.print(f'engine="auto" takes {escape(self.chosen)}.' if self.chosen else "No engine can run here.")
        if self.chosen and not self.works:
            console.print("But TensorFlow or the native op does not work, so no graph can be optimized; see above.")

    def _engine_table(self) -> Any:
        from rich.markup import escape

        table = _table("", "engine", "package", "precisions", "why not the others")
        for each in self.engines:
            refusals = [f"{name}: {reason}" for name, reason in each.precisions.items() if reason is not None]
            possible = ", ".join(name for name, reason in each.precisions.items() if reason is None)
            reasons = "\n".join([each.reason] if each.reason else refusals)
            mark = _MARKS["ok" if each.usable else "absent"]
            table.add_row(mark, each.label, each.version or "not installed", possible, escape(reasons))
        return table


_NEEDED = {("TensorFlow", "TensorFlow"), ("Native op", "library")}


def doctor() -> Diagnosis:
    """Looks at everything that tf_opt depends on, and returns what it found; `print()` shows it.

    TensorFlow is imported in another process, which compiles the op where that has not happened yet. A package that is
    broken is reported, and nothing of a GPU engine is touched before the NVIDIA driver has found a GPU.

    Example:
        >>> tf_opt.doctor().print()
    """
    from tf_opt import doctor_findings as look

    gpu = tuple(look.gpu_findings())
    engines = tuple(look.engine_findings())
    findings = (
        *look.python_findings(),
        *look.tensorflow_findings(gpu_is_there=any(each.name == "GPU 0" for each in gpu)),
        *gpu,
        *look.processor_findings(),
        *look.conflict_findings(),
        *look.onnxruntime_findings(),
        *look.optional_findings(),
        *look.cache_findings(),
    )
    chosen = next((each.label for each in engines if each.usable), None)
    return Diagnosis(findings=findings, engines=engines, chosen=chosen)


def _table(*columns: str) -> Any:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the diagnosis; returns 0, or 1 where nothing can be optimized here."""
    parser = argparse.ArgumentParser(prog="python -m tf_opt.doctor", description="Tell what works on this machine.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(arguments)
    diagnosis = doctor()
    if options.json:
        print(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        diagnosis.print()
    return 0 if diagnosis.works else 1


if __name__ == "__main__":
    sys.exit(main())
