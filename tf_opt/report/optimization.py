"""What an optimization did: segments, engines, figures, and a reason for every node that stays TensorFlow."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tf_opt.report.output import ReportOutput
from tf_opt.report.segment_graph import SegmentGraph


@dataclass(frozen=True, kw_only=True)
class RefusedNode:
    """A compute node that is in no segment.

    Attributes:
        name: Node name in the graph after the passes.
        op: Its op.
        category: Short class of the reason, for counting.
        reason: The reason, whole.
    """

    name: str
    op: str
    category: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DeclinedNode:
    """A compute node that one engine refused and a later one takes, where several engines are used.

    Attributes:
        name: Node name in the graph after the passes.
        op: Its op.
        engine: The engine that refused it.
        reason: Why, whole.
        segment: The segment of a later engine that it is in; empty where that one's segment would be too small.
    """

    name: str
    op: str
    engine: str
    reason: str
    segment: str = ""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Original against optimized on one feed.

    Attributes:
        original_milliseconds: Median time of the original graph.
        optimized_milliseconds: Median time of the graph with the engines in question.
        ratio: Original over optimized: above 1 is faster. Median of the paired rounds.
        interval: Confidence interval of the ratio.
        rounds: Number of pairs.
        verdict: "faster", "slower" or "same", the last where the interval holds no answer.
        feed: The shapes that were fed, such as "input_ids 1×16".
        measured_shapes: Number of feeds of different shapes that were measured in the same way.
        shapes: Number of different shapes among all feeds. More than `measured_shapes` where measuring stopped at a
            feed that is clearly slower, or where there were too many to measure them all.
    """

    original_milliseconds: float
    optimized_milliseconds: float
    ratio: float
    interval: tuple[float, float]
    rounds: int
    verdict: str
    feed: str = ""
    measured_shapes: int = 1
    shapes: int = 1

    def __str__(self) -> str:
        sure = f"{self.interval[0]:.3f} to {self.interval[1]:.3f}"
        if math.isinf(self.interval[1]):
            sure = f"too few rounds for an interval: {self.rounds}"
        text = (
            f"original {self.original_milliseconds:.3g} ms, optimized {self.optimized_milliseconds:.3g} ms, ratio "
            f"{self.ratio:.3f} ({sure}), {self.verdict}"
        )
        if self.feed:
            text += f", on {self.feed}"
        if self.measured_shapes < self.shapes:
            text += f" (the worst of {self.measured_shapes} measured of {self.shapes} shapes)"
        elif self.shapes > 1:
            text += f" (the worst of {self.shapes} shapes)"
        return text


@dataclass(frozen=True, kw_only=True)
class SegmentReport:
    """One segment and what became of it.

    Attributes:
        name: The segment's name; its engine node has it too.
        node_count: Compute nodes in it.
        op_counts: Compute nodes by op.
        inputs: Border tensors in, described.
        outputs: Border tensors out, described.
        weight_bytes: Bytes of the constants that it reads.
        adopted: Whether an engine runs it in the returned graph.
        reason: Why it stays TensorFlow; empty where it is adopted.
        precision: What the engine computes in.
        patterns: Blocks found in its ONNX model (attention, LayerNormalization, GELU), and how many.
        onnx_pass_changes: ONNX passes, and how many places each changed.
        notes: What else a user should know of this segment.
        library: Package and version that built the engine.
        engine_bytes: Size of the stored engine, with the weights that were derived for it.
        export_seconds: Wall time of the export to ONNX.
        build_seconds: Wall time of the build.
        maximum_error: Largest absolute difference of any output from the original, with this engine in.
        measurement: Timing against the original on the feed with the worst ratio, where it was measured.
    """

    name: str
    node_count: int
    op_counts: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weight_bytes: int
    adopted: bool = False
    reason: str = ""
    precision: str = "fp32"
    patterns: Mapping[str, int] = field(default_factory=dict)
    onnx_pass_changes: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    library: str = ""
    engine_bytes: int = 0
    export_seconds: float = 0.0
    build_seconds: float = 0.0
    maximum_error: float | None = None
    measurement: Measurement | None = None


@dataclass(frozen=True, kw_only=True)
class PrecisionAttempt:
    """One precision that was tried.

    Attributes:
        precision: What the engines computed in.
        reverted_layers: How many layers were moved back to the next wider type.
        engines: Number of engines that passed.
        maximum_error: Largest absolute difference of any output from the original.
        cosine: Lowest cosine of any sample of any output to the original.
        metric: Worst value of the user's metric.
        ratio: Time of the original over that of the attempt, on the feed with the worst ratio; None if not measured.
        reason: Why it was not kept; empty where it was.
        seconds: Wall time of the attempt.
    """

    precision: str
    reverted_layers: int = 0
    engines: int = 0
    maximum_error: float | None = None
    cosine: float | None = None
    metric: float | None = None
    ratio: float | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EngineAttempt:
    """One engine that `engine="fastest"` tried.

    Attributes:
        engine: Its name, with the device where there are several.
        precision: What its engines computed in.
        engines: How many segments it ran.
        speed: See `OptimizationReport.speed`.
    """

    engine: str
    precision: str
    engines: int
    speed: float


