"""What a worker is: one peer in a process of its own, told what to do by JSON lines on its standard input.

Only NumPy and the standard library are needed here, as each worker runs in its peer's environment.

    {"do": "load", "folder": ..., "threads": ..., "points": [[1, 16], ...], "options": {...}} -> {"details": {...}}
    {"do": "point", "feeds": FILE.npz, "seconds_to_settle": ...}      -> {"seconds": ...}
    {"do": "outputs", "feed": "check", "path": FILE.npz}              -> {}
    {"do": "run", "feed": "0", "lead_in": 1}                          -> {"seconds": ...}
    {"do": "memory"}                                                  -> {"bytes": ...}

An answer {"error": ...} ends what was asked, not the worker. The end of the input ends the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("last_hidden_state", "pooler_output")

Array: TypeAlias = np.ndarray[Any, Any]
Points: TypeAlias = Sequence[tuple[int, int]]


class UnavailableError(Exception):
    """This peer cannot run here; the message is the reason that is reported."""


class Peer(ABC):
    """One way of running the model."""

    @abstractmethod
    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """Loads the model; returns what the report should say of the peer, versions first.

        Args:
            folder: The model's files (model_files.py).
            threads: How many threads to compute with.
            points: (batch, sequence) of everything that will be run.
            options: The options of the peer in the catalog.

        Raises:
            UnavailableError: The peer cannot run here.
        """

    @abstractmethod
    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """Gets ready for feeds of one shape, which the following runs use; forgets the shape before.

        Args:
            feeds: int32 arrays by input, by the name of the feed.
            seconds_to_settle: How long the peer may run by itself until its speed is what it stays.
        """

    @abstractmethod
    def run(self, feed: str) -> tuple[Any, Any]:
        """Runs once; returns the two outputs as arrays, or as what `arrays` makes arrays of."""

    def arrays(self, outputs: tuple[Any, Any]) -> tuple[Array, Array]:
        """Returns outputs of `run` as fp32 arrays; not part of what is timed."""
        return tuple(np.asarray(output, np.float32) for output in outputs)


def read_feeds(path: str) -> dict[str, dict[str, Array]]:
    """Returns the arrays of a file of `write_feeds` by feed, then by input."""
    feeds: dict[str, dict[str, Array]] = {}
    with np.load(path) as file:
        for name in file.files:
            feed, _, input_name = name.partition("_")
            feeds.setdefault(feed, {})[input_name] = file[name]
    return feeds


Action: TypeAlias = Callable[[Any, Mapping[str, Any]], dict[str, Any]]
"""Answers a request: (peer, request) -> answer."""


def serve(peer: Peer, actions: Mapping[str, Action] | None = None) -> None:
    """Answers requests until the input ends.

    Args:
        peer: What answers them.
        actions: What it can be asked for besides the requests above.
    """
    # What libraries print must not get between the answers: file descriptor 1 becomes standard error.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = _answer(peer, json.loads(line), actions or {})
        except UnavailableError as error:
            answer = {"unavailable": str(error)}
        except BaseException as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {str(error).strip() or 'no message'}"}
        answers.write(json.dumps(answer) + "\n")


def _answer(peer: Peer, request: Mapping[str, Any], more: Mapping[str, Action]) -> dict[str, Any]:
    actions: dict[str, Action] = {
        "load": _load,
        "point": _point,
        "outputs": _outputs,
        "run": _run,
        "memory": lambda *_: {"bytes": _resident_bytes()},
        **more,
    }
    return actions[request["do"]](peer, request)


def _load(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    points = [(batch, sequence) for batch, sequence in request["points"]]
    return {"details": peer.load(Path(request["folder"]), request["threads"], points, request["options"])}


def _point(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    peer.prepare(read_feeds(request["feeds"]), request["seconds_to_settle"])
    seconds = time.perf_counter() - started
    _return_memory()
    return {"seconds": seconds}


def _outputs(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    outputs = peer.run(request["feed"])
    seconds = time.perf_counter() - started
    np.savez(request["path"], **dict(zip(OUTPUTS, peer.arrays(outputs), strict=True)))
    _return_memory()  # The first run of a Session needs twice what it keeps.
    return {"seconds": seconds}


def _run(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    for _ in range(request["lead_in"]):
        peer.run(request["feed"])
    started = time.perf_counter()
    peer.run(request["feed"])
    return {"seconds": time.perf_counter() - started}


def _return_memory() -> None:
    """Gives memory that was freed back to the machine, where the other workers need it; glibc keeps it otherwise."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # Another C library than glibc.
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def read_config(folder: Path) -> dict[str, Any]:
    """Returns the configuration of the model in a folder."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def cpu_flags() -> frozenset[str]:
    """Returns what the processor says it can do, in the words of /proc/cpuinfo."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()


def require_bf16() -> None:
    """Raises UnavailableError where the processor does not compute in bf16."""
    if not cpu_flags() & {"avx512_bf16", "amx_bf16"}:
        raise UnavailableError("the processor has neither avx512_bf16 nor amx_bf16; bf16 would be emulated in fp32")
