"""Several threads calling one Session: every result checked, throughput against one thread.

BERT-base in fp32, original and optimized, feeds of three shapes in turn. Phases alternate (one thread, all threads, one
thread) so that a slow phase of the machine does not decide.

    python benchmark/bert_concurrency.py [--threads 4] [--seconds 60] [--output benchmark/results/bert_concurrency.json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "examples" / "01_bert"))

import bert_models  # Sets what has to be set before TensorFlow is imported.
import numpy as np

import tf_opt
import tf_opt.ops
from tf_opt.environment import describe_environment
from tf_opt.files import write_text
from tf_opt.session import GraphRunner
from tf_opt.terminal import default_console

SHAPES = ((1, 16), (1, 64), (2, 32))

console = default_console()


def call_for(
    runner: GraphRunner, feeds: list[dict[str, Any]], expected: list[dict[str, Any]], threads: int, seconds: float
) -> dict[str, Any]:
    """Calls the session from several threads for a time; returns runs, seconds, and how many results were wrong."""
    end = time.perf_counter() + seconds
    counts, wrong = [0] * threads, [0] * threads
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for index in itertools.cycle(range(len(feeds))):
                if time.perf_counter() >= end:
                    return
                outputs = runner.run(feeds[(index + number) % len(feeds)])
                reference = expected[(index + number) % len(feeds)]
                counts[number] += 1
                wrong[number] += not all(np.allclose(outputs[key], reference[key], 1e-6, 1e-3) for key in reference)
        except BaseException as error:
            failures.append(error)

    started = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return {"threads": threads, "runs": sum(counts), "wrong": sum(wrong), "seconds": time.perf_counter() - started}


def main() -> int:
    """Measures, prints and writes the result; returns 0 where no result was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60.0, help="time with all threads; one thread gets half of it")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "bert_concurrency.json")
    arguments = parser.parse_args()
    frozen = tf_opt.freeze_keras(bert_models.random_bert())
    feeds = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence, seed=1)[0] for batch, sequence in SHAPES]
    optimized = tf_opt.Tf2TrtOpt(adopt="always").optimize(frozen, feeds[:1])
    phases: list[dict[str, Any]] = []
    with GraphRunner(frozen) as original, GraphRunner(optimized) as candidate:
        expected = [original.run(feed) for feed in feeds]
        runners = {"original": original, "optimized": candidate}
        for runner in runners.values():
            for feed in feeds:
                runner.run(feed)
        plan = (
            (1, arguments.seconds / 4),
            (arguments.threads, arguments.seconds),
            (1, arguments.seconds / 4),
        )
        for threads, seconds in plan:
            for name, runner in runners.items():
                phase = {"graph": name, **call_for(runner, feeds, expected, threads, seconds)}
                phases.append(phase)
                per_second = phase["runs"] / phase["seconds"]
                results = f"{phase['wrong']} of {phase['runs']} results wrong"
                console.print(f"{name}, threads {threads}: {per_second:.2f} runs/s, {results}")
        statistics = tf_opt.ops.statistics()

    def rate(name: str, threads: int) -> float:
        chosen = [phase for phase in phases if phase["graph"] == name and phase["threads"] == threads]
        return float(sum(phase["runs"] for phase in chosen) / sum(phase["seconds"] for phase in chosen))

    content = {
        "command": " ".join(["python", "benchmark/bert_concurrency.py", *sys.argv[1:]]),
        "environment": describe_environment(),
        "shapes": SHAPES,
        "phases": phases,
        "runs_per_second": {
            name: {"1": rate(name, 1), str(arguments.threads): rate(name, arguments.threads)} for name in runners
        },
        "op_statistics": statistics,
    }
    for name in runners:
        console.print(f"{name}: {rate(name, arguments.threads) / rate(name, 1):.2f} times the throughput of one thread")
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    return int(any(phase["wrong"] for phase in phases))


if __name__ == "__main__":
    sys.exit(main())
