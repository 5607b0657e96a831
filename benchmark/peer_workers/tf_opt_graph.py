"""tf_opt: the optimized graph in a plain Session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

import tf_opt
from peer_workers.protocol import Array, Points, UnavailableError, read_config, serve
from peer_workers.tensorflow_session import OUTPUT_TENSORS, SessionPeer, session_config
from tf_opt.errors import EnginePackageMissingError, EngineUnavailableError, UnsupportedPrecisionError

CALIBRATION_FEEDS, CALIBRATION_LENGTH = 8, 128

SPECIALIZE_TOKENS = 256
"""Up to this many tokens an engine for just the one shape is tried. Above, it gains next to nothing, and each holds a
packed copy of the weights."""

MEASURED_RUNS = 22
"""After so many runs of one shape the op has decided whether the engine for just this shape stays."""


class TfOptPeer(SessionPeer):
    """Options "precision" and "engine": those of Tf2TrtOpt."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        frozen = tf_opt.load_graph_def(folder / "graph.pb", OUTPUT_TENSORS)
        length = min(CALIBRATION_LENGTH, read_config(folder)["max_position_embeddings"])
        feeds = tf_opt.random_feeds(frozen, batch=1, sequence=length, count=CALIBRATION_FEEDS)
        precision = options["precision"]
        # Adopted without a comparison, which the benchmark makes itself; "auto" cannot choose without one. Not from the
        # cache: a result that was measured on another day is none of this run.
        optimizer = tf_opt.Tf2TrtOpt(
            engine=options["engine"],
            precision=precision,
            adopt="measured" if precision == "auto" else "always",
            specialize_after=0,
            cache=False,
            progress=False,
        )
        started = time.perf_counter()
        try:
            optimized = optimizer.optimize(frozen, feeds)
        except (EnginePackageMissingError, EngineUnavailableError, UnsupportedPrecisionError) as error:
            raise UnavailableError(str(error)) from error
        seconds = time.perf_counter() - started
        engines = [segment for segment in optimizer.report.segments if segment.adopted]
        if not engines:
            raise UnavailableError("no engine was adopted; this would be the original graph")
        single = [point for point in points if point[0] * point[1] <= SPECIALIZE_TOKENS]
        wanted = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in single]
        ready = tf_opt.specialize(optimized, wanted[: optimizer.options.maximum_cached_engines])
        # One engine has nothing to run beside it, so another thread only costs.
        self.open(ready.graph_def, session_config(threads, {"callers_thread": True}))
        return {
            "tf_opt": tf_opt.__version__,
            "tensorflow": tf.__version__,
            "optimize_seconds": round(seconds, 2),
            "engines": [f"{each.library}, {each.precision}" for each in engines],
        }

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        super().prepare(feeds, seconds_to_settle)
        if feeds["0"]["input_ids"].size > SPECIALIZE_TOKENS:
            return
        end = time.perf_counter() + seconds_to_settle
        for _ in range(MEASURED_RUNS + 1):
            self.run("0")
            if time.perf_counter() > end:
                break


if __name__ == "__main__":
    serve(TfOptPeer())
