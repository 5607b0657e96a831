"""The GPU check: its BERT, what it refuses, what it survives, and the whole of it without a GPU."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import gpu_check
import numpy as np
import pytest
from gpu_check_parts import bert, catalog, check
from gpu_check_parts.accuracy import output_error, too_far
from gpu_check_parts.tables import markdown
from peer_workers.catalog import PeerSpec
from peer_workers.process import PeerUnavailableError, Worker, WorkerError
from peer_workers.protocol import OUTPUTS

POINTS = [(1, 8), (3, 16)]


# The BERT.


def bert_by_hand(weights: bert.Weights, ids: Any, mask: Any, types: Any, heads: int) -> tuple[Any, Any]:
    """BERT in float64, written from its definition."""
    from math import erf

    w = {name: values.astype(np.float64) for name, values in weights.items()}
    batch, length = ids.shape

    def norm(x: Any, name: str) -> Any:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + bert.EPSILON)
        return x * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def dense(x: Any, name: str) -> Any:
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def split(x: Any) -> Any:
        return x.reshape(batch, length, heads, -1).swapaxes(1, 2)

    x = norm(w["word"][ids] + w["type"][types] + w["position"][:length], "embeddings")
    for layer in (name.partition("/")[0] for name in weights if name.endswith("/query/kernel")):
        query, key, value = (split(dense(x, f"{layer}/{name}")) for name in ("query", "key", "value"))
        scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1]) - 10000.0 * (1 - mask[:, None, None, :])
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
        context = (exponentials / exponentials.sum(-1, keepdims=True)) @ value
        x = norm(x + dense(context.swapaxes(1, 2).reshape(x.shape), f"{layer}/attention"), f"{layer}/attention")
        inner = dense(x, f"{layer}/inner")
        inner = 0.5 * inner * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        x = norm(x + dense(inner, f"{layer}/output"), f"{layer}/output")
    return x, np.tanh(dense(x[:, 0], "pooler"))


def test_graph_is_bert() -> None:
    import tensorflow as tf

    weights = bert.random_weights(bert.TINY)
    random = np.random.default_rng(0)
    ids = random.integers(0, bert.TINY["vocab_size"], (2, 7)).astype(np.int32)
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)
    types = random.integers(0, 2, (2, 7)).astype(np.int32)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(bert.graph_def(bert.TINY, weights), name="")
        with tf.compat.v1.Session(graph=graph) as session:
            feed = {"input_ids:0": ids, "attention_mask:0": mask, "token_type_ids:0": types}
            found = session.run(["Identity:0", "Identity_1:0"], feed)
    wanted = bert_by_hand(weights, ids, mask, types, bert.TINY["num_attention_heads"])
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_graph_has_the_forms_that_engines_fuse() -> None:
    import tf_opt
    from tf_opt.graph_checks import frozen_from_graph_def

    graph = frozen_from_graph_def(bert.graph_def(bert.TINY, bert.random_weights(bert.TINY)), ["Identity", "Identity_1"])
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimizer.optimize(graph, tf_opt.random_feeds(graph, batch=1, sequence=8))
    [segment] = optimizer.report.segments
    assert segment.adopted
    assert dict(segment.patterns) == {"attention": 2, "layer_normalization": 5, "gelu": 2}


def test_weights_are_the_same_in_each_process() -> None:
    first, second = bert.random_weights(bert.TINY), bert.random_weights(bert.TINY)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["layer_0/query/kernel"], first["layer_1/query/kernel"])
    assert {values.dtype.name for values in first.values()} == {"float32"}


@pytest.mark.parametrize(("model", "millions"), [(bert.BASE, 109.5), (bert.LARGE, 335.1)])
def test_sizes_are_the_real_ones(model: dict[str, int], millions: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        """Makes views of one number instead of a gigabyte."""

        def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> Any:
            return np.broadcast_to(np.zeros((), dtype), shape)

    sizes: list[int] = []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Counting())
    for name, values in bert.random_weights({**model, "vocab_size": 2, "num_hidden_layers": 1}).items():
        sizes.append(values.size * (model["num_hidden_layers"] if name.startswith("layer_") else 1))
    words = (model["vocab_size"] - 2) * model["hidden_size"]
    assert (sum(sizes) + words) / 1e6 == pytest.approx(millions, abs=0.05)


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
    assert content["rows"] == []


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
        pytest.raises(WorkerError, match="did not answer 'load' within 1 s"),
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


# The whole of it.


@pytest.mark.slow
@pytest.mark.parametrize(("version", "precision"), [("10.0", "fp32"), ("10.16", "fp16"), ("11.4", "int8")])
def test_simulated_tensorrt_is_right_with_and_without_host_copies(version: str, precision: str, tmp_path: Path) -> None:
    from gpu_check_parts.graph_worker import GraphPeer
    from peer_workers.model_files import write_feeds
    from peer_workers.protocol import read_feeds

    from tests.simulators.tensorrt.fixture import simulated_tensorrt

    (tmp_path / "config.json").write_text(json.dumps(bert.TINY))
    with simulated_tensorrt(version):
        original, engine = GraphPeer(), GraphPeer()
        original.load(tmp_path, 1, POINTS, {"engine": None, "precision": "fp32", "gpu": False})
        details = engine.load(tmp_path, 1, POINTS, {"engine": "tensorrt", "precision": precision, "gpu": True})
        assert [text.partition(" ")[0] for text in details["engines"]] == ["tensorrt"]
        for batch, sequence in POINTS:
            write_feeds(tmp_path / "feeds.npz", bert.TINY, batch, sequence, 1)
            feeds = read_feeds(str(tmp_path / "feeds.npz"))
            outputs = []
            for peer in (original, engine):
                peer.prepare(feeds, 0.0)
                outputs.append(dict(zip(OUTPUTS, peer.arrays(peer.run("check")), strict=True)))
            error, cosine = output_error(outputs[1], outputs[0], feeds["check"]["attention_mask"] > 0)
            assert too_far(precision, error, cosine) is None
            seconds, back_to_back, difference = engine.device_times("0", 2)
            assert len(seconds) == 2
            assert back_to_back > 0
            assert difference == 0.0
        assert engine._device_runs is not None
        engine._device_runs.close()


@pytest.mark.slow
def test_smoke_run_on_the_cpu(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    command = [sys.executable, gpu_check.__file__, "--smoke", "--allow-cpu", "--engines", "openvino-*", "onnxruntime-*"]
    command += ["--folder", str(tmp_path), "--output", str(output)]
    if gpu_check.gpu_unavailable_reason() is None:
        pytest.skip("there is a GPU, so that the engines for it would run")
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    content = json.loads(output.read_text())
    assert content["failed"] == []
    names = [catalog.REFERENCE, "onnxruntime-cpu-fp32", "openvino-fp32"]
    assert measured(content) == sorted((name, batch, "host") for name in names for batch, _ in catalog.SMOKE_POINTS)
    assert all(entry["maximum_absolute"] < 1e-4 for entry in content["accuracy"])
    assert content["environment"]["no_gpu"]
    assert "| batch | tensorflow-cpu | openvino-fp32 | onnxruntime-cpu-fp32 |" in result.stdout
