"""The contract of a GraphDef pass, and the pipeline that runs passes in order."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.errors import PassError
from tf_opt.files import write_dump
from tf_opt.tensor_info import node_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Border:
    """What the user feeds and fetches: the names that no pass may take away, retype or reshape.

    Attributes:
        inputs: Names of the placeholder nodes that the user feeds.
        outputs: Names of the tensors ("x:0") that stay fetchable.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def output_nodes(self) -> frozenset[str]:
        """The nodes that own a fetchable tensor."""
        return frozenset(node_name(output) for output in self.outputs)

    @property
    def nodes(self) -> frozenset[str]:
        """Every node whose name has to survive: inputs and owners of outputs."""
        return self.output_nodes | {node_name(name) for name in self.inputs}


@dataclass(frozen=True)
class PassResult:
    """What a pass returns.

    Attributes:
        graph_def: The new graph; the argument itself where nothing changed.
        changed: Whether `graph_def` differs from the argument.
        changes: How many places were rewritten, for the report.
    """

    graph_def: GraphDef
    changed: bool
    changes: int = 0


class GraphPass(ABC):
    """One rewrite of a light GraphDef (weights are Placeholders that carry `_tf_opt_weight`).

    Attributes:
        name: Identifier of the pass, as it stands in errors, reports and dumps.
        requires: Properties that an earlier pass has to have established, else the pass finds less than it could.
        ensures: Properties that hold for the graph that the pass returns.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    ensures: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """Returns the rewritten graph; `graph_def` itself is never changed.

        Args:
            graph_def: A light graph.
            border: The names that have to survive with their dtypes and shapes.
        """


@dataclass(frozen=True)
class Fixpoint:
    """Passes that are repeated, in order, until a whole round changes nothing.

    Attributes:
        passes: What a round consists of.
        maximum_rounds: Rounds after which the pipeline goes on even if the last one changed something: two passes
            that undo each other must cost time, not hang.
    """

    passes: tuple[GraphPass, ...]
    maximum_rounds: int = 4


@dataclass(frozen=True)
class PassRecord:
    """What one run of one pass did.

    Attributes:
        name: Name of the pass.
        changes: Number of places that it rewrote.
        seconds: Wall time.
        nodes_before: Nodes of the graph that it was given.
        nodes_after: Nodes of the graph that it returned.
    """

    name: str
    changes: int
    seconds: float
    nodes_before: int
    nodes_after: int


class PassPipeline:
    """Runs passes one after the other.

    Args:
        passes: Passes and fixpoint groups, in order.
        dump_dir: Folder for "00_input.pb", "01_<pass>.pb", ...: the graph after each pass; None writes nothing.

    Attributes:
        records: One entry for each pass that the latest `run` executed, in order.

    Raises:
        PassError: A pass requires a property that no earlier pass ensures.
    """

    def __init__(self, passes: Sequence[GraphPass | Fixpoint], dump_dir: str | Path | None = None) -> None:
        self.passes = tuple(passes)
        self.dump_dir = None if dump_dir is None else Path(dump_dir)
        self.records: list[PassRecord] = []
        self._check_requirements()

    def _check_requirements(self) -> None:
        ensured: set[str] = set()
        for step in self.passes:
            for member in step.passes if isinstance(step, Fixpoint) else (step,):
                missing = sorted(member.requires - ensured)
                if missing:
                    raise PassError(
                        f"Pass {member.name!r} requires {', '.join(missing)}, which no pass before it ensures. Put a "
                        "pass that ensures it earlier in the list."
                    )
                ensured |= member.ensures

    @property
    def counts(self) -> dict[str, int]:
        """Number of places that each pass rewrote in the latest run, summed over its repetitions."""
        totals: dict[str, int] = {}
        for record in self.records:
            totals[record.name] = totals.get(record.name, 0) + record.changes
        return totals

    def run(self, graph_def: GraphDef, border: Border) -> GraphDef:
        """Returns the graph after all passes; `graph_def` is not changed.

        Raises:
            PassError: A pass failed, or lost a node of the border; the message names it and the passes before it.
            DumpError: A file of the dump cannot be written.
        """
        self.records = []
        self._dump("input", graph_def)
        for step in self.passes:
            if isinstance(step, GraphPass):
                graph_def = self._run_pass(step, graph_def, border).graph_def
                continue
            for _ in range(step.maximum_rounds):
                changed = False
                for member in step.passes:
                    result = self._run_pass(member, graph_def, border)
                    graph_def, changed = result.graph_def, changed or result.changed
                if not changed:
                    break
            else:
                logger.info(
                    "passes %s still changed the graph in round %d",
                    [member.name for member in step.passes],
                    step.maximum_rounds,
                )
        return graph_def

    def _run_pass(self, step: GraphPass, graph_def: GraphDef, border: Border) -> PassResult:
        started = time.perf_counter()
        try:
            result = step.run(graph_def, border)
        except Exception as error:
            raise PassError(f"Pass {step.name!r} failed{self._history()}: {type(error).__name__}: {error}") from error
        seconds = time.perf_counter() - started
        lost = sorted(border.nodes - {node.name for node in result.graph_def.node})
        if lost:
            raise PassError(
                f"Pass {step.name!r} lost {', '.join(lost)}{self._history()}; inputs and outputs of the graph have to "
                "keep their names. Leave this pass out, or name only nodes that the graph holds."
            )
        self.records.append(
            PassRecord(step.name, result.changes, seconds, len(graph_def.node), len(result.graph_def.node))
        )
        logger.debug("pass %s: %d changes in %.3f s", step.name, result.changes, seconds)
        self._dump(step.name, result.graph_def)
        return result

    def _history(self) -> str:
        names = ", ".join(record.name for record in self.records)
        return f" (after {names})" if names else " (it was the first)"

    def _dump(self, name: str, graph_def: GraphDef) -> None:
        if self.dump_dir is None:
            return
        path = self.dump_dir / f"{len(self.records):02d}_{name}.pb"
        write_dump(path, graph_def.SerializeToString(deterministic=True))
