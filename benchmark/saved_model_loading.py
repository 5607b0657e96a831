"""How long a SavedModel takes to load and to answer first, and how large it is: BERT-base before and after.

Both models are written to a temporary folder. Each is then loaded several times, in turn, in processes of their own
that have nothing in memory but TensorFlow; files come from the operating system's cache for both.

    python benchmark/saved_model_loading.py [--rounds 5] [--output benchmark/results/saved_model_loading.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "01_bert"), str(ROOT / "benchmark")]

import bert_models  # Sets what has to be set before TensorFlow is imported.
import tensorflow as tf
from rich.table import Table

import tf_opt
from tf_opt.environment import describe_environment
from tf_opt.files import write_text
from tf_opt.terminal import default_console

BATCH, SEQUENCE = 1, 16

MEASUREMENT = """
import json, sys, time
import numpy as np
import tensorflow as tf
import tf_opt
from tf_opt.ops.build import load

load()  # The op's library is loaded with tf_opt.
tf.zeros([1]) + 1.0  # TensorFlow itself has started.
times = [time.perf_counter()]
model = tf.saved_model.load(sys.argv[1])
times.append(time.perf_counter())
signature = model.signatures["serving_default"]
shape = tuple(map(int, sys.argv[2].split("x")))
feed = {name: tf.ones(shape, spec.dtype) for name, spec in signature.structured_input_signature[1].items()}
for _ in range(2):
    {name: value.numpy() for name, value in signature(**feed).items()}
    times.append(time.perf_counter())
print(json.dumps([after - before for before, after in zip(times, times[1:])]))
"""

STEPS = ("load", "first_answer", "second_answer")


def write_original(folder: Path, layers: int) -> tf_opt.FrozenGraph:
    """Writes a BERT with random weights as a SavedModel; returns it frozen, to make feeds for."""
    module = bert_models.serving_module(bert_models.random_bert(num_hidden_layers=layers))
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return tf_opt.freeze_concrete_function(module.serve.get_concrete_function())


def measure(folder: Path) -> list[float]:
    """Returns the seconds of each step in a new process."""
    command = [sys.executable, "-c", MEASUREMENT, str(folder), f"{BATCH}x{SEQUENCE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{folder} could not be measured: {done.stderr}")
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="processes for each model")
    parser.add_argument("--layers", type=int, default=12, help="layers of the BERT (12 is BERT-base)")
    parser.add_argument("--precision", default="fp32", help="precision of the engines")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "saved_model_loading.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="saved_model_loading.") as name:
        folders = {kind: Path(name, kind) for kind in ("original", "optimized")}
        frozen = write_original(folders["original"], arguments.layers)
        feeds = tf_opt.random_feeds(frozen, batch=BATCH, sequence=SEQUENCE)
        started = time.perf_counter()
        report = tf_opt.optimize_saved_model(
            folders["original"],
            folders["optimized"],
            feeds=feeds,
            engine="openvino",
            precision=arguments.precision,
            adopt="always",
        )
        convert_seconds = time.perf_counter() - started
        found: dict[str, list[list[float]]] = {kind: [] for kind in folders}
        for _ in range(arguments.rounds):
            for kind, folder in folders.items():
                found[kind].append(measure(folder))
    sizes = {"original": report.original_bytes, "optimized": report.optimized_bytes}
    content: dict[str, Any] = {
        "command": " ".join(["python", "benchmark/saved_model_loading.py", *sys.argv[1:]]),
        "environment": describe_environment(),
        "layers": arguments.layers,
        "precision": arguments.precision,
        "feed": f"{BATCH}x{SEQUENCE}",
        "convert_seconds": convert_seconds,
        "engine_bytes": report.engine_bytes,
        "models": {
            kind: {
                "bytes": sizes[kind],
                **{step: statistics.median(row[index] for row in rows) for index, step in enumerate(STEPS)},
                "rounds": [dict(zip(STEPS, row, strict=True)) for row in rows],
            }
            for kind, rows in found.items()
        },
    }
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    table = Table("model", "MB", "load, s", "first answer, s", "second answer, ms")
    for kind, figures in content["models"].items():
        table.add_row(
            kind,
            f"{figures['bytes'] / 1e6:.1f}",
            f"{figures['load']:.2f}",
            f"{figures['first_answer']:.2f}",
            f"{figures['second_answer'] * 1e3:.1f}",
        )
    default_console().print(table)
    print(f"Written to {arguments.output}")


if __name__ == "__main__":
    main()
