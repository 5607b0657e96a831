"""The doctor: what it finds, what it survives, and that it names the command that helps."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

import tf_opt
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt import doctor_findings as look
from tf_opt.doctor import Diagnosis, main
from tf_opt.engines.tensorrt import cuda
from tf_opt.ops import onnxruntime_library

NO_GPU = "There is no NVIDIA driver."
TENSORFLOW = {"version": "2.21.0", "cuda_build": False, "gpus": []}
WORKING_OP = {"op_library": "/cache/libtf_opt_op.so", "op_compiled_now": False}


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "gpu_unavailable_reason", lambda: NO_GPU)


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = SimpleNamespace(
        driver_version=lambda: 12040,
        device_count=lambda: 2,
        device_name=lambda ordinal: ["NVIDIA H200", "NVIDIA L4"][ordinal],
        compute_capability=lambda ordinal: [(9, 0), (8, 9)][ordinal],
    )
    monkeypatch.setattr(look, "gpu_unavailable_reason", lambda: None)
    monkeypatch.setattr(cuda, "cuda_driver", lambda: driver)


def install(monkeypatch: pytest.MonkeyPatch, **installed: str) -> None:
    """Makes the metadata say that exactly these are installed; "_" stands for "-"."""
    named = {name.replace("_", "-"): version for name, version in installed.items()}

    def version(name: str) -> str:
        if name not in named:
            raise metadata.PackageNotFoundError(name)
        return named[name]

    monkeypatch.setattr(metadata, "version", version)


def by_name(findings: Any) -> dict[str, look.Finding]:
    return {each.name: each for each in findings}


def engine(**changes: Any) -> look.EngineFinding:
    given: dict[str, Any] = {"label": "openvino", "version": "openvino 1", "usable": True, **changes}
    return look.EngineFinding(**given)


def diagnosis(*, chosen: str | None = "openvino", op: look.Status = "ok") -> Diagnosis:
    findings = (
        look.Finding(topic="TensorFlow", name="TensorFlow", status="ok", text="2.21.0"),
        look.Finding(topic="Native op", name="library", status=op, text="[compiled]", fix="CXX=g++-13"),
        look.Finding(topic="Optional", name="ray", status="absent", text="for serving", fix="pip install ray"),
    )
    engines = (
        engine(precisions={"fp32": None, "bf16": "no AVX [512]"}),
        engine(label="tensorrt", version=None, usable=False, reason=NO_GPU, fix="pip install tensorrt"),
    )
    return Diagnosis(findings=findings, engines=engines, chosen=chosen)


# What is looked at.


def test_gpu_is_described_by_its_driver(with_gpu: None) -> None:
    found = by_name(look.gpu_findings())
    assert found["NVIDIA driver"].text == "for CUDA up to 12.4"
    assert found["GPU 0"].text == "NVIDIA H200, compute capability 9.0"
    assert found["GPU 1"].text == "NVIDIA L4, compute capability 8.9"


def test_no_gpu_is_no_problem(without_gpu: None) -> None:
    [found] = look.gpu_findings()
    assert (found.status, found.text) == ("absent", NO_GPU)
    assert found.fix is not None


def test_driver_that_breaks_while_it_is_asked(with_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("libcuda.so.1: file too short")

    monkeypatch.setattr(cuda, "cuda_driver", broken)
    [found] = look.gpu_findings()
    assert found.status == "problem"
    assert "file too short" in found.text


def test_both_tensorflows_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_ask_tensorflow", lambda: {**TENSORFLOW, **WORKING_OP})
    install(monkeypatch, tensorflow_cpu="2.21.0")
    assert "packages" not in by_name(look.tensorflow_findings(gpu_is_there=False))
    install(monkeypatch, tensorflow="2.21.0", tensorflow_cpu="2.21.0")
    found = by_name(look.tensorflow_findings(gpu_is_there=False))["packages"]
    assert found.status == "problem"
    assert "pip uninstall -y tensorflow tensorflow-cpu" in str(found.fix)


@pytest.mark.parametrize(
    ("library", "status", "text"),
    [(Path("/a/libonnxruntime.so.1"), "ok", "/a/libonnxruntime.so.1"), (None, "absent", "Python")],
)
def test_what_runs_onnxruntime(monkeypatch: pytest.MonkeyPatch, library: Path | None, status: str, text: str) -> None:
    monkeypatch.setattr(onnxruntime_library, "find_library", lambda: library)
    (finding,) = look.onnxruntime_findings()
    assert finding.status == status
    assert text in finding.text
    monkeypatch.setattr(look, "is_installed", lambda package: False)
    assert list(look.onnxruntime_findings()) == []


def test_both_onnxruntimes_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime="1.31.1")
    assert list(look.conflict_findings()) == []
    install(monkeypatch, onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    assert "onnxruntime-gpu" in next(look.conflict_findings()).text


def test_build_of_tensorflow_and_an_unused_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {**TENSORFLOW, **WORKING_OP}
    monkeypatch.setattr(look, "_ask_tensorflow", lambda: answer)
    found = by_name(look.tensorflow_findings(gpu_is_there=False))["TensorFlow"]
    assert (found.status, found.text, found.fix) == ("ok", "2.21.0, built for the CPU", None)
    found = by_name(look.tensorflow_findings(gpu_is_there=True))["TensorFlow"]
    assert "sees no GPU" in found.text
    assert "tensorflow[and-cuda]" in str(found.fix)
    answer.update(cuda_build=True, gpus=["/physical_device:GPU:0"])
    found = by_name(look.tensorflow_findings(gpu_is_there=True))["TensorFlow"]
    assert (found.text, found.fix) == ("2.21.0, built for GPUs (CUDA)", None)


def test_tensorflow_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "is_installed", lambda package: False)
    install(monkeypatch)
    [found] = look.tensorflow_findings(gpu_is_there=False)
    assert found.status == "problem"
    assert "pip install 'tensorflow" in str(found.fix)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import os; os.abort()", "ends with status -6"),
        ("raise ImportError('libfoo.so')", "ImportError: libfoo.so"),
        ("print('no json')", "ends with status 0"),
        ("import time; time.sleep(60)", "more than"),
    ],
)
def test_tensorflow_that_breaks_its_process(
    program: str, expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A module of the same name that is found first, as a broken installation would be.
    folder = tmp_path / "tf_opt"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "tensorflow_probe.py").write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(look, "TENSORFLOW_SECONDS", 1.0 if "sleep" in program else 120.0)
    found = by_name(look.tensorflow_findings(gpu_is_there=False))
    assert found["TensorFlow"].status == "problem"
    assert expected in found["TensorFlow"].text
    assert "library" not in found


def test_op_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_ask_tensorflow", lambda: {**TENSORFLOW, "op_error": "OpBuildError: no compiler"})
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = by_name(look.tensorflow_findings(gpu_is_there=False))
    assert (found["library"].status, found["library"].text) == ("problem", "OpBuildError: no compiler")
    assert (found["compiler"].status, found["compiler"].text) == ("absent", "there is no no-such-compiler")
    assert "CXX" in str(found["compiler"].fix)


def test_optional_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tensorflow="2.21.0", nncf="3.4.0", transformers="5.1.0", tf_keras="2.20.1")
    found = by_name(look.optional_findings())
    assert {name: each.status for name, each in found.items()} == {
        "nncf": "ok",
        "transformers": "problem",
        "tf-keras": "problem",
        "ray": "absent",
    }
    assert found["tf-keras"].fix == "pip install 'tf-keras==2.21.*'"
    assert found["ray"].fix == "pip install ray"
    install(monkeypatch, tensorflow="2.21.0", transformers="4.57.6", tf_keras="2.21.3")
    found = by_name(look.optional_findings())
    assert (found["transformers"].status, found["tf-keras"].status) == ("ok", "ok")


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path))
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "one").write_bytes(bytes(5 * 2**20))
    [found] = look.cache_findings()
    assert (found.status, found.text) == ("ok", f"{tmp_path}, 5.0 MiB")
    # One that is not there yet can be made where its parent can be written to.
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "deep" / "down"))
    assert next(look.cache_findings()).status == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    [found] = look.cache_findings()
    assert found.status == "problem"
    assert "TF_OPT_CACHE_DIR" in str(found.fix)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, {"AVX2"}),
        ({"avx2", "avx_vnni"}, {"AVX2", "VNNI"}),
        ({"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}, {"AVX2", "AVX-512", "VNNI", "BF16"}),
        ({"amx_tile", "amx_bf16", "amx_fp16"}, {"AMX", "BF16", "FP16"}),
        (set(), set()),
    ],
)
def test_instruction_sets(flags: set[str], expected: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "cpu_flags", lambda: frozenset(flags))
    found = by_name(look.processor_findings())
    assert {name for name in look.CPU_FEATURES if found[name].status == "ok"} == expected


# The engines.


class FakeBackend:
    package = "json"  # One that can be imported.
    install_command = "pip install it"

    def __init__(self, reason: str | None = None) -> None:
        self.reason = reason

    def unavailable_reason(self) -> str | None:
        return self.reason

    def precision_refusal(self, precision: str) -> str | None:
        if precision == "bf16":
            raise RuntimeError("it does not answer")
        return None if precision == "int8" else "no hardware"


def findings_with(monkeypatch: pytest.MonkeyPatch, backend: Any) -> dict[str, look.EngineFinding]:
    def load(name: str, **arguments: Any) -> Any:
        del name, arguments
        if isinstance(backend, Exception):
            raise backend
        return backend

    monkeypatch.setattr(look, "load_backend", load)
    return {each.label: each for each in look.engine_findings()}


def test_usable_engine_and_its_precisions(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    found = findings_with(monkeypatch, FakeBackend())["openvino"]
    assert found.usable
    assert found.precisions == {
        "fp32": None,
        "fp16": "no hardware",
        "bf16": "RuntimeError: it does not answer",
        "int8": None,
    }


def test_engines_for_a_gpu_are_not_touched_without_one(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    def load(name: str, **arguments: Any) -> Any:
        assert name != "tensorrt"
        assert arguments != {"provider": "cuda"}
        return FakeBackend()

    monkeypatch.setattr(look, "load_backend", load)
    found = {each.label: each for each in look.engine_findings()}
    assert [name for name, each in found.items() if not each.usable] == ["tensorrt", "onnxruntime (cuda)"]
    assert {found[name].reason for name in ("tensorrt", "onnxruntime (cuda)")} == {NO_GPU}


def test_engine_that_is_absent(monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    monkeypatch.setattr(look, "is_installed", lambda package: False)
    found = findings_with(monkeypatch, FakeBackend())["openvino"]
    assert (found.usable, found.fix) == (False, "pip install it")


def test_engine_that_cannot_run_is_not_imported(monkeypatch: pytest.MonkeyPatch, with_gpu: None) -> None:
    imported: list[str] = []
    monkeypatch.setattr(look.importlib, "import_module", imported.append)
    found = findings_with(monkeypatch, FakeBackend("its library is missing"))
    assert {each.reason for each in found.values()} == {"its library is missing"}
    assert imported == []


@pytest.mark.parametrize("error", [ImportError("libfoo.so.3"), OSError("cut short"), TypeError("nullptr")])
def test_broken_package_is_reported(error: Exception, monkeypatch: pytest.MonkeyPatch, without_gpu: None) -> None:
    assert str(error) in findings_with(monkeypatch, error)["openvino"].reason

    def broken(name: str) -> Any:
        raise error

    monkeypatch.setattr(look.importlib, "import_module", broken)
    found = findings_with(monkeypatch, FakeBackend())["openvino"]
    assert not found.usable
    assert str(error) in found.reason
    assert found.fix == "pip install --force-reinstall it"


def test_simulated_tensorrt_is_found() -> None:
    with simulated_tensorrt("10.16", gpu_name="NVIDIA H200"):
        found = {each.label: each for each in look.engine_findings()}["tensorrt"]
        gpu = by_name(look.gpu_findings())
    assert found.usable
    assert found.precisions == {"fp32": None, "fp16": None, "bf16": None, "int8": None}
    assert gpu["GPU 0"].text == "NVIDIA H200, compute capability 9.0"


# The result.


def test_what_has_to_work() -> None:
    assert diagnosis().works
    assert not diagnosis(chosen=None).works
    assert not diagnosis(op="problem").works
    assert not Diagnosis(findings=(), engines=(engine(),), chosen="openvino").works


def test_printed() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    diagnosis().print(console)
    text = console.export_text()
    assert "[compiled]" in text  # Brackets of a message are no markup.
    assert "bf16: no AVX [512]" in text
    assert "tensorrt: pip install tensorrt" in text
    assert "ray: pip install ray" in text
    assert 'engine="auto" takes openvino.' in text
    diagnosis(chosen=None).print(console)
    assert "No engine can run here." in console.export_text()


@pytest.mark.parametrize(("chosen", "expected"), [("openvino", 0), (None, 1)])
def test_exit_status(
    chosen: str | None, expected: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # tf_opt.doctor is the function; the module has no other name than that in sys.modules.
    monkeypatch.setattr(sys.modules["tf_opt.doctor"], "doctor", lambda: diagnosis(chosen=chosen))
    assert main(["--json"]) == expected
    assert json.loads(capsys.readouterr().out)["chosen"] == chosen
    assert main([]) == expected
    assert "engine" in capsys.readouterr().out


def test_doctor_is_a_function_and_a_program() -> None:
    assert callable(tf_opt.doctor)
    assert main.__module__ == "tf_opt.doctor"


def test_asking_for_it_loads_nothing_heavy() -> None:
    code = "import sys, tf_opt; tf_opt.doctor; print([m for m in ('numpy', 'tensorflow', 'openvino', 'rich') "
    code += "if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
def test_this_machine() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tf_opt.doctor", "--json"], capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, result.stderr
    content = json.loads(result.stdout)
    assert content["works"] is True
    assert content["chosen"] in tf_opt.engines.automatic_order()
    usable = {each["label"] for each in content["engines"] if each["usable"]}
    assert "openvino" in usable
    found = {(each["topic"], each["name"]): each for each in content["findings"]}
    assert found["TensorFlow", "TensorFlow"]["text"].startswith(metadata.version("tensorflow"))
    assert Path(found["Native op", "library"]["text"].split()[-1]).exists()


def test_engine_without_a_distribution_says_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)  # Nothing has metadata, as where packages are copied into a path.
    found = {each.label: each for each in look.engine_findings()}["openvino"]
    assert found.usable
    assert str(found.version).startswith("openvino 20")
