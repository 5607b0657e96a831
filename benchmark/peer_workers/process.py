"""The driver's side of a worker."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from peer_workers.catalog import PeerSpec

BENCHMARK_FOLDER = Path(__file__).resolve().parents[1]

ANSWER_SECONDS = 1800.0
"""Longer than anything takes that still makes sense to wait for: calibration, compilation, or a run."""


class WorkerError(RuntimeError):
    """A worker failed at what it was asked for, or is gone."""


class WorkerTimeoutError(WorkerError):
    """A worker did not answer within the time that it had."""


class PeerUnavailableError(RuntimeError):
    """A peer cannot run here; the message is the reason."""


class Worker:
    """A running worker; a context manager."""

    def __init__(self, spec: PeerSpec, interpreter: Path, threads: int, log: Path) -> None:
        """Starts the process.

        Args:
            spec: The peer. Its module lies in peer_workers, unless it is named with its package.
            interpreter: Python of its environment.
            threads: Threads that its libraries may use.
            log: File for what it prints.
        """
        self.spec = spec
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = {
            # Before what is there already: packages may have been unpacked to a folder that only the variable names.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(BENCHMARK_FOLDER), os.environ.get("PYTHONPATH")])),
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "HF_HUB_OFFLINE": "1",
            **spec.variables,
        }
        module = spec.module if "." in spec.module else f"peer_workers.{spec.module}"
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [str(interpreter), "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=BENCHMARK_FOLDER,
                env={**os.environ, **variables},
            )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, do: str, *, within: float = ANSWER_SECONDS, **arguments: Any) -> dict[str, Any]:
        """Sends a request of protocol.py and returns the answer.

        Args:
            do: What to do.
            within: Seconds after which the worker is ended for not answering.
            arguments: The rest of the request.

        Raises:
            PeerUnavailableError: The peer cannot run here.
            WorkerError: It failed, or did not answer in time.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        try:
            if stdin is None or stdout is None:
                raise BrokenPipeError
            stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            stdin.flush()
            # One answer for one request, so nothing can be waiting in Python's buffer beside the pipe.
            if not select.select([stdout], [], [], within)[0]:
                self._process.kill()
                raise WorkerTimeoutError(
                    f"{self.spec.name} did not answer {do!r} within {within:.0f} s; see {self._log}"
                )
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise WorkerError(f"{self.spec.name} ended with status {self._process.wait()} at {do!r}; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise PeerUnavailableError(answer["unavailable"])
        if "error" in answer:
            raise WorkerError(f"{self.spec.name} failed at {do!r}: {answer['error']}; see {self._log}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):  # It is gone already.
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def interpreter_of(spec: PeerSpec, interpreters: Mapping[str, Path | str]) -> Path:
    """Returns the Python of a peer's environment.

    Raises:
        PeerUnavailableError: There is none; `interpreters` has the reason in its place.
    """
    found = interpreters[spec.environment]
    if isinstance(found, str):
        raise PeerUnavailableError(found)
    return found
