"""What `skip_padding` gains where much is padding, and what it costs where nothing is.

BERT-base: the original Session, tf_opt, and tf_opt with `skip_padding`, interleaved in random order. "padded" batches
have lengths drawn uniformly from 8 to the sequence length, "full" ones no padding. Before anything is timed, outputs at
real tokens are compared with the original's. Ratios are medians of the ratios within a round, which what slows the
machine for longer than a round does not change.

    python benchmark/skip_padding.py [--points 8x128 32x128] [--precisions fp32 int8] [--rounds 15]
        [--engine auto] [--output benchmark/results/skip_padding.json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "01_bert"), str(ROOT / "benchmark")]

import bert_models  # Sets what has to be set before TensorFlow is imported.
import numpy as np
import tensorflow as tf
from peer_workers.command_line import point

import tf_opt
from tf_opt.environment import describe_environment
from tf_opt.files import write_text
from tf_opt.session import GraphRunner
from tf_opt.terminal import default_console

MASK = "attention_mask"
SHORTEST = 8
SEED = 0
COLUMNS = ("point", "batch is", "real", "original, ms", "all positions, ms", "real ones, ms", "ratio", "difference")

console = default_console()


def feeds_of(frozen: tf_opt.FrozenGraph, batch: int, sequence: int) -> dict[str, dict[str, Any]]:
    """Returns a padded and a full batch of random ids."""
    lengths = np.random.default_rng(SEED).integers(SHORTEST, sequence + 1, batch)
    lengths[0] = sequence  # A batch is as long as its longest text.
    (feed,) = tf_opt.random_feeds(frozen, batch=batch, sequence=sequence, seed=SEED)
    masks = {"padded": np.arange(sequence)[None] < lengths[:, None], "full": np.ones((batch, sequence), bool)}
    return {name: feed | {MASK: mask.astype(feed[MASK].dtype)} for name, mask in masks.items()}


def optimized(frozen: tf_opt.FrozenGraph, precision: str, engine: str, mask: str | None) -> tf_opt.FrozenGraph:
    """Returns the graph with engines, adopted in any case: what they gain is what is measured here."""
    optimizer = tf_opt.Tf2TrtOpt(
        precision=precision, engine=engine, skip_padding=mask, adopt="always", strict=True, progress=False
    )
    return optimizer.optimize(frozen, tf_opt.random_feeds(frozen, batch=2, sequence=64, count=8))


def measure(sides: dict[str, GraphRunner], feed: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Returns seconds of each side, and how many times as fast the real positions alone are as all of them."""
    real = feed[MASK].astype(bool)
    outputs = {name: runner.run(feed)["last_hidden_state"][real] for name, runner in sides.items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = random.Random(SEED)
    for runner in sides.values():
        runner.run(feed)
    for _ in range(rounds):
        for name in order.sample(list(sides), len(sides)):
            started = time.perf_counter()
            sides[name].run(feed)
            times[name].append(time.perf_counter() - started)
    pairs = [whole / packed for whole, packed in zip(times["all"], times["real"], strict=True)]
    return {
        "share_of_real_tokens": float(real.mean()),
        "rounds": rounds,
        "median": {name: float(np.median(seconds)) for name, seconds in times.items()},
        "p95": {name: float(np.percentile(seconds, 95)) for name, seconds in times.items()},
        "all_over_real": float(np.median(pairs)),
        "difference": {name: float(np.abs(outputs[name] - outputs["original"]).max()) for name in ("all", "real")},
    }


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", nargs="+", type=point, default=[(8, 128), (32, 128)], metavar="BxS")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "int8"])
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12, help="of BERT-base")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "skip_padding.json")
    arguments = parser.parse_args()
    frozen = tf_opt.freeze_keras(bert_models.random_bert(num_hidden_layers=arguments.layers))
    config = tf.compat.v1.ConfigProto(inter_op_parallelism_threads=-1)
    rows = []
    for precision in arguments.precisions:
        sides = {
            "original": GraphRunner(frozen),
            "all": GraphRunner(optimized(frozen, precision, arguments.engine, None), config),
            "real": GraphRunner(optimized(frozen, precision, arguments.engine, MASK), config),
        }
        console.rule(precision)
        console.print(" · ".join(COLUMNS))
        for batch, sequence in arguments.points:
            for name, feed in feeds_of(frozen, batch, sequence).items():
                row = measure(sides, feed, arguments.rounds)
                rows.append({"precision": precision, "batch": batch, "sequence": sequence, "feed": name} | row)
                medians = [f"{1e3 * seconds:.4g}" for seconds in row["median"].values()]
                cells = [f"{batch}×{sequence}", name, f"{row['share_of_real_tokens']:.0%}", *medians]
                cells += [f"{row['all_over_real']:.2f}", f"{row['difference']['real']:.1e}"]
                console.print(" · ".join(cells))
        for runner in sides.values():
            runner.close()
    content = {
        "command": " ".join(["python", "benchmark/skip_padding.py", *sys.argv[1:]]),
        "environment": describe_environment(),
        "engine": arguments.engine,
        "layers": arguments.layers,
        "rows": rows,
    }
    write_text(arguments.output, json.dumps(content, indent=1) + "\n")
    console.print(f"Written to {arguments.output}")


if __name__ == "__main__":
    main()
