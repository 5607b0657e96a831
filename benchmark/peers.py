"""BERT through TensorFlow, tf_opt, ONNX Runtime, OpenVINO and PyTorch, side by side: one set of weights, one run.

Each peer is a worker process in the environment that it needs. The workers take turns, one run each in a random order
in every round, so that noise of the machine hits all alike, and only one of them works at a time. Before anything is
timed, every worker's outputs are compared with those of the original Session; one in fp32 that differs by more than
1e-3 is left out, and the exit status is 1.

    python benchmark/peers.py                                    # everything; takes one to two hours on 2 cores
    python benchmark/peers.py --peers 'tf_opt-*' openvino-fp32 --points 1x16 1x128 --rounds 9
    python benchmark/peers.py --list

The models and PyTorch's environment are made once, in build/peers (about 5 GB). plot_peers.py makes the plot and the
table of the result.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plot_peers
from bert_flops import bert_flops
from peer_workers import schedule
from peer_workers.accuracy import output_error, too_far
from peer_workers.catalog import ORIGINAL, PEERS, PeerSpec
from peer_workers.command_line import parse
from peer_workers.model_files import model_folder, write_feeds
from peer_workers.process import BENCHMARK_FOLDER, PeerUnavailableError, Worker, WorkerError, interpreter_of
from peer_workers.protocol import OUTPUTS, cpu_flags, read_feeds
from peer_workers.torch_environment import torch_interpreter

from tf_opt.environment import describe_environment
from tf_opt.files import write_text

TIMED_FEEDS = 4
"""Different ids that take turns, so that nothing is timed on one set of constants."""

LEAD_IN_BELOW_SECONDS = 0.3
"""A run that is faster is preceded by one that is not timed: it brings the threads, and the caches that the worker
before took over, back to where they are in a process that serves one request after the other."""

PAUSE_SECONDS = 0.08
"""Between two workers. The threads of ONNX Runtime wait for more work by spinning for about 50 ms, which would cost the
next worker a core; those of the others do not."""

RELEVANT_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8")
RELEVANT_FLAGS += ("amx_bf16", "amx_fp16")


class Run:
    """One run of the benchmark: what is asked for, and what is found."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.folder = model_folder(arguments.folder, arguments.config)
        self.points: list[tuple[int, int]] = arguments.points
        self.specs = chosen(arguments.peers)
        self.config: dict[str, Any] = {}
        self.interpreters: dict[str, Path | str] = {}
        self.left_out: dict[str, str] = {}
        self.wrong: list[str] = []
        self.peers: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self.ceilings: list[dict[str, Any]] = []
        self.budget_left: float = arguments.budget_seconds

    def execute(self) -> int:
        """Does everything; returns the exit status."""
        self.prepare_files()
        self.ceilings.append(self.measured_ceilings())
        waiting = [spec for spec in self.specs if spec.name != ORIGINAL]
        number = 0
        while waiting or number == 0:
            waiting = self.measure_group(number, waiting)
            self.write()
            number += 1
        self.ceilings.append(self.measured_ceilings())
        content = self.write()
        print(plot_peers.markdown(content))
        if self.arguments.plot is not None:
            plot_peers.plot(content, self.arguments.plot)
        return int(bool(self.wrong))

    def prepare_files(self) -> None:
        """Writes the model in all forms, and makes PyTorch's environment, where they are missing."""
        arguments = self.arguments
        self.interpreters = {"main": Path(sys.executable), "torch": "no peer that needs PyTorch was asked for"}
        # In a process of its own: the memory goes back to the machine.
        code = f"from peer_workers.model_files import *; write_model(Path({str(self.folder)!r}), {arguments.config!r})"
        if not (self.folder / "config.json").exists():
            say("Writing the model for each peer (minutes, once)")
            subprocess.run([sys.executable, "-c", code], cwd=BENCHMARK_FOLDER, check=True)
        self.config = json.loads((self.folder / "config.json").read_text())
        longest = max(sequence for _, sequence in self.points)
        if longest > self.config["max_position_embeddings"]:
            raise SystemExit(f"The model takes {self.config['max_position_embeddings']} tokens; a point has {longest}.")
        for batch, sequence in self.points:
            write_feeds(self.feeds(batch, sequence), self.config, batch, sequence, TIMED_FEEDS)
        needs_torch = any(spec.environment == "torch" or spec.options.get("optimizer") for spec in self.specs)
        if needs_torch and not arguments.no_torch:
            say("Making the environment with PyTorch, where it is missing")
            self.interpreters["torch"] = torch_interpreter(arguments.folder / "torch-venv")
            self.export_from_torch()
        elif needs_torch:
            self.interpreters["torch"] = "--no-torch was given"

    def export_from_torch(self) -> None:
        """Has PyTorch export the model, which ONNX Runtime's optimizer then reads."""
        interpreter = self.interpreters["torch"]
        if isinstance(interpreter, str) or (self.folder / "torch.onnx").exists():
            return
        say("Exporting the model from PyTorch")
        command = [str(interpreter), "-m", "peer_workers.torch_export", str(self.folder.resolve())]
        environment = {**os.environ, "PYTHONPATH": str(BENCHMARK_FOLDER)}
        subprocess.run(command, cwd=BENCHMARK_FOLDER, env=environment, check=True, stdout=sys.stderr)

    def feeds(self, batch: int, sequence: int) -> Path:
        """Returns the file of a point's feeds."""
        return (self.folder / "feeds" / f"{batch}x{sequence}.npz").resolve()

    def bytes_of(self, spec: PeerSpec) -> float:
        """Returns about how much memory a worker takes at the largest point."""
        weights = (self.folder / "weights.safetensors").stat().st_size
        # Two tensors of the feed-forward block and three of attention scores are alive at the same time.
        activations = max(
            4
            * batch
            * sequence
            * (2 * self.config["intermediate_size"] + 3 * self.config["num_attention_heads"] * sequence)
            for batch, sequence in self.points
        )
        return spec.copies * weights + activations

    def measured_ceilings(self) -> dict[str, Any]:
        """Measures the ceilings in a process of its own."""
        say("Measuring the rate of large matrix products")
        command = [sys.executable, "matmul_ceiling.py", "--threads", str(self.arguments.threads)]
        command += ["--size", str(self.arguments.matmul_size)]
        result = subprocess.run(
            command, cwd=BENCHMARK_FOLDER, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        found: dict[str, Any] = json.loads(result.stdout)
        return found

    def measure_group(self, number: int, waiting: Sequence[PeerSpec]) -> list[PeerSpec]:
        """Starts the original and as many of the others as fit, and takes them through all points.

        Returns:
            Those that did not fit.
        """
        workers: dict[str, Worker] = {}
        specs = {spec.name: spec for spec in PEERS}

        def start(name: str) -> bool:
            try:
                workers[name] = self.start(specs[name])
            except PeerUnavailableError as error:
                self.leave_out(name, str(error))
            except WorkerError as error:
                self.fail(name, str(error))
            return name in workers

        say(f"Group {number + 1}")
        room = 0.9 * available_memory() - self.bytes_of(specs[ORIGINAL])
        sizes = {spec.name: self.bytes_of(spec) for spec in waiting}
        try:
            if not start(ORIGINAL):
                raise SystemExit(f"The original Session does not start: {self.left_out[ORIGINAL]}")
            started, left = schedule.fitting(sizes, room, self.arguments.at_once - 1, start)
            groups_left = -(-sum(sizes[name] for name in left) // max(room, 1.0))
            steps_left = len(self.points) * int(1 + groups_left)
            if started or number == 0:
                for batch, sequence in self.points:
                    self.measure_point(number, workers, batch, sequence, steps_left)
                    steps_left -= 1
        finally:
            for worker in workers.values():
                worker.close()
        return [specs[name] for name in left]

    def start(self, spec: PeerSpec) -> Worker:
        """Starts a worker and has it load the model."""
        log = self.arguments.folder.resolve() / "logs" / f"{spec.name}.log"
        worker = Worker(spec, interpreter_of(spec, self.interpreters), self.arguments.threads, log)
        try:
            started = time.perf_counter()
            answer = worker.ask(
                "load",
                folder=str(self.folder.resolve()),
                threads=self.arguments.threads,
                points=self.points,
                options=dict(spec.options),
            )
        except BaseException:
            worker.close()
            raise
        seconds = round(time.perf_counter() - started, 1)
        entry = self.peers.setdefault(spec.name, {"precision": spec.precision, "peak_resident_bytes": 0, "errors": {}})
        entry.update(details=answer["details"], load_seconds=seconds)
        say(f"  {spec.name} loaded in {seconds} s: {answer['details']}")
        return worker

    def measure_point(
        self, number: int, workers: dict[str, Worker], batch: int, sequence: int, steps_left: int
    ) -> None:
        """Compares all workers with the original at one point, then times them in turns.

        Args:
            number: Of the group.
            workers: By peer; those that fail are closed and taken out.
            batch: Rows.
            sequence: Tokens of each row.
            steps_left: How many points of all groups have to share what is left of the budget, this one included.
        """
        estimates: dict[str, float] = {}
        reference: dict[str, Any] = {}
        for name in list(workers):
            try:
                estimates[name], outputs = self.outputs(workers[name], batch, sequence)
                reference = outputs if name == ORIGINAL else reference
                if self.differs(name, outputs, reference, batch, sequence):
                    workers.pop(name).close()
                    continue
                # One of the two runs may have compiled something (XLA does in the second); the other one tells how long
                # those to come will take.
                estimates[name] = min(estimates[name], workers[name].ask("run", feed="0", lead_in=0)["seconds"])
            except WorkerError as error:
                self.fail(name, f"at {batch}×{sequence}: {error}")
                workers.pop(name).close()
                if name == ORIGINAL:
                    raise SystemExit(str(error)) from error
        times = self.timed(workers, {name: estimates[name] for name in workers}, steps_left)
        flops = bert_flops(self.config, batch, sequence)
        original = float(np.median(times[ORIGINAL]))
        for name, seconds in times.items():
            median = float(np.median(seconds))
            self.rows.append(
                {
                    "peer": name,
                    "precision": self.peers[name]["precision"],
                    "group": number,
                    "batch": batch,
                    "sequence": sequence,
                    "runs": len(seconds),
                    "median": median,
                    "p95": float(np.percentile(seconds, 95)),
                    "minimum": min(seconds),
                    "ratio_to_original": original / median,
                    "gflops": flops / median / 1e9,
                }
            )
            resident = workers[name].ask("memory")["bytes"]
            self.peers[name]["peak_resident_bytes"] = max(resident, self.peers[name]["peak_resident_bytes"])
        medians = ", ".join(f"{name} {1e3 * float(np.median(seconds)):.4g}" for name, seconds in times.items())
        say(f"  {batch}×{sequence}, medians of {len(times[ORIGINAL])} runs in ms: {medians}")

    def outputs(self, worker: Worker, batch: int, sequence: int) -> tuple[float, dict[str, Any]]:
        """Prepares a worker for a point; returns the seconds of its first run, and its outputs for the check."""
        settle = self.arguments.settle_seconds
        worker.ask("point", feeds=str(self.feeds(batch, sequence)), seconds_to_settle=settle)
        path = self.folder.resolve() / "outputs" / f"{worker.spec.name}.npz"
        path.parent.mkdir(exist_ok=True)
        seconds = worker.ask("outputs", feed="check", path=str(path))["seconds"]
        with np.load(path) as file:
            found = {name: file[name] for name in OUTPUTS}
        path.unlink()
        return seconds, found

    def differs(
        self, name: str, outputs: Mapping[str, Any], reference: Mapping[str, Any], batch: int, sequence: int
    ) -> bool:
        """Notes a peer's error against the original at real tokens; returns whether it disqualifies the peer."""
        mask = read_feeds(str(self.feeds(batch, sequence)))["check"]["attention_mask"] > 0
        error, cosine = output_error(outputs, reference, mask)
        self.peers[name]["errors"][f"{batch}x{sequence}"] = {"maximum_absolute": error, "minimum_cosine": cosine}
        # What peers lose in other precisions is reported and left to the reader: each stands for itself.
        reason = too_far("fp32", error, cosine) if self.peers[name]["precision"] == "fp32" else None
        if reason is not None:
            self.fail(name, f"at {batch}×{sequence} {reason}")
        return reason is not None

    def timed(
        self, workers: Mapping[str, Worker], estimates: Mapping[str, float], steps_left: int
    ) -> dict[str, list[float]]:
        """Times the workers in turns; returns seconds by peer."""
        lead_in = {name: int(seconds < LEAD_IN_BELOW_SECONDS) for name, seconds in estimates.items()}
        a_round = sum(seconds * (1 + lead_in[name]) + PAUSE_SECONDS for name, seconds in estimates.items())
        rounds = schedule.rounds_within(self.budget_left, steps_left, a_round, self.arguments.rounds)
        started = time.perf_counter()
        times: dict[str, list[float]] = {name: [] for name in workers}
        for number, order in enumerate(schedule.orders(list(workers), rounds, self.arguments.seed)):
            for name in order:
                feed = str(number % TIMED_FEEDS)
                times[name].append(workers[name].ask("run", feed=feed, lead_in=lead_in[name])["seconds"])
                time.sleep(PAUSE_SECONDS)
        self.budget_left -= time.perf_counter() - started
        return times

    def leave_out(self, name: str, reason: str) -> None:
        """Notes why a peer is not measured."""
        self.left_out[name] = reason
        say(f"  {name} is left out: {reason}")

    def fail(self, name: str, reason: str) -> None:
        """Notes that a peer should have worked, and did not."""
        self.wrong.append(name)
        self.leave_out(name, reason)

    def write(self) -> dict[str, Any]:
        """Writes what is known so far; returns it."""
        ceilings = {
            precision: max((each["gflops"][precision] or 0.0 for each in self.ceilings), default=0.0) or None
            for precision in ("fp32", "bf16", "int8")
        }
        for row in self.rows:
            ceiling = ceilings.get(row["precision"])
            row["share_of_ceiling"] = None if ceiling is None else row["gflops"] / ceiling
        content = {
            "command": " ".join(["python", "benchmark/peers.py", *sys.argv[1:]]),
            "environment": {
                **describe_environment(),
                "cpu_flags": [flag for flag in RELEVANT_FLAGS if flag in cpu_flags()],
                "threads": self.arguments.threads,
            },
            "model": {"differs_from_bert_base": self.arguments.config, "hidden_size": self.config["hidden_size"]},
            "matmul_gflops": ceilings,
            "matmul_gflops_each_time": [each["gflops"] for each in self.ceilings],
            "no_ceiling": self.ceilings[0]["reasons"],
            "gflop": {f"{b}x{s}": bert_flops(self.config, b, s) / 1e9 for b, s in self.points},
            "left_out": self.left_out,
            "peers": {spec.name: self.peers[spec.name] for spec in PEERS if spec.name in self.peers},
            "rows": self.rows,
        }
        write_text(self.arguments.output, json.dumps(content, indent=1) + "\n")
        return content


def available_memory() -> int:
    """Returns how many bytes the machine can still give to processes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def chosen(patterns: Sequence[str]) -> list[PeerSpec]:
    """Returns the peers that match any pattern, in the order of the catalog; the original is always among them.

    Raises:
        SystemExit: A pattern matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter([spec.name for spec in PEERS], pattern):
            raise SystemExit(f"No peer is called {pattern!r}. There are: {', '.join(spec.name for spec in PEERS)}.")
    wanted = [*patterns, ORIGINAL]
    return [spec for spec in PEERS if any(fnmatch.fnmatchcase(spec.name, pattern) for pattern in wanted)]


def say(text: str) -> None:
    """Prints progress to standard error: standard output has the table alone."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Runs the benchmark."""
    arguments = parse(__doc__)
    if arguments.list:
        for spec in PEERS:
            print(f"{spec.name:24}{spec.precision}")
        return 0
    return Run(arguments).execute()


if __name__ == "__main__":
    sys.exit(main())
