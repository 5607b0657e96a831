"""The run of the GPU check: workers, points, budget, and what is written."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bert_flops import bert_flops
from peer_workers import schedule
from peer_workers.accuracy import output_error, too_far
from peer_workers.model_files import write_feeds
from peer_workers.process import PeerUnavailableError, Worker, WorkerError, WorkerTimeoutError
from peer_workers.protocol import OUTPUTS, read_feeds

from gpu_check_parts.bert import MODELS, weight_bytes
from gpu_check_parts.catalog import ENGINES, REFERENCE, EngineSpec
from gpu_check_parts.machine import absent_packages, available_memory, describe_machine
from gpu_check_parts.service import CHECKED_ROWS
from tf_opt.files import write_text

ROUNDS = 5
"""In each one, every engine has a burst of runs: long enough to settle, short enough that all meet the same noise."""

SLOWEST_RUN_SECONDS = 2.0
"""What takes longer at a point is not timed there: it would use up the others' time."""

SHARE_FOR_LOADING, SHARE_FOR_ONE_TO_FINISH = 0.6, 0.85
"""Of a model's time. No engine begins to load after the first, or goes on loading after the second."""

PAUSE_AFTER_CPU_SECONDS = 0.08
"""Before the next worker: threads of ONNX Runtime on the CPU wait for more work by spinning for about 50 ms."""

LEAST_SECONDS = 5.0
"""With less than this left nothing new is begun."""