@dataclass(frozen=True, kw_only=True)
class OptimizationReport(ReportOutput):
    """The whole story of one optimization, or of an analysis that built nothing.

    It prints itself, and comes as JSON and as a page for the browser: see `ReportOutput`.

    Attributes:
        engine: Name of the backend; of the first where there are several.
        engine_choice: Why that engine was taken, where the user left the choice open.
        precision: What was asked for.
        attempts: The precisions that were tried, in order.
        engines_tried: The engines that were tried, where the fastest was asked for.
        from_cache: Whether an earlier run on the same model, feeds and options decided this.
        compute_nodes: Nodes after the passes that compute something (no constants, placeholders or no-ops).
        original_nodes: Nodes of the given graph.
        segments: Every segment found.
        refused: Every compute node that is in no segment.
        declined: What engines refused that a later one takes.
        pass_changes: Graph passes, and how many places each rewrote.
        stage_seconds: Wall time by stage.
        peak_memory_bytes: Highest resident memory of the process so far; None for an analysis.
        measurement: Timing of the returned graph against the original on the feed with the worst ratio, where it was
            measured.
        measurements: The same for every feed that was measured, one of each combination of shapes.
        maximum_error: Largest absolute difference of any output of the returned graph from the original.
        environment: Versions and machine.
        notes: What else a user should know.
        graph: The graph as boxes and edges: inputs, segments, what stays TensorFlow between them, outputs.
    """

    engine: str
    compute_nodes: int
    original_nodes: int
    precision: str = "fp32"
    attempts: tuple[PrecisionAttempt, ...] = ()
    engines_tried: tuple[EngineAttempt, ...] = ()
    from_cache: bool = False
    segments: tuple[SegmentReport, ...] = ()
    refused: tuple[RefusedNode, ...] = ()
    declined: tuple[DeclinedNode, ...] = ()
    pass_changes: Mapping[str, int] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    measurement: Measurement | None = None
    measurements: tuple[Measurement, ...] = ()
    maximum_error: float | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    engine_choice: str = ""
    notes: tuple[str, ...] = ()
    graph: SegmentGraph = field(default_factory=SegmentGraph)

    @property
    def nodes_in_segments(self) -> int:
        """Compute nodes in all segments found."""
        return sum(segment.node_count for segment in self.segments)

    @property
    def nodes_in_engines(self) -> int:
        """Compute nodes in adopted segments."""
        return sum(segment.node_count for segment in self.segments if segment.adopted)

    @property
    def engine_count(self) -> int:
        """Number of adopted segments."""
        return sum(segment.adopted for segment in self.segments)

    @property
    def engine_counts(self) -> dict[str, int]:
        """Adopted segments by the engine that runs them, most first."""
        names = (segment.library.partition(" ")[0] or self.engine for segment in self.segments if segment.adopted)
        return dict(Counter(names).most_common())

    @property
    def coverage(self) -> float:
        """Share of the compute nodes that are in segments, 0 to 1."""
        return self.nodes_in_segments / self.compute_nodes if self.compute_nodes else 0.0

    @property
    def speed(self) -> float:
        """Geometric mean of the time ratios to the original over all measured feeds; 1 where no engine was adopted."""
        ratios = [measurement.ratio for measurement in self.measurements if measurement.ratio > 0]
        if not self.engine_count or not ratios:
            return 1.0
        return math.exp(sum(map(math.log, ratios)) / len(ratios))

    @property
    def patterns(self) -> dict[str, int]:
        """Blocks found in the ONNX models of all segments, and how many."""
        total: Counter[str] = Counter()
        for segment in self.segments:
            total.update(segment.patterns)
        return {name: count for name, count in total.items() if count}

    def declined_as_refused(self) -> tuple[RefusedNode, ...]:
        """Returns what engines declined in the form of refused nodes, for those who show both in one way."""
        return tuple(
            RefusedNode(name=node.name, op=node.op, category=node.engine, reason=f"{node.engine}: {node.reason}")
            for node in self.declined
        )

    @property
    def refusal_counts(self) -> dict[str, int]:
        """Refused nodes by category, most first."""
        return dict(Counter(node.category for node in self.refused).most_common())
