"""What is in a stored model, read without running it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tensorflow.core.framework import graph_pb2

from tf_opt.cli.model_arguments import ModelArguments
from tf_opt.cli.model_paths import ModelKind, weight_files
from tf_opt.cli.models import read_model
from tf_opt.cli.output import Output
from tf_opt.cli.saved_model_files import Signature, choose_signatures, read_meta_graph, read_signatures
from tf_opt.engine_nodes import ASSETS, EngineFacts, engine_facts
from tf_opt.errors import ReportError
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.readable_graph import format_graph
from tf_opt.report.json import load_report
from tf_opt.saved_model.writer import REPORT_PATH
from tf_opt.sizes import stored_bytes


@dataclass(frozen=True, kw_only=True)
class EngineContents(EngineFacts):
    """One engine node.

    Attributes:
        function: The function that it stands in; empty for the main graph.
    """

    function: str


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A stored model.

    Attributes:
        path: Where it lies.
        kind: What it is.
        sizes: Bytes of its parts.
        signatures: The ways to call it; under an empty key where there is only one.
        engines: Its engine nodes.
        report: What its optimization reported, where that was stored.
        report_problem: Why what was stored cannot be read; empty where it can.
        graphs: What it was read from, by the title of a listing.
        fetched: Outputs of each graph that a listing ends with; None where they are found in it.
        assets: Where its engines lie as files; None where they are in the graph.
    """

    path: Path
    kind: ModelKind
    sizes: Mapping[str, int]
    signatures: Mapping[str, Signature]
    engines: tuple[EngineContents, ...]
    report: Any = None
    report_problem: str = ""
    graphs: Mapping[str, graph_pb2.GraphDef] = field(repr=False)
    fetched: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assets: Path | None = None

    @property
    def total_bytes(self) -> int:
        """Bytes of all its parts."""
        return sum(self.sizes.values())

    def listings(self) -> dict[str, str]:
        """Returns its graphs as readable text, by title."""
        return {
            title: format_graph(graph, self.fetched.get(title), self.assets) for title, graph in self.graphs.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the graphs as plain data."""
        return {
            "path": str(self.path),
            "kind": self.kind.value,
            "sizes": dict(self.sizes),
            "signatures": {
                key: {side: [asdict(info) for info in getattr(each, side)] for side in ("inputs", "outputs")}
                for key, each in self.signatures.items()
            },
            "engines": [asdict(engine) for engine in self.engines],
            "report": None if self.report is None else self.report.to_dict(),
            "report_problem": self.report_problem,
        }


def read_contents(path: Path, kind: ModelKind, model: ModelArguments, output: Output) -> Contents:
    """Returns what is in a model.

    Args:
        path: Where it lies.
        kind: What it is.
        model: Which part of it is meant.
        output: Where progress goes.

    Raises:
        FreezeError, InvalidGraphError: The model cannot be read.
    """
    sizes = _sizes(path, kind)
    if kind is ModelKind.SAVED_MODEL:
        signatures = choose_signatures(read_signatures(path, model.tag), model.signature, path)
        graph = read_meta_graph(path, model.tag).graph_def
        report, problem = _stored_report(path)
        return Contents(
            path=path,
            kind=kind,
            sizes=sizes,
            signatures=signatures,
            engines=tuple(_engines(graph, path / ASSETS)),
            report=report,
            report_problem=problem,
            graphs={"": graph},
            assets=path / ASSETS,
        )
    frozen = next(iter(read_model(path, kind, model, output).graphs.values()))
    return Contents(
        path=path,
        kind=kind,
        sizes=sizes,
        signatures={"": Signature(key="", inputs=frozen.inputs, outputs=frozen.outputs)},
        engines=tuple(_engines(frozen.graph_def)),
        graphs={"": frozen.graph_def},
        fetched={"": frozen.output_names},
    )


def _stored_report(folder: Path) -> tuple[Any, str]:
    path = folder / REPORT_PATH
    if not path.exists():
        return None, ""
    try:
        return load_report(path), ""
    except ReportError as error:  # The model is there all the same.
        return None, str(error)


def _engines(graph: graph_pb2.GraphDef, assets: Path | None = None) -> Iterable[EngineContents]:
    bodies = {"": graph.node, **{each.signature.name: each.node_def for each in graph.library.function}}
    for function, nodes in bodies.items():
        for node in nodes:
            if node.op == ENGINE_OP:
                yield EngineContents(function=function, **asdict(engine_facts(node, assets)))


def _sizes(path: Path, kind: ModelKind) -> dict[str, int]:
    """Returns the bytes of the parts of a model; of a folder, by what lies in it, without what is no part of it."""
    if kind is ModelKind.SAVED_MODEL:
        return {entry.name: stored_bytes(entry) for entry in sorted(path.iterdir())}
    if kind is ModelKind.HUGGING_FACE:
        return {entry.name: stored_bytes(entry) for entry in [path / "config.json", *weight_files(path)]}
    return {path.name: stored_bytes(path)}
