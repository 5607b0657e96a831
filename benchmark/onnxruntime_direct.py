"""ONNX Runtime in the op against ONNX Runtime called directly: the same model, weights, threads and inputs, in turns.

The Session is fed what enters the engine (the sum of what the embeddings' lookups return, the mask), so that both sides
do the same work: what is left between them is the op, TensorFlow's Session and its feeds and fetches. Outputs are
compared before anything is timed. A pair of runs counts as one observation, in alternating order; the exit status is 1
where outputs differ, or where the median of the differences is above 5% and above 100 µs.

    python benchmark/onnxruntime_direct.py [--seconds 20] [--output benchmark/results/onnxruntime_direct.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "01_bert"), str(ROOT / "benchmark")]

import bert_models  # Sets what has to be set before TensorFlow is imported.
import numpy as np
import tensorflow as tf

import tf_opt
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.onnxruntime.session import create_session
from tf_opt.environment import describe_environment
from tf_opt.files import write_text
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner
from tf_opt.tensor_info import node_name
from tf_opt.terminal import default_console

BERT_BASE_POINTS = ((1, 16), (1, 128), (8, 128))
SMALL_POINTS = ((1, 1), (1, 16))
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
RELATIVE_LIMIT, ABSOLUTE_LIMIT = 0.05, 100e-6
MINIMUM_PAIRS, MAXIMUM_PAIRS = 7, 2000

console = default_console()

Function = Callable[[], Mapping[str, Any]]


class Sides:
    """One engine in its Session, and the same engine called directly."""

    def __init__(self, optimized: FrozenGraph, threads: int) -> None:
        """Opens both.

        Args:
            optimized: A graph with one engine that gives the graph's outputs.
            threads: Threads of each.
        """
        nodes = {node.name: node for node in optimized.graph_def.node}
        (engine,) = [node for node in nodes.values() if node.op == "TfOptEngine"]
        count = len(engine.attr["InT"].list.type)
        self._read = [name if ":" in name else f"{name}:0" for name in engine.input[:count]]
        weights = [tf.make_ndarray(nodes[node_name(name)].attr["value"].tensor) for name in engine.input[count:]]
        payload = EngineBlob.unpack(engine.attr["engine"].s).payload
        self._session = create_session(payload, "cpu", threads=threads, weights=weights)
        # Output order of the engine node, as the nodes that serve the graph's outputs read it.
        served = {nodes[node_name(info.name)].input[0]: info.key for info in optimized.outputs}
        outputs = [value.name for value in self._session.get_outputs()]
        references = [engine.name if index == 0 else f"{engine.name}:{index}" for index in range(len(outputs))]
        self._keys = {output: served[name] for output, name in zip(outputs, references, strict=True) if name in served}
        self._optimized = optimized
        config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
        self._runner = GraphRunner(optimized, config)

    def functions(self, feed: Mapping[str, Any]) -> tuple[Function, Function]:
        """Returns one run through the Session, and one by ONNX Runtime's own API."""
        infos = self._optimized.inputs
        inner = [name for name in self._read if name not in {info.name for info in infos}]
        values = {info.name: feed[info.key] for info in infos} | (self._runner.run(feed, inner) if inner else {})
        entering = [np.ascontiguousarray(values[name]) for name in self._read]
        graph, session = self._runner._graph, self._runner._session
        fetched = [graph.get_tensor_by_name(info.name) for info in self._optimized.outputs]
        run = session.make_callable(fetched, [graph.get_tensor_by_name(name) for name in self._read])
        keys = [info.key for info in self._optimized.outputs]
        direct_feed = {value.name: array for value, array in zip(self._session.get_inputs(), entering, strict=True)}
        names = list(self._keys)

        def in_the_op() -> Mapping[str, Any]:
            return dict(zip(keys, run(*entering), strict=True))

        def direct() -> Mapping[str, Any]:
            results = self._session.run(names, direct_feed)
            return {self._keys[name]: result for name, result in zip(names, results, strict=True)}

        return in_the_op, direct


