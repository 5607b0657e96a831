"""The contract of an ONNX pass, and the pipeline that runs passes in order."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from tf_opt.errors import PassError
from tf_opt.files import write_dump
from tf_opt.passes.onnx.segment_weights import detach_segment

logger = logging.getLogger(__name__)


class OnnxPass(ABC):
    """One rewrite of a segment's model, in place.

    Graph inputs and outputs keep their names, order, dtypes and shapes. Big constants are initializers whose values
    cost a copy to read: a pass asks for them only where it cannot do without.

    Attributes:
        name: Identifier of the pass, as it stands in errors, reports and dumps.
        requires: Properties that an earlier pass has to have established, else the pass finds less than it could.
        ensures: Properties that hold for the model afterwards.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, model: ir.Model) -> int:
        """Changes `model` in place and returns the number of places changed: 0 where the model is as it was."""


@dataclass(frozen=True)
class OnnxPassRecord:
    """What one run of one pass did.

    Attributes:
        name: Name of the pass.
        changes: Number of places that it changed.
        seconds: Wall time.
        nodes_before: Nodes of the graph that it was given.
        nodes_after: Nodes of the graph that it left.
    """

    name: str
    changes: int
    seconds: float
    nodes_before: int
    nodes_after: int


class OnnxPipeline:
    """Runs passes one after the other on one model.

    Args:
        passes: Passes, in order; one may stand in the list more than once.
        dump_dir: Folder for "00_input.onnx", "01_<pass>.onnx", ...: the model after each pass, big constants as graph
            inputs; None writes nothing.

    Attributes:
        records: One entry for each pass that the latest `run` executed, in order.

    Raises:
        PassError: A pass requires a property that no earlier pass ensures.
    """

    def __init__(self, passes: Sequence[OnnxPass], dump_dir: str | Path | None = None) -> None:
        self.passes = tuple(passes)
        self.dump_dir = None if dump_dir is None else Path(dump_dir)
        self.records: list[OnnxPassRecord] = []
        ensured: set[str] = set()
        for member in self.passes:
            missing = sorted(member.requires - ensured)
            if missing:
                raise PassError(
                    f"Pass {member.name!r} requires {', '.join(missing)}, which no pass before it ensures. Put a "
                    "pass that ensures it earlier in the list."
                )
            ensured |= member.ensures

    @property
    def counts(self) -> dict[str, int]:
        """Number of places that each pass changed in the latest run, summed over its repetitions."""
        totals: dict[str, int] = {}
        for record in self.records:
            totals[record.name] = totals.get(record.name, 0) + record.changes
        return totals

    def run(self, model: ir.Model) -> dict[str, int]:
        """Changes `model` in place and returns how many places each pass changed, by its name.

        Raises:
            PassError: A pass failed, or changed the inputs or outputs of the graph; the message names it and the
                passes before it. The model is then in no defined state.
            DumpError: A file of the dump cannot be written.
        """
        self.records = []
        self._dump("input", model)
        for member in self.passes:
            self._run_pass(member, model)
        return self.counts

    def _run_pass(self, member: OnnxPass, model: ir.Model) -> None:
        border, nodes_before = border_of(model), model.graph.num_nodes()
        started = time.perf_counter()
        try:
            changes = member.run(model)
        except Exception as error:
            raise PassError(f"Pass {member.name!r} failed{self._history()}: {type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - started
        after = border_of(model)
        if after != border:
            differing = ", ".join(f"{old} became {new}" for old, new in zip(border, after, strict=False) if old != new)
            raise PassError(
                f"Pass {member.name!r} changed the inputs or outputs of the model{self._history()}: "
                f"{differing or f'{len(border)} of them became {len(after)}'}. Leave this pass out."
            )
        self.records.append(OnnxPassRecord(member.name, changes, seconds, nodes_before, model.graph.num_nodes()))
        logger.debug("pass %s: %d changes in %.3f s", member.name, changes, seconds)
        self._dump(member.name, model)

    def _history(self) -> str:
        names = ", ".join(record.name for record in self.records)
        return f" (after {names})" if names else " (it was the first)"

    def _dump(self, name: str, model: ir.Model) -> None:
        if self.dump_dir is None:
            return
        path = self.dump_dir / f"{len(self.records):02d}_{name}.onnx"
        write_dump(path, detach_segment(model)[0])


def border_of(model: ir.Model) -> list[tuple[str | None, str, str]]:
    """Returns name, dtype and shape of each graph input and then of each graph output, in order."""
    graph = model.graph
    return [(value.name, str(value.dtype), str(value.shape)) for value in (*graph.inputs, *graph.outputs)]
