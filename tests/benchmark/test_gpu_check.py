"""The GPU check: what it refuses, what it survives, and the whole of it without a GPU."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import gpu_check
import numpy as np
import pytest
from gpu_check_parts import bert, catalog, check
from gpu_check_parts.tables import markdown
from peer_workers.accuracy import output_error, too_far
from peer_workers.catalog import PeerSpec
from peer_workers.process import PeerUnavailableError, Worker, WorkerError, WorkerTimeoutError
from peer_workers.protocol import OUTPUTS

POINTS = [(1, 8), (3, 16)]


# What is asked for.


def test_points_are_those_of_the_table() -> None:
    batches = (1, 2, 4, 8, 12, 16, 24, 32, 64, 128)
    assert sorted(catalog.POINTS) == sorted((batch, sequence) for batch in batches for sequence in (128, 384))
    assert len({spec.name for spec in catalog.ENGINES}) == len(catalog.ENGINES)


def test_engines_are_for_the_device() -> None:
    names = [spec.name for spec in catalog.ENGINES]
    on_gpu = {spec.name for spec in check.chosen(names, gpu=True)}
    on_cpu = {spec.name for spec in check.chosen(names, gpu=False)}
    assert on_gpu & on_cpu == {catalog.REFERENCE}
    assert on_gpu | on_cpu == set(names)
    assert [spec.name for spec in check.chosen(["tensorrt-fp16"], gpu=True)] == [catalog.REFERENCE, "tensorrt-fp16"]


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = gpu_check.parse(["--engines", "tensorrt-*", "--points", "8x128", "1x384", "8x128"])
    assert arguments.engines == ["tensorrt-fp16", "tensorrt-fp32", "tensorrt-int8", "tensorrt-bf16"]
    assert arguments.points == [(8, 128), (1, 384)]
    for wrong in (["--engines", "tensorrt-*", "jax"], ["--points", "8"], ["--points", "1x513"], ["--runs", "1"]):
        with pytest.raises(SystemExit):
            gpu_check.parse(wrong)
    assert "no engine is called 'jax'" in capsys.readouterr().err


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "gpu_unavailable_reason", lambda: "There is no driver.")
    output = tmp_path / "out.json"
    assert gpu_check.main(["--smoke", "--output", str(output)]) == 3
    assert "There is no driver." in capsys.readouterr().err
    assert not output.exists()
    assert gpu_check.main(["--smoke", "--allow-cpu", "--engines", "tensorrt-*", "--output", str(output)]) == 1
    assert "None of these engines runs on a CPU" in capsys.readouterr().err


# What is right.


def test_error_of_the_first_rows_at_real_tokens() -> None:
    random = np.random.default_rng(0)
    reference = {"hidden": random.standard_normal((2, 3, 4)), "pooled": random.standard_normal((2, 4))}
    mask = np.array([[True, True, False], [True, False, False]])
    other = {name: array.copy() for name, array in reference.items()}
    other["hidden"][~mask] += 9
    assert output_error(other, reference, mask) == (0.0, pytest.approx(1.0))
    other["hidden"][1, 0, 2] += 0.5
    assert output_error(other, reference, mask)[0] == pytest.approx(0.5)
    other["pooled"][0] *= -1
    assert output_error(other, reference, mask)[1] == pytest.approx(-1.0)
    other["pooled"][0, 0] = np.nan
    assert output_error(other, reference, mask) == (np.inf, -1.0)
    assert output_error({**reference, "pooled": reference["pooled"][:1]}, reference, mask) == (np.inf, -1.0)


@pytest.mark.parametrize(
    ("precision", "error", "cosine", "passes"),
    [
        ("fp32", 9e-4, 1.0, True),
        ("fp32", 2e-3, 1.0, False),
        ("fp32", float("nan"), 1.0, False),
        ("fp16", 0.5, 0.9991, True),
        ("bf16", 0.0, 0.998, False),
        ("int8", 0.5, 0.991, True),
        ("int8", 0.0, float("nan"), False),
    ],
)
def test_what_is_allowed(precision: str, error: float, cosine: float, passes: bool) -> None:
    assert (too_far(precision, error, cosine) is None) is passes


# What it survives. The workers are scripted.


class ScriptedWorker:
    """Does what the name of its engine says."""

    closed: ClassVar[list[str]] = []
    clock: ClassVar[float] = 0.0
    duration: ClassVar[dict[str, float]] = {}
    """By request; it moves the clock."""
    seconds = 0.001

    def __init__(self, spec: PeerSpec, interpreter: Path, threads: int, log: Path) -> None:
        del interpreter, threads, log
        self.name = spec.name

    def ask(self, do: str, *, within: float, **arguments: Any) -> dict[str, Any]:
        assert within > 0
        ScriptedWorker.clock += self.duration.get(do, 0.0)
        if self.name == f"crashes-at-{do}":
            raise WorkerError("it ended with status -11")
        if self.name == f"hangs-at-{do}":
            raise WorkerTimeoutError(f"it did not answer within {within:.0f} s")
        if self.name == f"cannot-{do}":
            raise PeerUnavailableError("there is no such hardware")
        if do == "outputs":
            batch, sequence = map(int, Path(self.feeds).stem.split("x"))
            shapes = ((min(batch, 4), sequence, 4), (min(batch, 4), 4))
            value = 2.0 if self.name == "wrong" else 1.0
            np.savez(
                arguments["path"],
                **{key: np.full(shape, value) for key, shape in zip(OUTPUTS, shapes, strict=True)},
            )
        if do == "point":
            self.feeds = arguments["feeds"]
        seconds = 60.0 if self.name == "slow" else self.seconds
        answers: dict[str, dict[str, Any]] = {
            "load": {"details": {"version": "1"}},
            "run": {"seconds": seconds},
            "burst": {"seconds": [seconds] * int(arguments.get("runs", 1))},
            "device": {
                "seconds": [seconds / 2] * int(arguments.get("runs", 1)),
                "back_to_back": 1e-4,
                "difference": 0.0,
            },
        }
        return answers.get(do, {})

    def close(self) -> None:
        self.closed.append(self.name)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Returns a function that runs the check with engines of these names."""
    monkeypatch.setattr(check, "Worker", ScriptedWorker)
    monkeypatch.setattr(check, "PAUSE_AFTER_CPU_SECONDS", 0.0)
    monkeypatch.setattr(ScriptedWorker, "closed", [])
    monkeypatch.setattr(ScriptedWorker, "clock", 0.0)

    def run(*names: str, gpu: bool = True, **changes: Any) -> tuple[int, dict[str, Any]]:
        specs = [
            catalog.EngineSpec(name=name, precision="fp32", module="none", most_points=1 if name == "first" else None)
            for name in (catalog.REFERENCE, *names)
        ]
        given: dict[str, Any] = {
            "models": ["bert-tiny"],
            "points": POINTS,
            "budget_seconds": 1000.0,
            "seconds_a_point": 0.05,
            "runs": 20,
            "answer_seconds": 100.0,
            "threads": 1,
            "tuned_points": 1,
            "tactic_sources": None,
            "seed": 0,
            "folder": tmp_path,
            "output": tmp_path / "out.json",
            "given": ["--smoke"],
        }
        one = check.Check(argparse.Namespace(**{**given, **changes}), specs, gpu)
        status = one.execute()
        return status, json.loads((tmp_path / "out.json").read_text())

    return run


