"""`Tf2TrtOpt`: from a frozen graph to one whose segments run as engines."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from tensorflow.core.framework import graph_pb2

from tf_opt.engine_selection import select_engines
from tf_opt.errors import InvalidGraphError, TfOptError, UnsupportedPrecisionError
from tf_opt.export import DEFAULT_OPSET, check_opset
from tf_opt.feeds import Feed, check_feeds
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.light_graph import LightGraph, light_graph
from tf_opt.ops.host_weights import keep_weights_on_host
from tf_opt.optimization_run import OptimizationRun, peak_memory_bytes
from tf_opt.optimizer_inputs import (
    check_calibration,
    check_graph_def,
    needed_feeds,
    resolve_mask,
    resolve_precision,
)
from tf_opt.option_names import check_option_names
from tf_opt.option_paths import check_option_paths
from tf_opt.options import Options
from tf_opt.report.optimization import EngineAttempt, OptimizationReport


class Tf2TrtOpt:
    """Optimizes frozen graphs: the segments that an engine can run become engine nodes.

    Example:
        >>> optimizer = Tf2TrtOpt()
        >>> optimized = optimizer.optimize_graph_def(graph_def, ["Identity"], [{"input_ids:0": ids}])
        >>> optimizer.report.print()

    Attributes:
        options: The options, checked.
    """

    def __init__(self, **options: Any) -> None:
        """Takes the fields of `tf_opt.Options` as keywords.

        Raises:
            InvalidOptionError: A keyword is no option, or its value is not allowed.
            UnknownEngineError: There is no engine of that name.
            OutputPathError: `dump_dir`, `cache_dir` or TensorRT's `timing_cache` cannot be written to.
        """
        self.options = Options.from_keywords(options)
        check_option_paths(self.options)
        self._report: OptimizationReport | None = None

    @property
    def report(self) -> OptimizationReport:
        """The report of the latest run or analysis.

        Raises:
            TfOptError: Nothing has been optimized or analyzed yet.
        """
        if self._report is None:
            raise TfOptError("There is no report yet. Call optimize_graph_def, optimize or analyze first.")
        return self._report

    def optimize_graph_def(
        self,
        graph_def: graph_pb2.GraphDef,
        model_outputs: Sequence[str] | str,
        test_data: Sequence[Feed],
        disable_fp16: bool = True,
        opset: int | None = None,
        calibration_data: Iterable[Feed] | None = None,
    ) -> graph_pb2.GraphDef:
        """Returns a GraphDef in which engine nodes stand for segments. It runs in a plain `tf.compat.v1.Session`.

        A process that only loads the result has to `import tf_opt`, so that TensorFlow knows the engine op.

        Args:
            graph_def: A frozen graph; it is not changed. It is returned as it is where no engine is adopted.
            model_outputs: Node or tensor names to fetch ("Identity" or "Identity:0"); they stay fetchable.
            test_data: Feeds by input name, with or without ":0". They decide which engines are adopted, so they should
                look like what the model will be served.
            disable_fp16: False is short for `precision` being the fastest 16-bit type of the device; it says nothing
                where `precision` is another than "fp32".
            opset: ONNX opset of the exported segments.
            calibration_data: Feeds that "int8" is calibrated with; None takes `test_data`. Each is run once, so that a
                generator will do.

        Raises:
            UnknownOutputError: An output is no tensor of the graph.
            InvalidFeedError: A feed is missing, unknown, or of the wrong dtype, rank or shape, or there is none.
            GraphNotFrozenError: Variables are left in the graph.
            UnknownOpError: An op is not registered in this process.
            InvalidGraphError: The graph is inconsistent.
            InvalidOptionError: opset is not possible, or an option names an op, a node or an input that is not there.
            UnsupportedPrecisionError: The device has no hardware for the precision.
            CalibrationError: A segment cannot be calibrated for "int8", and `strict` is set.
            EnginePackageMissingError: The engine's package is not installed.
            EngineUnavailableError: The engine cannot run on this machine.
            EngineBuildError, ExportError: A segment cannot become an engine, and `strict` is set.
            OpBuildError: The native op cannot be compiled.
            DumpError: `dump_dir` has too little room, or a file cannot be written there.
        """
        frozen = frozen_from_graph_def(check_graph_def(graph_def), model_outputs)
        return self.optimize(frozen, test_data, disable_fp16, opset, calibration_data).graph_def

    def optimize(
        self,
        frozen: FrozenGraph,
        test_data: Sequence[Feed],
        disable_fp16: bool = True,
        opset: int | None = None,
        calibration_data: Iterable[Feed] | None = None,
    ) -> FrozenGraph:
        """Does what `optimize_graph_def` does for a FrozenGraph, whose inputs and outputs keep their keys."""
        if not isinstance(frozen, FrozenGraph):
            raise InvalidGraphError(
                f"optimize takes a FrozenGraph, got {type(frozen).__name__}. tf_opt.freeze_keras and its siblings make "
                "one; for a bare GraphDef call optimize_graph_def."
            )
        model = light_graph(frozen)
        check_option_names(self.options, [model])
        light = self.optimize_light(model, test_data, disable_fp16, opset, calibration_data)
        if light is model:
            return frozen
        started = time.perf_counter()
        optimized = light.attached()
        keep_weights_on_host(optimized.graph_def)
        stages = {**self.report.stage_seconds, "attach": time.perf_counter() - started}
        self._report = replace(self.report, stage_seconds=stages, peak_memory_bytes=peak_memory_bytes())
        return optimized

    def optimize_light(
        self,
        model: LightGraph,
        test_data: Sequence[Feed],
        disable_fp16: bool = True,
        opset: int | None = None,
        calibration_data: Iterable[Feed] | None = None,
    ) -> LightGraph:
        """Does what `optimize` does for a graph that stands beside its weights, without putting the two together.

        Returns:
            The optimized graph beside its weights, which are those of `model` and some that were derived of them; the
            given object where no engine is adopted.
        """
        options = resolve_mask(self.options, model)
        opset = check_opset(DEFAULT_OPSET if opset is None else opset)
        runs, refusals = [], []
        for selection in select_engines(options):
            try:
                resolved = resolve_precision(options, selection.backends[0], disable_fp16)
            except UnsupportedPrecisionError as error:
                refusals.append(error)
                continue
            runs.append(OptimizationRun(resolved, model, opset, selection))
        if not runs:
            raise refusals[0]
        feeds = check_feeds(*needed_feeds(model, test_data))
        calibration = feeds
        if calibration_data is not None and options.precision in ("int8", "auto"):
            calibration = check_calibration(calibration_data, model)
        optimized, self._report = runs[0].optimize(feeds, calibration)
        tried = [_engine_attempt(runs[0], self._report)]
        for run in runs[1:]:
            other, report = run.optimize(feeds, calibration)
            tried.append(_engine_attempt(run, report))
            if report.speed > self._report.speed:
                optimized, self._report = other, report
        if len(runs) > 1:
            self._report = replace(self._report, engines_tried=tuple(tried))
        return optimized

    def analyze(self, graph_def: graph_pb2.GraphDef, outputs: Sequence[str] | str) -> OptimizationReport:
        """Reports what would become an engine, and why each other node would not, without building anything.

        Args:
            graph_def: A frozen graph; it is not changed.
            outputs: Node or tensor names to fetch.

        Raises:
            UnknownOutputError, GraphNotFrozenError, UnknownOpError, InvalidGraphError, EnginePackageMissingError,
            EngineUnavailableError, InvalidOptionError: As `optimize_graph_def`.
        """
        model = light_graph(frozen_from_graph_def(check_graph_def(graph_def), outputs))
        check_option_names(self.options, [model])
        return self.analyze_light(model)

    def analyze_light(self, model: LightGraph) -> OptimizationReport:
        """Does what `analyze` does for a graph that stands beside its weights, whose names are checked already."""
        selection = select_engines(self.options)[0]
        self._report = OptimizationRun(self.options, model, DEFAULT_OPSET, selection).analyze()
        return self._report


def _engine_attempt(run: OptimizationRun, report: OptimizationReport) -> EngineAttempt:
    kept = next((attempt.precision for attempt in report.attempts if not attempt.reason), report.precision)
    return EngineAttempt(
        engine=run.choice.reason or run.backend.name, precision=kept, engines=report.engine_count, speed=report.speed
    )