def measure(in_the_op: Function, direct: Function, seconds: float) -> dict[str, Any]:
    """Times both in pairs of alternating order.

    Returns:
        Medians in seconds, the median of the pairs' differences, and whether it is within the limits.
    """
    pairs: list[tuple[float, float]] = []
    functions = (in_the_op, direct)
    for _ in range(3):
        for function in functions:
            function()
    end = time.perf_counter() + seconds
    while len(pairs) < MAXIMUM_PAIRS and (len(pairs) < MINIMUM_PAIRS or time.perf_counter() < end):
        pair = [0.0, 0.0]
        for index in (0, 1) if len(pairs) % 2 else (1, 0):
            started = time.perf_counter()
            functions[index]()
            pair[index] = time.perf_counter() - started
        pairs.append((pair[0], pair[1]))
    op, alone = (statistics.median(side) for side in zip(*pairs, strict=True))
    difference = statistics.median(left - right for left, right in pairs)
    return {
        "pairs": len(pairs),
        "op_median": op,
        "direct_median": alone,
        "op_minimum": min(left for left, _ in pairs),
        "direct_minimum": min(right for _, right in pairs),
        "median_difference": difference,
        "relative_difference": difference / alone,
        "within_limits": difference <= max(ABSOLUTE_LIMIT, RELATIVE_LIMIT * alone),
    }


def rows_of(
    model: str, config: Mapping[str, Any], points: tuple[tuple[int, int], ...], threads: int, seconds: float
) -> list[dict[str, Any]]:
    """Returns one row for each point of a model."""
    frozen = tf_opt.freeze_keras(bert_models.random_bert(**config))
    feeds = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in points]
    optimizer = tf_opt.Tf2TrtOpt(engine="onnxruntime", adopt="always", strict=True, cache=False, progress=False)
    sides = Sides(optimizer.optimize(frozen, feeds[:1]), threads)
    rows = []
    for (batch, sequence), feed in zip(points, feeds, strict=True):
        in_the_op, direct = sides.functions(feed)
        left, right = in_the_op(), direct()
        error = max(float(np.max(np.abs(left[key] - right[key]))) for key in right)
        row = {"model": model, "batch": batch, "sequence": sequence, "maximum_error": error}
        row |= measure(in_the_op, direct, seconds)
        rows.append(row)
        console.print(
            f"{model} {batch}×{sequence}: op {1e3 * row['op_median']:.4g} ms, direct {1e3 * row['direct_median']:.4g} ms, "
            f"difference {1e6 * row['median_difference']:.0f} µs ({100 * row['relative_difference']:.1f}%) of "
            f"{row['pairs']} pairs{'' if row['within_limits'] else ', ABOVE THE LIMITS'}; error {error:.2g}"
        )
    return rows


def main() -> int:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each point")
    parser.add_argument("--threads", type=int, default=tf.config.threading.get_intra_op_parallelism_threads() or 2)
    parser.add_argument("--layers", type=int, default=12, help="layers of the larger model (12 is BERT-base)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "onnxruntime_direct.json")
    arguments = parser.parse_args()
    threads, seconds = arguments.threads, arguments.seconds
    rows = rows_of("small BERT", SMALL, SMALL_POINTS, threads, seconds)
    rows += rows_of("BERT-base", {"num_hidden_layers": arguments.layers}, BERT_BASE_POINTS, threads, seconds)
    content = {
        "command": " ".join(["python", "benchmark/onnxruntime_direct.py", *sys.argv[1:]]),
        "environment": describe_environment(),
        "threads": threads,
        "limits": {"relative": RELATIVE_LIMIT, "absolute_seconds": ABSOLUTE_LIMIT},
        "rows": rows,
    }
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    console.print(f"Written to {arguments.output}")
    return int(not all(row["within_limits"] and row["maximum_error"] <= 1e-5 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