def measured(content: dict[str, Any]) -> list[tuple[str, int, str]]:
    return sorted((row["engine"], row["batch"], row["copies"]) for row in content["rows"])


def test_figures(scripted: Any) -> None:
    status, content = scripted("engine")
    assert status == 0
    assert measured(content) == [("engine", 1, "device"), ("engine", 1, "host"), ("engine", 3, "device")] + [
        ("engine", 3, "host")
    ]
    host, device = (
        next(row for row in content["rows"] if (row["batch"], row["copies"]) == (3, copies))
        for copies in ("host", "device")
    )
    assert host["runs"] == 20  # 5 bursts of at most 20 / 5 runs.
    assert (host["average"], host["p50"], host["p95"], host["p99"]) == pytest.approx((0.001,) * 4)
    assert host["sequences_per_second"] == pytest.approx(3 / 0.001)
    assert device["average"] == pytest.approx(0.0005)
    assert device["sequences_per_second"] == pytest.approx(3 / 1e-4)
    assert device["difference_from_session"] == 0.0
    assert content["command"] == "python benchmark/gpu_check.py --smoke"
    assert {"gpu", "versions", "cpu", "threads"} <= content["environment"].keys()
    assert content["engines"]["engine"]["bert-tiny"]["version"] == "1"
    assert [entry["passed"] for entry in content["accuracy"]] == [True, True]
    assert sorted(ScriptedWorker.closed) == ["engine", catalog.REFERENCE]


