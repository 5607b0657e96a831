"""Replays one dumped segment: its TensorFlow nodes against its engine, on the values that flowed into it.

    python <dump>/segments/replay_tf_opt_segment_0.py --engine onnxruntime

The engine runs as in the optimized graph, through the op and from what the engine node stored, without a fallback.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tensorflow as tf
from google.protobuf.message import DecodeError
from rich.table import Table
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.comparison import Comparison, compare
from tf_opt.dump.feeds import read_feeds
from tf_opt.dump.records import SegmentRecord, load_record
from tf_opt.dump.replay_engine import EngineSource, ReplayedEngine
from tf_opt.dump.weights import DumpedWeights
from tf_opt.errors import DumpError, EngineRunError, TfOptError
from tf_opt.feeds import feed_shapes
from tf_opt.ops.build import load as load_op
from tf_opt.paired_comparison import PairedComparison, paired_comparison
from tf_opt.passes.tf.extract import INPUT_PREFIX, OUTPUT_PREFIX, WEIGHT_PREFIX, dtype_enum
from tf_opt.passes.tf.segment import Segment
from tf_opt.passes.tf.splice import EngineNode, splice_segments
from tf_opt.tensor_info import TensorInfo, node_name, tensor_name
from tf_opt.terminal import default_console
from tf_opt.trial import Trial, describe_shapes
from tf_opt.weights import WeightStore, constant_node, is_weight


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay found out.

    Attributes:
        engine: Name of the engine.
        comparison: The segment's outputs, TensorFlow against engine.
        timings: For each feed what was fed, and TensorFlow's time (a) against the engine's (b).
    """

    engine: str
    comparison: Comparison
    timings: tuple[tuple[str, PairedComparison], ...]


def replay(
    record_path: Path,
    engine: str | None = None,
    feeds_path: Path | None = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-3,
    seconds: float = 5.0,
) -> Replay:
    """Runs a segment's TensorFlow nodes and its engine on the same feeds.

    Args:
        record_path: `<segment>.json` of a dump.
        engine: Which engine; see `EngineSource.engine`.
        feeds_path: An .npz of other feeds; see `tf_opt.dump.feeds.read_feeds`. None: the stored ones.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        seconds: How long measuring may take, all feeds together.

    Raises:
        DumpError: A file is missing or damaged, there are no feeds, or the dump has no such engine.
        EngineBuildError: An engine that is to be built cannot be; for the reason that the dump was made for, perhaps.
        EngineRunError: One of the two sides fails on a feed.
    """
    load_op()
    record, folder = load_record(record_path), record_path.parent
    if feeds_path is None and not record.feeds:
        raise DumpError(f"There are no stored feeds of {record.stem}: {record.feeds_reason}. Give some with --feeds.")
    feeds = read_feeds(feeds_path or folder / record.feeds, record.inputs)
    dumped = DumpedWeights(folder)
    chosen = EngineSource(folder, record, dumped, feeds).engine(engine)
    light = _read_graph(folder / f"{record.stem}.pb")
    spliced, constants = _with_engine(light, record, chosen)
    for number, info in enumerate(record.weights):
        name, key = f"{WEIGHT_PREFIX}{number}", node_name(info.name)
        constants[name] = constant_node(name, dumped.array(key), dtype_enum(info.dtype))
    outputs = [f"{OUTPUT_PREFIX}{number}:0" for number in range(len(record.outputs))]
    try:
        with Trial(light, spliced, WeightStore(constants), outputs, feeds) as trial:
            comparison = compare(trial.run_original, trial.run_optimized, feeds, rtol, atol, show=False)
            timings = []
            for feed in feeds:
                measured = paired_comparison(
                    functools.partial(trial.run_original, feed),
                    functools.partial(trial.run_optimized, feed),
                    maximum_seconds=seconds / len(feeds),
                )
                timings.append((describe_shapes(feed_shapes(feed)), measured))
    except tf.errors.OpError as error:
        raise EngineRunError(f"{record.stem} with {chosen.name} does not run: {error.message}") from error
    return Replay(engine=chosen.name, comparison=comparison, timings=tuple(timings))


def _read_graph(path: Path) -> GraphDef:
    try:
        return GraphDef.FromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise DumpError(f"The segment {path} cannot be read: {error}.") from error


