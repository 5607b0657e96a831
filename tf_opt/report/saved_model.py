"""What became of a SavedModel: a report for each signature, a reason for each that stays as it was, and the sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.output import ReportOutput


@dataclass(frozen=True, kw_only=True)
class SavedModelReport(ReportOutput):
    """The whole story of one SavedModel.

    It prints itself, and comes as JSON and as a page for the browser: see `ReportOutput`.

    Attributes:
        signatures: What the optimization of each signature did. Signatures of one graph share one optimization. One for
            which no engine was adopted is also in `unconverted`.
        unconverted: Signatures that stay as they were, each with the reason.
        original_bytes: Size of the given folder.
        optimized_bytes: Size of the written folder, before this report was added to it.
        variable_bytes: Size of the weights in it.
        engine_bytes: Size of its engines, each once, without weights.
        endpoints: The same as `signatures` for callable attributes of the model that are no signature's graph.
        notes: What else a user should know, such as what was left out.
    """

    signatures: Mapping[str, OptimizationReport]
    unconverted: Mapping[str, str]
    original_bytes: int
    optimized_bytes: int
    variable_bytes: int
    engine_bytes: int
    endpoints: Mapping[str, OptimizationReport] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def distinct(self) -> tuple[tuple[tuple[str, ...], OptimizationReport], ...]:
        """Each report once, with the names of all signatures and endpoints that share it."""
        found: list[tuple[list[str], OptimizationReport]] = []
        for name, report in (*self.signatures.items(), *self.endpoints.items()):
            names = next((names for names, other in found if other is report or other == report), None)
            if names is None:
                found.append(([name], report))
            else:
                names.append(name)
        return tuple((tuple(names), report) for names, report in found)

    def title(self, names: Sequence[str]) -> str:
        """Returns the names of a report of `distinct` with what they are, such as "Signatures a, b, attribute c"."""
        signatures = [name for name in names if name in self.signatures]
        attributes = [name for name in names if name not in self.signatures]
        groups = [(noun, each) for noun, each in (("signature", signatures), ("attribute", attributes)) if each]
        text = ", ".join(f"{noun}{'' if len(each) == 1 else 's'} {', '.join(each)}" for noun, each in groups)
        return text[:1].upper() + text[1:]
