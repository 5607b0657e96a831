"""Writes files as if the disk were full: a program, since the limit is one of the whole process.

    python -m tests.full_disk_writers FOLDER

Prints JSON: what each writer raised by the name of its file, what the caches logged, and which files are left.
"""

from __future__ import annotations

import io
import json
import logging
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tests.report.sample_reports import report, saved_model_report
from tests.small_graphs import mlp
from tf_opt.benchmarking import Benchmark
from tf_opt.cache_files import CacheFolder
from tf_opt.cli.optimize import write_report
from tf_opt.errors import OutputWriteError
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.quantization.cache import write_recipe
from tf_opt.quantization.recipe import Recipe

WRITERS: dict[str, Callable[[Path], object]] = {
    "net.pb": lambda path: frozen_from_graph_def(mlp(), ["y"]).save(path),
    "net.pbtxt": lambda path: frozen_from_graph_def(mlp(), ["y"]).save(path),
    "report.json": lambda path: report().to_json(path),
    "report.html": lambda path: saved_model_report().to_html(path),
    "report.txt": lambda path: write_report(report(), path),
    "benchmark.json": lambda path: Benchmark(rows=(), environment={"cpu": "c" * 200}).to_json(path),
}
LARGEST_FILE = 100


def main(folder: Path) -> None:
    """Runs all writers and prints what came of it."""
    # What is logged goes into memory: a file of the caller's would be limited, too.
    log = io.StringIO()
    logging.basicConfig(stream=log, level=logging.INFO)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    raised: dict[str, str] = {}
    for name, write in WRITERS.items():
        try:
            write(folder / name)
        except OutputWriteError as error:
            raised[name] = str(error)
    left = [path.name for path in folder.iterdir()]
    cache = CacheFolder(folder, ".entry", b"12345678", 10**6)
    stored = cache.store("key", {}, [b"x" * 500])
    found = cache.load("key")
    write_recipe(folder, "key", Recipe(layers=(), symmetric=True, weight_levels=127))
    print(json.dumps({"raised": raised, "left": left, "stored": stored, "found": found, "log": log.getvalue()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