def _with_engine(light: GraphDef, record: SegmentRecord, engine: ReplayedEngine) -> tuple[GraphDef, dict[str, NodeDef]]:
    """Returns the segment's graph with the engine in place of its nodes, and the constants that it alone reads."""
    border = {f"{INPUT_PREFIX}{number}" for number in range(len(record.inputs))}
    results = {f"{OUTPUT_PREFIX}{number}": info for number, info in enumerate(record.outputs)}
    inner = [node for node in light.node if node.name not in {*border, *results} and not is_weight(node)]
    sources = {node.name: tensor_name(node.input[0]) for node in light.node if node.name in results}
    own = _renamed(record.weights, WEIGHT_PREFIX)
    own_by_key = {node_name(info.name): new for info, new in zip(record.weights, own, strict=True)}
    segment = Segment(
        name=record.name,
        nodes=tuple(node.name for node in inner if node.op != "Const"),
        constants=tuple(node.name for node in inner if node.op == "Const"),
        weights=own,
        inputs=_renamed(record.inputs, INPUT_PREFIX),
        outputs=tuple(
            TensorInfo(name=sources[name], dtype=info.dtype, shape=info.shape) for name, info in results.items()
        ),
        control_inputs=(),
    )
    infos, constants = [], {}
    for number, weight in enumerate(engine.weights):
        if weight.key in own_by_key:
            infos.append(own_by_key[weight.key])
            continue
        name = f"{record.name}/derived_{number}"
        infos.append(TensorInfo(name=f"{name}:0", dtype=weight.dtype, shape=tuple(weight.array.shape)))
        constants[name] = constant_node(name, weight.array, dtype_enum(weight.dtype))
    node = EngineNode(
        segment=segment,
        runtime=engine.runtime,
        engine=engine.blob,
        weights=tuple(infos),
        device=engine.device,
        keep_fallback=False,
    )
    return splice_segments(light, [node]), constants


def _renamed(infos: Sequence[TensorInfo], prefix: str) -> tuple[TensorInfo, ...]:
    return tuple(
        TensorInfo(name=f"{prefix}{number}:0", dtype=info.dtype, shape=info.shape) for number, info in enumerate(infos)
    )


def _timing_table(result: Replay) -> Table:
    table = Table(title=f"Time, TensorFlow against {result.engine}")
    table.add_column("feed", overflow="fold")
    for name in ("TensorFlow, ms", "engine, ms", "TensorFlow / engine", "pairs"):
        table.add_column(name, justify="right")
    for feed, measured in result.timings:
        table.add_row(
            feed,
            f"{1e3 * measured.median_a:.3g}",
            f"{1e3 * measured.median_b:.3g}",
            f"{1 / measured.ratio:.2f}",
            str(measured.rounds),
        )
    return table


def main(record_path: Path, arguments: Sequence[str] | None = None) -> int:
    """Replays a segment and prints what was found; returns 0, 1 where the outputs differ, 2 where it does not run.

    Args:
        record_path: `<segment>.json` of a dump.
        arguments: Those of the command line; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        description=f"Run {record_path.stem}'s TensorFlow nodes and its engine on the same feeds, compare and time.",
        epilog="Exit status: 0 the outputs agree, 1 they differ, 2 something does not run.",
    )
    parser.add_argument(
        "--engine",
        help="an engine of the dump, such as openvino_fp32, or the name of a backend, such as onnxruntime, to build "
        "one of the exported model (default: the engine that was built last)",
    )
    parser.add_argument(
        "--feeds", type=Path, metavar="FILE.npz", help="arrays input_0, input_1, ... (default: what flowed in)"
    )
    parser.add_argument("--rtol", type=float, default=1e-6, help="relative tolerance (default: %(default)g)")
    parser.add_argument("--atol", type=float, default=1e-3, help="absolute tolerance (default: %(default)g)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure (default: %(default)g)")
    options = parser.parse_args(arguments)
    try:
        result = replay(
            record_path,
            options.engine,
            options.feeds,
            rtol=options.rtol,
            atol=options.atol,
            seconds=options.seconds,
        )
    except TfOptError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    console = default_console()
    console.print(f"{record_path.stem}: TensorFlow against {result.engine}")
    result.comparison.print(console)
    console.print(_timing_table(result))
    return 0 if result.comparison.passed else 1
