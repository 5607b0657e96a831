"""Reports that tests of text, JSON and page share."""

from __future__ import annotations

import math
from dataclasses import replace

from tf_opt.report.optimization import (
    DeclinedNode,
    EngineAttempt,
    Measurement,
    OptimizationReport,
    PrecisionAttempt,
    RefusedNode,
    SegmentReport,
)
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.report.segment_graph import GraphBox, GraphEdge, SegmentGraph

MEASUREMENT = Measurement(
    original_milliseconds=2.0,
    optimized_milliseconds=1.0,
    ratio=2.0,
    interval=(1.9, 2.1),
    rounds=9,
    verdict="faster",
    feed="x 1×16",
    measured_shapes=3,
    shapes=3,
)

GRAPH = SegmentGraph(
    boxes=(
        GraphBox(name="input:x", kind="input", title="x", examples=("x",)),
        GraphBox(
            name="tf_opt_segment_0",
            kind="segment",
            title="tf_opt_segment_0",
            node_count=6,
            op_counts={"MatMul": 4, "Relu": 2},
            examples=("a", "b"),
        ),
        GraphBox(
            name="tensorflow:n0",
            kind="tensorflow",
            title="Betainc",
            node_count=3,
            op_counts={"Betainc": 3},
            categories={"op": 3},
            examples=("n0", "n1", "n2"),
        ),
        GraphBox(name="tf_opt_segment_1", kind="segment", title="tf_opt_segment_1", node_count=3, op_counts={"Add": 3}),
        GraphBox(name="output:y:0", kind="output", title="y", examples=("y",)),
    ),
    edges=(
        GraphEdge(source="input:x", target="tf_opt_segment_0", tensor_count=1, tensors=("x:0 float32 [?, 16]",)),
        GraphEdge(source="tf_opt_segment_0", target="tensorflow:n0", tensor_count=2, tensors=("a:0 float32", "b:0")),
        GraphEdge(source="tensorflow:n0", target="tf_opt_segment_1", tensor_count=0),
        GraphEdge(source="tf_opt_segment_0", target="tf_opt_segment_1", tensor_count=1, tensors=("c:0 float32 [?]",)),
        GraphEdge(source="tf_opt_segment_1", target="output:y:0", tensor_count=1, tensors=("y:0 float32 [?, 4]",)),
    ),
)


def report() -> OptimizationReport:
    """One adopted segment, one that was too slow, three nodes that no converter knows."""
    adopted = SegmentReport(
        name="tf_opt_segment_0",
        node_count=6,
        op_counts={"MatMul": 4, "Relu": 2},
        inputs=("x:0 float32 [?, 16]",),
        outputs=("y:0 float32 [?, 4]",),
        weight_bytes=3 << 20,
        adopted=True,
        library="openvino 1.2",
        measurement=MEASUREMENT,
        maximum_error=1e-6,
    )
    rejected = SegmentReport(
        name="tf_opt_segment_1",
        node_count=3,
        op_counts={"Add": 3},
        inputs=(),
        outputs=(),
        weight_bytes=0,
        reason="slower than TensorFlow: by half",
    )
    return OptimizationReport(
        engine="openvino",
        compute_nodes=12,
        original_nodes=40,
        segments=(adopted, rejected),
        refused=tuple(RefusedNode(name=f"n{i}", op="Betainc", category="op", reason="no conversion") for i in range(3)),
        declined=(
            DeclinedNode(name="t0", op="Tanh", engine="tensorrt", reason="no importer", segment="tf_opt_segment_0"),
            DeclinedNode(name="t1", op="Tanh", engine="tensorrt", reason="no importer for t1"),
        ),
        measurement=MEASUREMENT,
        measurements=(MEASUREMENT,),
        maximum_error=1e-6,
        stage_seconds={"passes": 0.5},
    )


