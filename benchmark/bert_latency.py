"""Latency of BERT-base in fp32: original Session, optimized Session, and OpenVINO called directly on the same ONNX.

All three run interleaved in one process, at batch {1, 8} x sequence {16, 128, 384}. The JSON result has the machine,
the versions, and the machine's own ceiling: the rate of a large fp32 matmul in TensorFlow.

    python benchmark/bert_latency.py [--runs 30] [--output benchmark/results/bert_latency.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "01_bert"), str(ROOT / "benchmark")]

import bert_models  # Sets what has to be set before TensorFlow is imported.
import tensorflow as tf
from openvino_direct import direct_function

import tf_opt
from tf_opt.files import write_text
from tf_opt.terminal import default_console

SHAPES = tuple((batch, sequence) for batch in (1, 8) for sequence in (16, 128, 384))

console = default_console()


def matmul_ceiling(size: int = 2048, runs: int = 7) -> float:
    """Returns the best rate of a size x size fp32 matmul in a Session, in GFLOP/s."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        left, right = (session.run(tf.random.normal([size, size], seed=seed)) for seed in (1, 2))
        a, b = (tf.compat.v1.placeholder(tf.float32, [size, size]) for _ in range(2))
        # Reduced to one number, so that fetching the product is not part of the time.
        function = session.make_callable(tf.reduce_max(tf.matmul(a, b)), [a, b])
        seconds = []
        for _ in range(runs):
            start = time.perf_counter()
            function(left, right)
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds[1:]) / 1e9


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=30, help="runs of each at each shape")
    parser.add_argument("--layers", type=int, default=12, help="layers of the BERT (12 is BERT-base)")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "bert_latency.json")
    arguments = parser.parse_args()
    ceiling = [matmul_ceiling()]
    frozen = tf_opt.freeze_keras(bert_models.random_bert(num_hidden_layers=arguments.layers))
    feeds = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in SHAPES]
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always")
    started = time.perf_counter()
    optimized = optimizer.optimize(frozen, feeds[:1])
    optimize_seconds = time.perf_counter() - started
    optimizer.report.print(console)
    direct = direct_function(optimized)
    graphs: dict[str, Any] = {"original": frozen, "optimized": optimized, "openvino": direct}
    tf_opt.compare(frozen, optimized, feeds)
    result = tf_opt.benchmark(graphs, feeds, warmup=3, runs=arguments.runs)
    ceiling.append(matmul_ceiling())
    content = json.loads(result.to_json())
    content["command"] = " ".join(["python", "benchmark/bert_latency.py", *sys.argv[1:]])
    content["matmul_gflops"] = statistics.mean(ceiling)
    content["optimize_seconds"] = optimize_seconds
    content["peak_memory_bytes"] = optimizer.report.peak_memory_bytes
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    console.print(f"Large fp32 matmul: {content['matmul_gflops']:.0f} GFLOP/s. Written to {arguments.output}")


if __name__ == "__main__":
    main()
