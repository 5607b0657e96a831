"""Sessions that run ops on the thread of their caller, against Sessions as they are by default.

A Session hands each call to a thread of its pool and waits for it. With `inter_op_parallelism_threads=-1` in its
`ConfigProto` it runs the ops on the calling thread, which saves two changes of threads a call; ops that could run
beside each other then run one after another (what runs inside of an engine or of a kernel still uses all threads).
BERT-base and a model of MiniLM's size, original and optimized, each in both ways, interleaved.

    python benchmark/callers_thread.py [--runs 40] [--output benchmark/results/callers_thread.json]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "01_bert"))

import bert_models  # Sets what has to be set before TensorFlow is imported.
import tensorflow as tf

import tf_opt
from tf_opt.files import write_text
from tf_opt.session import GraphRunner
from tf_opt.terminal import default_console

MODELS: dict[str, dict[str, Any]] = {
    "MiniLM-L6": {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {},
}
POINTS = ((1, 16), (1, 128), (8, 128))

console = default_console()


def measure(config: dict[str, Any], runs: int) -> dict[str, Any]:
    """Returns the rows of one model, as `tf_opt.Benchmark` writes them."""
    frozen = tf_opt.freeze_keras(bert_models.random_bert(**config))
    feeds = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in POINTS]
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", strict=True, progress=False)
    optimized = optimizer.optimize(frozen, feeds[:1])
    callers = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1)
    sides = {
        "original": GraphRunner(frozen),
        "original, caller's thread": GraphRunner(frozen, callers),
        "optimized": GraphRunner(optimized),
        "optimized, caller's thread": GraphRunner(optimized, callers),
    }
    content: dict[str, Any] = json.loads(tf_opt.benchmark(sides, feeds, runs=runs).to_json())
    for runner in sides.values():
        runner.close()
    return content


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="runs of each at each shape")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "callers_thread.json")
    arguments = parser.parse_args()
    content: dict[str, Any] = {"command": f"python benchmark/callers_thread.py --runs {arguments.runs}", "rows": []}
    for name in arguments.models:
        console.rule(name)
        measured = measure(MODELS[name], arguments.runs)
        content["environment"] = measured["environment"]
        content["rows"] += [{"model": name} | row for row in measured["rows"]]
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    console.print(f"Written to {arguments.output}")


if __name__ == "__main__":
    main()