def full_report() -> OptimizationReport:
    """A report in which every field has a value that is not its default, with numbers that JSON does not know."""
    endless = replace(MEASUREMENT, interval=(0.0, math.inf))
    first, second = report().segments
    first = replace(
        first,
        patterns={"attention": 2},
        onnx_pass_changes={"fuse_gelu": 3, "prune": 0},
        notes=("the segment's note",),
        engine_bytes=2048,
        export_seconds=1.5,
        build_seconds=70.0,
    )
    return replace(
        report(),
        precision="auto",
        segments=(first, second),
        attempts=(
            PrecisionAttempt(
                precision="int8",
                reverted_layers=2,
                maximum_error=math.nan,
                cosine=0.9,
                metric=0.5,
                ratio=3.0,
                reason="outside of the tolerance",
                seconds=2.0,
            ),
            PrecisionAttempt(precision="fp32", engines=1, ratio=2.0, seconds=1.0),
        ),
        engines_tried=(EngineAttempt(engine="onnxruntime", precision="fp32", engines=1, speed=1.5),),
        from_cache=True,
        engine_choice="openvino: it runs here; tensorrt: there is no GPU",
        pass_changes={"prune": 5},
        peak_memory_bytes=3 << 30,
        measurement=endless,
        measurements=(MEASUREMENT, endless),
        environment={"cpu": "a processor", "versions": {"tensorflow": "2.21.0"}},
        notes=("the graph's note",),
        graph=GRAPH,
    )


def saved_model_report() -> SavedModelReport:
    """Two signatures of one graph, one of another, and one that stays as it was."""
    other = replace(full_report(), segments=(), attempts=(), measurement=None, measurements=(), graph=SegmentGraph())
    return SavedModelReport(
        signatures={"serving_default": full_report(), "serve": full_report(), "encode": other},
        unconverted={"encode": "No engine was adopted; its report says why.", "vocabulary": "It computes strings."},
        original_bytes=400_000_000,
        optimized_bytes=410_000_000,
        variable_bytes=399_000_000,
        engine_bytes=200_000,
        endpoints={"__call__": full_report()},
        notes=("the model's note",),
    )


def many_refusals(count: int) -> OptimizationReport:
    """An analysis of a graph of which nothing can run elsewhere."""
    return OptimizationReport(
        engine="openvino",
        compute_nodes=count,
        original_nodes=count,
        refused=tuple(
            RefusedNode(
                name=f"block_{i}/node",
                op=("Betainc", "Cumsum", "Where")[i % 3],
                category=("op not supported", "control flow")[i % 2],
                reason=f"reason {i % 7}",
            )
            for i in range(count)
        ),
    )


EVIL = "</script><script>window.harm = 1</script><img src=x onerror='window.harm = 1'>\"'&{{ 7 * 7 }}"
"""A name that a page must show and not obey."""


def evil_report() -> OptimizationReport:
    """A report in which every text is `EVIL`."""
    first = replace(
        full_report().segments[0],
        op_counts={EVIL: 1},
        inputs=(EVIL,),
        outputs=(EVIL,),
        reason=EVIL,
        precision=EVIL,
        notes=(EVIL,),
        library=EVIL,
        patterns={EVIL: 1},
        onnx_pass_changes={EVIL: 1},
    )
    boxes = tuple(
        replace(box, title=EVIL, op_counts={EVIL: 1}, categories={EVIL: 1}, examples=(EVIL,)) for box in GRAPH.boxes
    )
    return replace(
        full_report(),
        engine=EVIL,
        engine_choice=f"{EVIL}; {EVIL}",
        segments=(first, replace(full_report().segments[1], reason=EVIL)),
        refused=(
            RefusedNode(name=EVIL, op=EVIL, category=EVIL, reason=EVIL),
            RefusedNode(name=EVIL, op=EVIL, category=EVIL, reason="another"),
        ),
        declined=tuple(DeclinedNode(name=EVIL, op=EVIL, engine=EVIL, reason=f"{EVIL}{i}") for i in range(2)),
        attempts=(PrecisionAttempt(precision=EVIL, reason=EVIL),),
        engines_tried=(EngineAttempt(engine=EVIL, precision=EVIL, engines=1, speed=1.0),),
        stage_seconds={EVIL: 1.0},
        pass_changes={EVIL: 1},
        measurements=(replace(MEASUREMENT, feed=EVIL, verdict=EVIL),),
        environment={EVIL: EVIL, "versions": {EVIL: EVIL}},
        notes=(EVIL,),
        graph=SegmentGraph(boxes=boxes, edges=tuple(replace(edge, tensors=(EVIL,)) for edge in GRAPH.edges)),
    )
