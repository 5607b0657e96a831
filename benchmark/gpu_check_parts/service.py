"""What a worker of the GPU check answers besides the requests of peer_workers/protocol.py.

{"do": "burst", "feed": "0", "runs": 20}    -> {"seconds": [...]}          arrays of the host in and out
{"do": "device", "feed": "0", "runs": 20}   -> {"seconds": [...],          inputs and outputs stay on the GPU,
                                                "back_to_back": ...,       synchronized after each run; after all
                                                "difference": ...}         against the Session's outputs, or null
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from peer_workers.protocol import Peer, serve

CHECKED_ROWS = 4
"""So many rows of a batch are compared with the original, which runs on the CPU: rows do not depend on each other."""


class TimedPeer(Peer):
    """A peer that can run many times in one request, and perhaps without copies between host and GPU."""

    @abstractmethod
    def device_times(self, feed: str, runs: int) -> tuple[list[float], float, float | None]:
        """Runs with inputs and outputs in GPU memory, after one run that is not timed.

        Returns:
            Seconds of each run by the host's clock, from the call until the GPU is done; seconds a run where all are
            enqueued without waiting; and the largest difference from what `run` returns, None where not compared.

        Raises:
            UnavailableError: It cannot.
        """


def _burst(peer: TimedPeer, request: Mapping[str, Any]) -> dict[str, Any]:
    peer.run(request["feed"])  # Brings threads and caches back to where they are while one serves alone.
    seconds = []
    for _ in range(request["runs"]):
        started = time.perf_counter()
        peer.run(request["feed"])
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds}


def _device(peer: TimedPeer, request: Mapping[str, Any]) -> dict[str, Any]:
    seconds, back_to_back, difference = peer.device_times(request["feed"], request["runs"])
    return {"seconds": seconds, "back_to_back": back_to_back, "difference": difference}


def serve_timed(peer: TimedPeer) -> None:
    """Answers requests until the input ends."""
    serve(peer, {"burst": _burst, "device": _device})