def test_one_that_crashes_does_not_end_the_others(scripted: Any) -> None:
    names = [f"crashes-at-{do}" for do in ("load", "point", "outputs", "run", "burst", "device")]
    status, content = scripted(*names, "engine")
    assert status == 1
    assert [each["engine"] for each in content["failed"]] == names
    assert {name for name, *_ in measured(content)} == {"engine", "crashes-at-device"}
    assert len([row for row in content["rows"] if row["engine"] == "engine"]) == 4
    assert sorted(ScriptedWorker.closed) == sorted([*names, "engine", catalog.REFERENCE])


def test_one_that_hangs_failed_unless_the_budget_was_at_fault(scripted: Any) -> None:
    status, content = scripted("hangs-at-load", "hangs-at-burst", "engine", answer_seconds=100.0, budget_seconds=1000.0)
    assert status == 1
    assert [each["engine"] for each in content["failed"]] == ["hangs-at-load", "hangs-at-burst"]
    status, content = scripted("hangs-at-load", "hangs-at-burst", "engine", answer_seconds=100.0, budget_seconds=50.0)
    assert status == 0
    assert content["left_out"]["bert-tiny"].keys() == {"hangs-at-load", "hangs-at-burst (burst)"}
    assert len([row for row in content["rows"] if row["engine"] == "engine"]) == 4


