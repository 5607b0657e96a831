"""A BERT of bert.py in a TensorFlow Session: the original on the CPU, and graphs that tf_opt made of it.

python -m gpu_check_parts.graph_worker     serves requests (service.py)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from peer_workers.protocol import INPUTS, Array, Points, UnavailableError, read_config
from peer_workers.tensorflow_session import OUTPUT_TENSORS, SessionPeer, session_config

import tf_opt
from gpu_check_parts.bert import graph_def, random_weights
from gpu_check_parts.device_runs import DeviceRuns
from gpu_check_parts.service import CHECKED_ROWS, TimedPeer, serve_timed
from tf_opt.engines import create_backend
from tf_opt.errors import EnginePackageMissingError, EngineUnavailableError, UnsupportedPrecisionError
from tf_opt.graph_checks import frozen_from_graph_def

CALIBRATION_FEEDS, CALIBRATION_LENGTH = 8, 128


class GraphPeer(SessionPeer, TimedPeer):
    """Options: "engine" (None for the original on the CPU), "precision", and "gpu": whether it has to be on one.

    For TensorRT also "tuned_points", and "tactic_sources" or None; see `tensorrt_settings`.
    """

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        config = read_config(folder)
        original = graph_def(config, random_weights(config))
        self._original = options["engine"] is None
        self._threads = threads
        self._device_runs: DeviceRuns | None = None
        session = session_config(threads, {})
        if self._original:
            # Where TensorFlow has a GPU, too: this is what the engines are held to, and a GPU may round to TF32.
            session.device_count["GPU"] = 0
            self._graph_def = original
            details: dict[str, Any] = {}
        else:
            details = self._optimize(original, config, points, options)
        del original  # A Session makes copies enough.
        self.open(self._graph_def, session)
        return {"tensorflow": tf.__version__, **details}

    def _optimize(
        self, original: Any, config: Mapping[str, int], points: Points, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        frozen = frozen_from_graph_def(original, list(OUTPUT_TENSORS))
        feeds = [tf_opt.random_feeds(frozen, batch=batch, sequence=sequence)[0] for batch, sequence in points]
        length = min(CALIBRATION_LENGTH, config["max_position_embeddings"])
        calibration = tf_opt.random_feeds(frozen, batch=1, sequence=length, count=CALIBRATION_FEEDS)
        # Adopted without a comparison, which the check makes itself. Not from the cache: how long it takes is shown.
        settings = tensorrt_settings(points, options) if options["engine"] == "tensorrt" else None
        optimizer = tf_opt.Tf2TrtOpt(
            engine=options["engine"],
            precision=options["precision"],
            tensorrt=settings,
            adopt="always",
            cache=False,
            progress=False,
        )
        started = time.perf_counter()
        try:
            if options["gpu"]:
                _require_gpu(options["engine"])
            optimized = optimizer.optimize(frozen, feeds, calibration_data=calibration)
        except (EnginePackageMissingError, EngineUnavailableError, UnsupportedPrecisionError) as error:
            raise UnavailableError(str(error)) from error
        seconds = time.perf_counter() - started
        engines = [segment for segment in optimizer.report.segments if segment.adopted]
        if not engines:
            reasons = "; ".join(segment.reason for segment in optimizer.report.segments) or "it has no segment"
            raise RuntimeError(f"no engine was adopted: {reasons}")
        self._graph_def = optimized.graph_def
        return {
            "tf_opt": tf_opt.__version__,
            "optimize_seconds": round(seconds, 2),
            "engines": [f"{each.library}, {each.precision}, {each.node_count} nodes" for each in engines],
        }

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`. The original is run on the rows that are compared, and no more."""
        if self._original:
            check = {name: array[:CHECKED_ROWS] for name, array in feeds["check"].items()}
            feeds = {**feeds, "check": check}
        super().prepare(feeds, seconds_to_settle)
        if not self._original:
            self.run("0")

    def arrays(self, outputs: tuple[Any, Any]) -> tuple[Array, Array]:
        """See `Peer.arrays`; the first rows will do."""
        hidden, pooled = super().arrays(outputs)
        return hidden[:CHECKED_ROWS], pooled[:CHECKED_ROWS]

    def device_times(self, feed: str, runs: int) -> tuple[list[float], float, float | None]:
        """See `TimedPeer.device_times`."""
        if self._original:
            raise UnavailableError("the original runs on the CPU")
        if self._device_runs is None:
            self._device_runs = DeviceRuns(self._graph_def, self._threads)
        values = dict(zip((f"{name}:0" for name in INPUTS), self._feeds[feed], strict=True))

        def fetch(names: Sequence[str]) -> list[Array]:
            found: list[Array] = self._session.run(list(names), values)
            return found

        return self._device_runs.times(fetch, runs)

    def close(self) -> None:
        """Ends the Session, and with it its engines. A worker that ends has no need of it."""
        if self._device_runs is not None:
            self._device_runs.close()
        self._session.close()
        del self._session, self._function


def tensorrt_settings(points: Points, options: Mapping[str, Any]) -> tf_opt.TensorRTSettings:
    """Returns settings with one profile for each of the first points, and one for the range of all of them.

    Each profile makes the build longer, so that not every point can have its own.
    """
    tuned = [(tuple(each),) * 3 for each in points[: options.get("tuned_points", len(points))]]
    sides = [list(side) for side in zip(*points, strict=True)]
    smallest, largest = tuple(map(min, sides)), tuple(map(max, sides))
    ranges = [*tuned, (smallest, tuple(points[0]), largest)]
    return tf_opt.TensorRTSettings(
        # The other inputs have the same shape.
        profiles=[{INPUTS[0]: each} for each in dict.fromkeys(ranges)],
        tactic_sources=options.get("tactic_sources"),
    )


def _require_gpu(engine: str) -> None:
    """Raises UnavailableError where the engine would run on the CPU, as ONNX Runtime does where it finds no CUDA."""
    provider = getattr(create_backend(engine), "provider", "cuda")
    if provider == "cpu":
        raise UnavailableError(f"the engine {engine!r} would run on the CPU here")


if __name__ == "__main__":
    serve_timed(GraphPeer())
