"""Every engine for an NVIDIA GPU that is installed, on BERT: is it right, and how fast is it?

Each engine is a worker process of its own, with a time limit, so that none can end the others. At each point its
outputs are compared with those of the original in a CPU Session; then the engines take turns in bursts of runs, with
arrays in host memory and with everything in GPU memory. The result is written after each point, so that a run that is
cut short leaves what it found.

    python benchmark/gpu_check.py                                       # 9 minutes, the most telling points first
    python benchmark/gpu_check.py --models bert-base --engines 'tensorrt-*' torch-eager-fp16 --points 1x128 32x128
    python benchmark/gpu_check.py --smoke --allow-cpu                   # the same code without a GPU, in a minute

It needs NumPy and what it measures; packages that are not there are listed as absent. Nothing is downloaded: the BERTs
have the real sizes and random weights. Exit status: 0; 1 where an engine failed or is wrong; 3 where there is no GPU.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_check_parts.bert import MODELS
from gpu_check_parts.catalog import ENGINES, POINTS, REFERENCE, SMOKE_POINTS
from gpu_check_parts.check import ROUNDS, Check, chosen, say
from gpu_check_parts.tables import markdown
from peer_workers.command_line import point

from tf_opt.engines import gpu_unavailable_reason

ROOT = Path(__file__).resolve().parents[1]
NO_GPU = 3


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["bert-base", "bert-large"])
    parser.add_argument("--engines", nargs="+", default=["*"], metavar="NAME", help="names or patterns; see --list")
    parser.add_argument("--points", nargs="+", type=point, default=list(POINTS), metavar="BxS", help="in this order")
    parser.add_argument(
        "--tuned-points",
        type=int,
        default=4,
        help="of the points, the first so many have a TensorRT profile of their own",
    )
    parser.add_argument(
        "--tactic-sources",
        nargs="*",
        metavar="NAME",
        help="libraries that TensorRT's kernels may come from (default: its own choice); none where nothing follows, "
        "for installations without cuBLAS and cuDNN",
    )
    parser.add_argument("--budget-seconds", type=float, default=540.0, help="for everything, loading included")
    parser.add_argument("--seconds-a-point", type=float, default=2.0, help="of timed runs of each engine in each way")
    parser.add_argument("--runs", type=int, default=200, help="most runs of each engine at a point, in each way")
    parser.add_argument("--answer-seconds", type=float, default=240.0, help="after which a worker is ended")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of each worker on the CPU")
    parser.add_argument("--seed", type=int, default=0, help="of the order in each round")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu_check", help="for feeds and logs")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "gpu_check" / "gpu_check.json")
    parser.add_argument("--smoke", action="store_true", help="a tiny BERT, two points, few runs")
    parser.add_argument("--allow-cpu", action="store_true", help="without a GPU, run the engines for the CPU")
    parser.add_argument("--list", action="store_true", help="list the engines and stop")
    parsed = parser.parse_args(arguments)
    parsed.given = list(sys.argv[1:] if arguments is None else arguments)
    if parsed.runs < ROUNDS:
        parser.error(f"--runs must be at least {ROUNDS}")
    known = [each.name for each in ENGINES]
    for pattern in parsed.engines:
        if not fnmatch.filter(known, pattern):
            parser.error(f"no engine is called {pattern!r}. There are: {', '.join(known)}")
    parsed.engines = [name for name in known if any(fnmatch.fnmatchcase(name, each) for each in parsed.engines)]
    if parsed.smoke:
        parsed.models, parsed.points = ["bert-tiny"], list(SMOKE_POINTS)
        parsed.runs, parsed.seconds_a_point = ROUNDS, 0.1
    parsed.points = list(dict.fromkeys(parsed.points))
    for model in parsed.models:
        longest = MODELS[model]["max_position_embeddings"]
        if max(sequence for _, sequence in parsed.points) > longest:
            parser.error(f"{model} takes {longest} tokens; a point has more")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the check; see the top of this file for the exit status."""
    parsed = parse(arguments)
    if parsed.list:
        for each in ENGINES:
            print(f"{each.name:24}{each.precision:6}{'GPU' if each.gpu else 'CPU'}")
        return 0
    reason = gpu_unavailable_reason()
    if reason is not None and not parsed.allow_cpu:
        say(f"There is no GPU to check: {reason} With --allow-cpu the engines for the CPU run through the same code.")
        return NO_GPU
    gpu = reason is None
    check = Check(parsed, chosen(parsed.engines, gpu), gpu)
    if [spec.name for spec in check.specs] == [REFERENCE]:
        say(f"None of these engines runs on a {'GPU' if gpu else 'CPU'}: {', '.join(parsed.engines)}.")
        return 1
    status = check.execute()
    print(markdown(check.write()))
    say(f"Written to {parsed.output}")
    return status


if __name__ == "__main__":
    sys.exit(main())
