"""The work of `tf-opt optimize`: one model, from its path to the path of the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tf_opt.cli.feed_arguments import FeedSource
from tf_opt.cli.model_arguments import ModelArguments
from tf_opt.cli.model_paths import ModelKind
from tf_opt.cli.models import one_graph, read_model
from tf_opt.cli.output import Output
from tf_opt.cli.output_paths import is_graph_file
from tf_opt.cli.saved_model_files import choose_signatures, read_signatures
from tf_opt.engine_selection import select_engines
from tf_opt.errors import UnsupportedPrecisionError
from tf_opt.feeds import Feed
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.optimizer import Tf2TrtOpt
from tf_opt.optimizer_inputs import resolve_precision
from tf_opt.options import Options
from tf_opt.report.optimization import OptimizationReport
from tf_opt.report.output import ReportOutput
from tf_opt.saved_model.feeds import MadeUpFeeds
from tf_opt.saved_model.optimize import optimize_saved_model, save_saved_model


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """What is to be done.

    Attributes:
        source: The model.
        target: Where the result goes: a SavedModel folder, or a graph in a file.
        kind: What the model is.
        model: Which part of it is meant.
        feeds: Where feeds come from.
        calibration: Where feeds for calibration come from; None for the same.
        keywords: Of `Tf2TrtOpt`.
        disable_fp16: As at `Tf2TrtOpt.optimize`.
        opset: As at `Tf2TrtOpt.optimize`.
        overwrite: Whether the result may replace what is there.
    """

    source: Path
    target: Path
    kind: ModelKind
    model: ModelArguments
    feeds: FeedSource
    calibration: FeedSource | None
    keywords: Mapping[str, Any]
    disable_fp16: bool
    opset: int | None
    overwrite: bool

    def run(self, output: Output) -> ReportOutput:
        """Does it, and returns the report; the result is written whole or not at all."""
        check_device(Options.from_keywords(dict(self.keywords)), disable_fp16=self.disable_fp16)
        if self.kind is ModelKind.SAVED_MODEL and not is_graph_file(self.target):
            return self._saved_model(output)
        return self._graph(output)

    def _saved_model(self, output: Output) -> ReportOutput:
        known = read_signatures(self.source, self.model.tag)
        chosen = choose_signatures(known, self.model.signature, self.source)
        inputs = {key: signature.inputs for key, signature in chosen.items()}
        feeds: Mapping[str, Sequence[Feed]] | MadeUpFeeds | None = None
        if self.feeds.is_random and self.feeds.is_asked_for:
            feeds = MadeUpFeeds(make=self._random_feeds)
        elif not self.feeds.is_random:
            feeds = self.feeds.read_by_signature(inputs)
        calibration = None if self.calibration is None else self.calibration.read_by_signature(inputs)
        keywords = dict(self.keywords)
        report = optimize_saved_model(
            self.source,
            self.target,
            self.model.signature and list(chosen),
            feeds,
            tags=self.model.tag,
            calibration_data=calibration,
            overwrite=self.overwrite,
            fallback=keywords.pop("keep_fallback", True),
            disable_fp16=self.disable_fp16,
            opset=self.opset,
            **keywords,
        )
        for name, reason in report.unconverted.items():
            if name in chosen and name not in report.signatures:
                output.note(f"Note: the signature {name!r} stays as it was: {reason}")
        return report

    def _random_feeds(self, graphs: Mapping[str, FrozenGraph]) -> Mapping[str, Sequence[Feed]]:
        """Returns feeds of the shapes that the user asked for; one that is named has to have some."""
        return self.feeds.random_by_signature(graphs, None if self.model.signature else {})

    def _graph(self, output: Output) -> OptimizationReport:
        frozen = one_graph(
            read_model(self.source, self.kind, self.model, output), "a result without signatures", output
        )
        optimizer = Tf2TrtOpt(**self.keywords)
        calibration = None if self.calibration is None else self.calibration.feeds(frozen)
        optimized = optimizer.optimize(frozen, self.feeds.feeds(frozen), self.disable_fp16, self.opset, calibration)
        report = optimizer.report
        if self.feeds.is_random:
            report = replace(report, notes=(*report.notes, self.feeds.describe()))
        with output.doing(f"writing {self.target}"):
            if is_graph_file(self.target):
                optimized.save(self.target)
            else:
                save_saved_model(optimized, self.target, overwrite=self.overwrite, report=report)
        return report


def check_device(options: Options, *, disable_fp16: bool) -> None:
    """Refuses what cannot run on this machine, before a model is read.

    Raises:
        EnginePackageMissingError, EngineUnavailableError: The engine cannot run here.
        UnsupportedPrecisionError: No engine has hardware for the precision.
    """
    refusals = []
    for selection in select_engines(options):
        try:
            resolve_precision(options, selection.backends[0], disable_fp16)
        except UnsupportedPrecisionError as error:
            refusals.append(error)
        else:
            return
    raise refusals[0]