class Check:
    """One run of the GPU check: what is asked for, and what is found."""

    def __init__(self, arguments: Namespace, specs: Sequence[EngineSpec], gpu: bool) -> None:
        self.arguments = arguments
        self.specs = specs
        self.gpu = gpu
        self.deadline: float = time.monotonic() + arguments.budget_seconds
        self.machine = describe_machine()
        self.absent: dict[str, str] = {}
        self.left_out: dict[str, dict[str, str]] = {}
        self.failed: list[dict[str, str]] = []
        self.not_measured: list[dict[str, Any]] = []
        self.engines: dict[str, dict[str, Any]] = {}
        self.accuracy: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.model = ""

    @property
    def seconds_left(self) -> float:
        """What is left of the budget."""
        return self.deadline - time.monotonic()

    def execute(self) -> int:
        """Does everything; returns the exit status: 1 where an engine failed or is wrong."""
        runnable = []
        for spec in self.specs:
            if missing := absent_packages(spec.requires):
                self.absent[spec.name] = f"not installed: {', '.join(missing)}"
            else:
                runnable.append(spec)
        self.write()
        for number, model in enumerate(self.arguments.models):
            share = self.seconds_left / (len(self.arguments.models) - number)
            self.check_model(model, runnable, time.monotonic() + share)
            self.write()
        return int(bool(self.failed) or not self.rows)

    def check_model(self, model: str, specs: Sequence[EngineSpec], until: float) -> None:
        """Loads the engines of one model and takes them through the points, until the time is up."""
        self.model = model
        folder = self.arguments.folder.resolve() / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(MODELS[model]))
        workers: dict[str, Worker] = {}
        say(f"{model}: {until - time.monotonic():.0f} s")
        try:
            started = time.monotonic()
            loading_ends = started + SHARE_FOR_LOADING * (until - started)
            last_one_ends = started + SHARE_FOR_ONE_TO_FINISH * (until - started)
            for spec in specs:
                if spec.name != REFERENCE and time.monotonic() > loading_ends:
                    self.leave_out(spec.name, "no time left to load it")
                    continue
                # Linux would end a worker at random, and perhaps one that has done nothing.
                needed = int(spec.copies * weight_bytes(MODELS[model]))
                if (available := available_memory()) < needed:
                    reason = (
                        f"it takes about {needed / 2**30:.1f} GiB of host memory, and {available / 2**30:.1f} are left"
                    )
                    self.leave_out(spec.name, reason)
                    continue
                self.load(spec, folder, workers, last_one_ends)
                self.write()
            for number, (batch, sequence) in enumerate(self.arguments.points):
                # Without the original nothing can be compared, and what is not compared is not timed.
                if REFERENCE not in workers or until - time.monotonic() < LEAST_SECONDS:
                    self.not_measured.append({"model": model, "batch": batch, "sequence": sequence})
                    continue
                self.check_point(number, folder, workers, batch, sequence)
                self.write()
        finally:
            for worker in workers.values():
                worker.close()

    def load(self, spec: EngineSpec, folder: Path, workers: dict[str, Worker], until: float) -> None:
        """Starts a worker and has it load the model; notes why where it does not."""
        log = self.arguments.folder.resolve() / "logs" / f"{self.model}.{spec.name}.log"
        worker = Worker(spec, Path(sys.executable), self.arguments.threads, log)
        workers[spec.name] = worker
        points = self.arguments.points if spec.most_points is None else self.arguments.points[: spec.most_points]
        started = time.monotonic()
        answer = self.ask(
            spec.name,
            workers,
            "load",
            within=max(LEAST_SECONDS, min(self.arguments.answer_seconds, until - started)),
            folder=str(folder),
            threads=self.arguments.threads,
            points=points,
            options={
                **spec.options,
                "tuned_points": self.arguments.tuned_points,
                "tactic_sources": self.arguments.tactic_sources,
            },
        )
        if answer is None:
            return
        seconds = round(time.monotonic() - started, 1)
        self.engines.setdefault(spec.name, {"precision": spec.precision})[self.model] = {
            "load_seconds": seconds,
            **answer["details"],
        }
        say(f"  {spec.name} loaded in {seconds} s: {answer['details']}")

    def ask(
        self, name: str, workers: dict[str, Worker], do: str, *, within: float | None = None, **arguments: Any
    ) -> dict[str, Any] | None:
        """Asks a worker. One that cannot do it is noted and goes on; one that fails is noted and ended."""
        limit = max(LEAST_SECONDS, min(self.arguments.answer_seconds, self.seconds_left))
        limit = limit if within is None else within
        try:
            return workers[name].ask(do, within=limit, **arguments)
        except PeerUnavailableError as error:
            self.leave_out(name, str(error), what=do)
            if do == "load":
                workers.pop(name).close()
        except WorkerTimeoutError as error:
            # Less than it is entitled to: the budget's fault, and none of its own.
            if limit < self.arguments.answer_seconds and name != REFERENCE:
                self.leave_out(name, f"{error}; there was no more time left", what=do)
            else:
                self.fail(name, str(error))
            workers.pop(name).close()
        except WorkerError as error:
            self.fail(name, str(error))
            workers.pop(name).close()
        return None

    def check_point(self, number: int, folder: Path, workers: dict[str, Worker], batch: int, sequence: int) -> None:
        """Compares all engines with the original at one point, then times them in turns."""
        feeds = folder / "feeds" / f"{batch}x{sequence}.npz"
        write_feeds(feeds, MODELS[self.model], batch, sequence, 1)
        limits = {spec.name: spec.most_points for spec in self.specs}
        names = [name for name in workers if (limit := limits[name]) is None or number < limit]
        reference: dict[str, Any] = {}
        estimates: dict[str, float] = {}
        for name in names:
            outputs = self.prepared(name, workers, feeds, folder)
            if outputs is None:
                if name == REFERENCE:
                    return
                continue
            reference = outputs if name == REFERENCE else reference
            if name != REFERENCE and not self.agrees(name, outputs, reference, feeds, (batch, sequence)):
                workers.pop(name).close()
                continue
            if name == REFERENCE and self.gpu:
                continue  # Not timed: the GPU waits meanwhile.
            answer = self.ask(name, workers, "run", feed="0", lead_in=1)
            if answer is not None and answer["seconds"] <= SLOWEST_RUN_SECONDS:
                estimates[name] = answer["seconds"]
        self.timed("burst", "host", workers, estimates, (batch, sequence))
        if self.gpu:
            self.timed("device", "device", workers, estimates, (batch, sequence))

    def prepared(self, name: str, workers: dict[str, Worker], feeds: Path, folder: Path) -> dict[str, Any] | None:
        """Has a worker get ready for a point; returns its outputs for the check, or None where it failed."""
        if self.ask(name, workers, "point", feeds=str(feeds), seconds_to_settle=0.0) is None:
            return None
        path = folder / f"{name}.npz"
        if self.ask(name, workers, "outputs", feed="check", path=str(path)) is None:
            return None
        with np.load(path) as file:
            found = {key: file[key] for key in OUTPUTS}
        path.unlink()
        return found

    def agrees(
        self,
        name: str,
        outputs: Mapping[str, Any],
        reference: Mapping[str, Any],
        feeds: Path,
        point: tuple[int, int],
    ) -> bool:
        """Notes an engine's error against the original at real tokens; returns whether it is within what is allowed."""
        mask = read_feeds(str(feeds))["check"]["attention_mask"][:CHECKED_ROWS] > 0
        error, cosine = output_error(outputs, reference, mask)
        precision = next(spec.precision for spec in self.specs if spec.name == name)
        reason = too_far(precision, error, cosine)
        entry = {"model": self.model, "engine": name, "batch": point[0], "sequence": point[1]}
        found = {"maximum_absolute": error if np.isfinite(error) else None, "minimum_cosine": cosine}
        self.accuracy.append({**entry, **found, "passed": reason is None})
        if reason is not None:
            self.fail(name, f"at {point[0]}×{point[1]} {reason}")
        return reason is None

    def timed(
        self, do: str, copies: str, workers: dict[str, Worker], estimates: Mapping[str, float], point: tuple[int, int]
    ) -> None:
        """Times the engines in turns and notes a row for each."""
        runs = {name: self.runs_of_a_burst(seconds) for name, seconds in estimates.items() if name in workers}
        times: dict[str, list[float]] = {name: [] for name in runs}
        more: dict[str, list[dict[str, Any]]] = {name: [] for name in runs}
        out: set[str] = set()
        for order in schedule.orders(list(runs), ROUNDS, self.arguments.seed):
            for name in order:
                if name in out or self.seconds_left < 1.0:
                    continue
                answer = self.ask(name, workers, do, feed="0", runs=runs[name])
                if answer is None:
                    out.add(name)
                    continue
                times[name] += answer.pop("seconds")
                more[name].append(answer)
                if not self.gpu:
                    time.sleep(PAUSE_AFTER_CPU_SECONDS)
        for name, seconds in times.items():
            if seconds:
                self.rows.append(self.row(name, copies, point, seconds, more[name]))
        shown = ", ".join(f"{name} {1e3 * float(np.mean(each)):.4g}" for name, each in times.items() if each)
        say(f"  {point[0]}×{point[1]}, averages in ms, {copies}: {shown or 'none'}")

    def runs_of_a_burst(self, seconds: float) -> int:
        """Returns how many runs of so many seconds make one of the bursts of a point."""
        wanted = int(self.arguments.seconds_a_point / ROUNDS / max(seconds, 1e-6))
        return max(1, min(self.arguments.runs // ROUNDS, wanted))

    def row(
        self,
        name: str,
        copies: str,
        point: tuple[int, int],
        seconds: Sequence[float],
        more: Sequence[Mapping[str, Any]],
    ) -> dict[str, Any]:
        """Returns the figures of one engine at one point; all times in seconds."""
        batch, sequence = point
        average = float(np.mean(seconds))
        row: dict[str, Any] = {
            "model": self.model,
            "engine": name,
            "precision": self.engines[name]["precision"],
            "batch": batch,
            "sequence": sequence,
            "copies": copies,
            "runs": len(seconds),
            "average": average,
            **{f"p{each}": float(np.percentile(seconds, each)) for each in (50, 95, 99)},
            "minimum": min(seconds),
            "sequences_per_second": batch / average,
            "tflops": bert_flops(MODELS[self.model], batch, sequence) / average / 1e12,
        }
        if copies == "device":
            back_to_back = float(np.mean([each["back_to_back"] for each in more]))
            differences = [each["difference"] for each in more if each["difference"] is not None]
            row.update(
                back_to_back=back_to_back,
                sequences_per_second=batch / back_to_back,
                tflops=bert_flops(MODELS[self.model], batch, sequence) / back_to_back / 1e12,
                difference_from_session=max(differences, default=None),
            )
        return row

    def leave_out(self, name: str, reason: str, what: str = "load") -> None:
        """Notes why an engine is not measured, or not in this way."""
        self.left_out.setdefault(self.model, {})[name if what == "load" else f"{name} ({what})"] = reason
        say(f"  {name} is left out ({what}): {reason}")

    def fail(self, name: str, reason: str) -> None:
        """Notes that an engine should have worked, and did not."""
        self.failed.append({"model": self.model, "engine": name, "reason": reason})
        say(f"  {name} FAILED: {reason}")

    def write(self) -> dict[str, Any]:
        """Writes what is known so far; returns it."""
        content = {
            "command": " ".join(["python", "benchmark/gpu_check.py", *self.arguments.given]),
            "environment": {**self.machine, "threads": self.arguments.threads},
            "units": "seconds; copies: host = arrays in and out of host memory, device = all of it in GPU memory",
            "seconds_used": round(self.arguments.budget_seconds - self.seconds_left, 1),
            "absent": self.absent,
            "left_out": self.left_out,
            "failed": self.failed,
            "not_measured": self.not_measured,
            "engines": self.engines,
            "accuracy": self.accuracy,
            "rows": self.rows,
        }
        write_text(self.arguments.output, json.dumps(content, indent=1) + "\n")
        return content


def say(text: str) -> None:
    """Prints progress to standard error: standard output has the tables alone."""
    print(text, file=sys.stderr, flush=True)


def chosen(names: Sequence[str], gpu: bool) -> list[EngineSpec]:
    """Returns the engines of these names that run on the GPU, or on the CPU, and the original before all."""
    return [each for each in ENGINES if each.name == REFERENCE or (each.name in names and each.gpu == gpu)]