def test_what_does_not_fit_into_memory_is_left_out(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = iter([10**12, 1000, 10**12])
    monkeypatch.setattr(check, "available_memory", lambda: next(rooms))
    status, content = scripted("large", "engine")
    assert status == 0
    assert "GiB of host memory" in content["left_out"]["bert-tiny"]["large"]
    assert {name for name, *_ in measured(content)} == {"engine"}


def test_wrong_outputs_are_not_timed(scripted: Any) -> None:
    status, content = scripted("wrong", "engine")
    assert status == 1
    assert "at 1×8 its outputs are off by 1" in content["failed"][0]["reason"]
    assert {name for name, *_ in measured(content)} == {"engine"}
    assert {entry["engine"]: entry["passed"] for entry in content["accuracy"]} == {"wrong": False, "engine": True}


def test_what_cannot_run_here_is_no_failure(scripted: Any) -> None:
    status, content = scripted("cannot-load", "cannot-device", "engine")
    assert status == 0
    assert content["left_out"]["bert-tiny"] == {
        "cannot-load": "there is no such hardware",
        "cannot-device (device)": "there is no such hardware",
    }
    assert ("cannot-device", 1, "host") in measured(content)
    assert ("cannot-device", 1, "device") not in measured(content)


def test_slow_ones_and_those_for_few_points(scripted: Any) -> None:
    _, content = scripted("slow", "first", "engine", gpu=False)
    assert measured(content) == sorted(
        [(catalog.REFERENCE, 1, "host"), (catalog.REFERENCE, 3, "host"), ("engine", 1, "host"), ("engine", 3, "host")]
        + [("first", 1, "host")]
    )


def test_budget_is_used_up(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.time, "monotonic", lambda: ScriptedWorker.clock)
    monkeypatch.setattr(ScriptedWorker, "duration", {"load": 25.0, "burst": 1.0})
    status, content = scripted("one", "two", "late", budget_seconds=100.0, points=[(size, 8) for size in range(1, 9)])
    assert status == 0
    # 60 s are for loading: three times 25 begin within them.
    assert content["left_out"] == {"bert-tiny": {"late": "no time left to load it"}}
    # The 25 s that are left go to points of 10 s, and to a last one that is cut short.
    assert sorted({row["batch"] for row in content["rows"]}) == [1, 2, 3]
    assert [each["batch"] for each in content["not_measured"]] == [4, 5, 6, 7, 8]
    assert 99.0 <= content["seconds_used"] <= 101.0


def test_models_share_the_budget(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.time, "monotonic", lambda: ScriptedWorker.clock)
    monkeypatch.setattr(ScriptedWorker, "duration", {"load": 10.0, "burst": 1.0})
    points = [(size, 8) for size in range(1, 20)]
    _, content = scripted("engine", budget_seconds=100.0, points=points, models=["bert-tiny", "bert-base"])
    count = {model: len({row["batch"] for row in content["rows"] if row["model"] == model}) for model in bert.MODELS}
    assert count["bert-tiny"] == count["bert-base"] == 6  # 5 s each, after 20 s of loading, of 50 s.


def test_nothing_is_compared_without_the_original(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "REFERENCE", "crashes-at-load")
    monkeypatch.setattr(check, "REFERENCE", "crashes-at-load")
    status, content = scripted("engine")
    assert status == 1
    assert content["rows"] == content["accuracy"] == []
    assert len(content["not_measured"]) == len(POINTS)


def test_nothing_is_timed_after_the_original_is_gone(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = ScriptedWorker.ask

    def ask_once(worker: ScriptedWorker, do: str, **arguments: Any) -> dict[str, Any]:
        if worker.name == catalog.REFERENCE and "3x16" in arguments.get("feeds", ""):
            raise WorkerError("it ended with status -9")
        return ask(worker, do, **arguments)

    monkeypatch.setattr(ScriptedWorker, "ask", ask_once)
    status, content = scripted("engine", points=[*POINTS, (2, 8)])
    assert status == 1
    assert {row["batch"] for row in content["rows"]} == {1}
    assert [entry["batch"] for entry in content["accuracy"]] == [1]
    assert content["not_measured"] == [{"model": "bert-tiny", "batch": 2, "sequence": 8}]


def test_absent_packages_are_listed(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "absent_packages", lambda names: ["tensorrt"] if not names else [])
    status, content = scripted("engine")
    assert status == 1  # The original is absent too, in this case.
    assert content["absent"]["engine"] == "not installed: tensorrt"


def test_a_worker_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "workers_of_a_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "hangs.py").write_text("import sys, time\nsys.stdin.readline()\ntime.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # What is there already has to be kept.
    spec = PeerSpec(name="hangs", precision="fp32", module="workers_of_a_test.hangs")
    with (
        Worker(spec, Path(sys.executable), 1, tmp_path / "log") as worker,
        pytest.raises(WorkerTimeoutError, match="did not answer 'load' within 1 s"),
    ):
        worker.ask("load", within=1.0)


def test_tables() -> None:
    row = {"model": "bert-base", "engine": "tensorrt-fp16", "batch": 1, "sequence": 128, "copies": "host"}
    times = {"average": 0.00123, "p95": 0.002, "p99": 0.003}
    other = {**row, "engine": "torch-eager-fp16", "batch": 8, **times}
    failed = [{"engine": "wrong", "model": "bert-base", "reason": "off by 1"}]
    text = markdown({"rows": [{**row, **times}, other], "failed": failed, "absent": {"jax": "not installed: jax"}})
    assert "bert-base, sequence 128, with host copies" in text
    assert "| 1 | 1.23 / 2 / 3 | – |" in text
    assert "| 8 | – | 1.23 / 2 / 3 |" in text
    assert "- wrong (bert-base): off by 1" in text
    assert "- jax: not installed: jax" in text
