"""tf_opt: the optimized graph in a plain Session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import tensorflow as tf

import tf_opt
import tf_opt.ops
from peer_workers.protocol import Array, Points, UnavailableError, read_config, serve
from peer_workers.tensorflow_session import OUTPUT_TENSORS, SessionPeer, session_config
from tf_opt.errors import TfOptError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.specialization import specialize

CALIBRATION_FEEDS, CALIBRATION_LENGTH = 8, 128

SPECIALIZE_TOKENS = 256
"""Up to this many tokens an engine for just the one shape is tried. Above, it gains next to nothing, and each holds a
packed copy of the weights."""

MEASURED_RUNS = 22
"""After so many runs of one shape the op has decided whether the engine for just this shape stays."""


class TfOptPeer(SessionPeer):
    """Option "precision": that of Tf2TrtOpt."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        frozen = tf_opt.load_graph_def(folder / "graph.pb", OUTPUT_TENSORS)
        length = min(CALIBRATION_LENGTH, read_config(folder)["max_position_embeddings"])
        feeds = tf_opt.random_feeds(frozen, batch=1, sequence=length, count=CALIBRATION_FEEDS)
        started = time.perf_counter()
        optimized = _optimize(frozen, feeds, options["precision"])
        details: dict[str, Any] = {
            "tf_opt": tf_opt.__version__,
            "tensorflow": tf.__version__,
            "optimize_seconds": round(time.perf_counter() - started, 2),
        }
        engines = [node for node in optimized.graph_def.node if node.op == "TfOptEngine"]
        if not engines:
            raise UnavailableError("no engine was adopted; this would be the original graph")
        single = [point for point in points if point[0] * point[1] <= SPECIALIZE_TOKENS]
        wanted = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in single]
        optimized = specialize(optimized, wanted[: engines[0].attr["maximum_cached_engines"].i])
        self.open(optimized.graph_def.SerializeToString(), session_config(threads, {}))
        return {
            **details,
            "engines": len(engines),
            "runtimes": sorted({node.attr["runtime"].s.decode() for node in engines}),
        }

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        super().prepare(feeds, seconds_to_settle)
        end = time.perf_counter() + seconds_to_settle
        for _ in range(MEASURED_RUNS + 1):
            self.run("0")
            if time.perf_counter() > end:
                break


def _optimize(frozen: FrozenGraph, feeds: list[dict[str, Array]], precision: str) -> FrozenGraph:
    # Adopted without a comparison: that is what the benchmark itself does. "auto" cannot choose without one.
    keywords: dict[str, Any] = {"progress": False, "specialize_after": 0}
    keywords["adopt"] = "measured" if precision == "auto" else "always"
    if "precision" in {field.name for field in fields(tf_opt.Options)}:
        keywords["precision"] = precision
    elif precision != "fp32":
        raise UnavailableError("this version of Tf2TrtOpt has no option `precision`")
    try:
        return tf_opt.Tf2TrtOpt(**keywords).optimize(frozen, feeds)
    except TfOptError as error:
        raise UnavailableError(f"{type(error).__name__}: {error}") from error


if __name__ == "__main__":
    serve(TfOptPeer())
