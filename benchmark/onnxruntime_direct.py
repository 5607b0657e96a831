"""ONNX Runtime in the op against ONNX Runtime called directly: the same model, weights, threads and inputs, in turns.

The Session is fed what enters the engine (what the embeddings' lookups return, the mask), so that both sides do the
same work. A third side is the Session alone: the same feeds, and constants of the outputs' shapes to fetch. What
the op costs is the first side less the other two; the first less the second, Session included, is given beside it.
Outputs are compared before anything is timed. One run of each side counts as one observation, in a random order, for
a side leaves caches and threads to the next one as it likes; the exit status is 1 where outputs differ, or where the
median cost of the op is above 5% of ONNX Runtime's own time and above 100 µs.

    python benchmark/onnxruntime_direct.py [--through-python] [--seconds 20]
        [--output benchmark/results/onnxruntime_direct.json]
"""

from __future__ import annotations

import argparse
import json
import random
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
from tf_opt.ops import build, onnxruntime_library
from tf_opt.session import GraphRunner
from tf_opt.tensor_info import node_name
from tf_opt.terminal import default_console

BERT_BASE_POINTS = ((1, 16), (1, 128), (8, 128))
SMALL_POINTS = ((1, 1), (1, 16))
MINILM_POINTS = ((1, 16), (1, 128))
MINILM: dict[str, Any] = {
    "num_hidden_layers": 6,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
RELATIVE_LIMIT, ABSOLUTE_LIMIT = 0.05, 100e-6
MINIMUM_ROUNDS, MAXIMUM_ROUNDS = 7, 2000

console = default_console()

Function = Callable[[], dict[str, Any]]


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
        self._config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
        self._runner = GraphRunner(optimized, self._config)

    def functions(self, feed: Mapping[str, Any]) -> dict[str, Function]:
        """Returns one run through the Session, one by ONNX Runtime's own API, and one of a Session without engine."""
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

        def in_the_op() -> dict[str, Any]:
            return dict(zip(keys, run(*entering), strict=True))

        def direct() -> dict[str, Any]:
            results = self._session.run(names, direct_feed)
            return {self._keys[name]: result for name, result in zip(names, results, strict=True)}

        alone = session_alone(entering, list(in_the_op().values()), self._config)
        return {"op": in_the_op, "direct": direct, "session": lambda: dict(zip(keys, alone(*entering), strict=True))}


def session_alone(entering: list[Any], leaving: list[Any], config: Any) -> Callable[..., Any]:
    """Returns a call of a Session that takes such inputs and gives such outputs, and computes nothing."""
    with tf.Graph().as_default() as graph:
        fed = [tf.compat.v1.placeholder(array.dtype, [None] * array.ndim) for array in entering]
        with tf.control_dependencies(fed):
            fetched = [tf.identity(tf.constant(array)) for array in leaving]
    return tf.compat.v1.Session(graph=graph, config=config).make_callable(fetched, fed)


def measure(functions: Mapping[str, Function], seconds: float) -> dict[str, Any]:
    """Times all sides in turns.

    Returns:
        Medians of wall and processor time in seconds, of the op's cost, of what the whole call takes longer than ONNX
        Runtime alone, and whether the cost is within the limits.
    """
    wall: dict[str, list[float]] = {name: [] for name in functions}
    processor: dict[str, list[float]] = {name: [] for name in functions}
    names, order = list(functions), random.Random(0)
    for _ in range(3):
        for function in functions.values():
            function()
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < MAXIMUM_ROUNDS and (rounds < MINIMUM_ROUNDS or time.perf_counter() < end):
        for name in order.sample(names, len(names)):
            used, started = time.process_time(), time.perf_counter()
            functions[name]()
            wall[name].append(time.perf_counter() - started)
            processor[name].append(time.process_time() - used)
        rounds += 1
    sides = (wall["op"], wall["direct"], wall["session"])
    cost = statistics.median(op - direct - session for op, direct, session in zip(*sides, strict=True))
    row: dict[str, Any] = {"rounds": rounds}
    for name in names:
        row[f"{name}_median"] = statistics.median(wall[name])
        row[f"{name}_minimum"] = min(wall[name])
        row[f"{name}_processor_median"] = statistics.median(processor[name])
    row["op_less_direct"] = statistics.median(a - b for a, b in zip(wall["op"], wall["direct"], strict=True))
    row["op_cost"] = cost
    row["op_cost_of_direct"] = cost / row["direct_median"]
    row["within_limits"] = cost <= max(ABSOLUTE_LIMIT, RELATIVE_LIMIT * row["direct_median"])
    return row


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
        functions = sides.functions(feed)
        left, right = functions["op"](), functions["direct"]()
        error = max(float(np.max(np.abs(left[key] - right[key]))) for key in right)
        row = {"model": model, "batch": batch, "sequence": sequence, "maximum_error": error}
        row |= measure(functions, seconds)
        rows.append(row)
        medians = ", ".join(f"{name} {1e3 * row[f'{name}_median']:.4g} ms" for name in functions)
        cost = f"{1e6 * row['op_cost']:.0f} µs ({100 * row['op_cost_of_direct']:.1f}%)"
        whole = f"{1e6 * row['op_less_direct']:.0f} µs with the Session"
        console.print(f"{model} {batch}×{sequence}, {row['rounds']} rounds: {medians}; the op costs {cost}, {whole}")
    return rows


def main() -> int:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each point")
    parser.add_argument("--threads", type=int, default=tf.config.threading.get_intra_op_parallelism_threads() or 2)
    parser.add_argument("--layers", type=int, default=12, help="layers of the larger model (12 is BERT-base)")
    parser.add_argument(
        "--through-python", action="store_true", help="have Python run the engine, as where the package has no library"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "onnxruntime_direct.json")
    arguments = parser.parse_args()
    threads, seconds = arguments.threads, arguments.seconds
    library = None if arguments.through_python else onnxruntime_library.find_library()
    onnxruntime_library.register(build.native_functions(), library)
    rows = rows_of("small BERT", SMALL, SMALL_POINTS, threads, seconds)
    rows += rows_of("MiniLM-L6, random weights", MINILM, MINILM_POINTS, threads, seconds)
    rows += rows_of("BERT-base", {"num_hidden_layers": arguments.layers}, BERT_BASE_POINTS, threads, seconds)
    content = {
        # Without --output, which names a folder of this machine.
        "command": " ".join(
            [
                "python benchmark/onnxruntime_direct.py",
                *(["--through-python"] if arguments.through_python else []),
                f"--seconds {seconds:g} --layers {arguments.layers}",
            ]
        ),
        "environment": describe_environment(),
        "threads": threads,
        "through_python": library is None,
        "limits": {"relative": RELATIVE_LIMIT, "absolute_seconds": ABSOLUTE_LIMIT},
        "rows": rows,
    }
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    console.print(f"Written to {arguments.output}")
    return int(not all(row["within_limits"] and row["maximum_error"] <= 1e-5 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
