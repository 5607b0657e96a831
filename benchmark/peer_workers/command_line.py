"""The command line of peers.py, and points as the command lines of the benchmarks write them."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from peer_workers import schedule
from peer_workers.process import BENCHMARK_FOLDER

ROOT = BENCHMARK_FOLDER.parent
POINTS = tuple((batch, sequence) for sequence in (16, 128, 384) for batch in (1, 8, 32))

SETTLE_SECONDS = 15.0
"""How long a peer may run by itself at a new point before it is compared and timed."""


def point(text: str) -> tuple[int, int]:
    """Reads "8x128"."""
    batch, _, sequence = text.replace("×", "x").partition("x")
    if not (batch.isdigit() and sequence.isdigit() and int(batch) and int(sequence)):
        raise argparse.ArgumentTypeError(f"{text!r} is no point; expected batch and sequence as in 8x128")
    return int(batch), int(sequence)


def parse(description: str | None, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line of peers.py, whose description is given."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", default=["*"], metavar="NAME", help="names or patterns")
    parser.add_argument("--points", nargs="+", type=point, default=list(POINTS), metavar="BxS")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each peer")
    parser.add_argument("--rounds", type=int, default=30, help="most rounds of a point")
    parser.add_argument(
        "--budget-seconds",
        type=float,
        default=1800.0,
        help="for all timed rounds together; loading, compiling and comparing come on top, and so do the 3 rounds that "
        "each point gets in any case",
    )
    parser.add_argument("--settle-seconds", type=float, default=SETTLE_SECONDS, help="of each peer at each point")
    parser.add_argument(
        "--at-once", type=int, default=100, help="most workers at a time, besides what fits into memory"
    )
    parser.add_argument("--config", type=json.loads, default={}, help="JSON of what differs from BERT-base")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "peers", help="for models and environments")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "peers.json")
    parser.add_argument("--plot", type=Path, help="also write the plot to this .svg or .png")
    parser.add_argument(
        "--matmul-size", type=int, default=2048, help="of the matrices that the ceiling is measured with"
    )
    parser.add_argument("--no-torch", action="store_true", help="make no environment with PyTorch")
    parser.add_argument("--seed", type=int, default=0, help="of the order in each round")
    parser.add_argument("--list", action="store_true", help="list the peers and stop")
    parsed = parser.parse_args(arguments)
    if parsed.at_once < 2:
        parser.error("--at-once must be at least 2: the original and one other")
    if parsed.rounds < schedule.MINIMUM_ROUNDS:
        parser.error(f"--rounds must be at least {schedule.MINIMUM_ROUNDS}")
    # From few tokens to many: what small points leave of the budget goes to the large ones.
    parsed.points = sorted(dict.fromkeys(parsed.points), key=lambda each: (each[0] * each[1], each))
    return parsed
