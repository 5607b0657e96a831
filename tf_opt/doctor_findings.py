"""What `tf_opt.doctor` finds out: one function a topic, each of which reports what is broken instead of raising."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tf_opt.engines import CANDIDATES, Candidate, gpu_unavailable_reason, is_installed, load_backend
from tf_opt.engines.base import EngineBackend
from tf_opt.environment import cpu_flags, describe_environment
from tf_opt.sizes import size_text, stored_bytes

Status: TypeAlias = Literal["ok", "absent", "problem"]
"""It works; it is not there, which may be meant so; it is there and does not work, or spoils something else."""

TENSORFLOW_SECONDS = 600.0
"""How long TensorFlow may take to be imported, with half a minute of compiling the op on a busy machine."""

TENSORFLOW_DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu")
ENGINE_DISTRIBUTIONS = {
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime", "onnxruntime-openvino", "onnxruntime-directml"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11"),
}
"""Distributions that hold the package of an engine."""

OPTIONAL = {
    "nncf": ("int8 by calibration", "pip install 'nncf>=3.4,<4' onnxruntime"),
    "transformers": ("Hugging Face's TensorFlow models", "pip install 'transformers>=4.57,<5'"),
    "tf-keras": ("Keras 2, which Hugging Face's TensorFlow models need", "pip install tf-keras"),
    "ray": ("serving from several processes", "pip install ray"),
}
"""What each optional package is for, and how to get it."""

CPU_FEATURES = {
    "AVX2": frozenset({"avx2"}),
    "AVX-512": frozenset({"avx512f"}),
    "VNNI": frozenset({"avx512_vnni", "avx_vnni"}),
    "BF16": frozenset({"avx512_bf16", "amx_bf16", "bf16"}),
    "FP16": frozenset({"avx512_fp16", "amx_fp16", "asimdhp"}),
    "AMX": frozenset({"amx_tile"}),
}
"""Instruction sets that engines use, and the flags of Linux of which each shows it."""

PRECISIONS = ("fp16", "bf16", "int8")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What it belongs to: "TensorFlow", "GPU", …
        name: What was looked at.
        status: Whether it works.
        text: What was found.
        fix: The command or the step that repairs or gets it; None where there is nothing to do.
    """

    topic: str
    name: str
    status: Status
    text: str
    fix: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineFinding:
    """One engine that `engine="auto"` has to choose from.

    Attributes:
        label: The engine's name, and the device where there are several.
        version: Distribution and version of its package; None where it is not installed.
        usable: Whether it can run here.
        reason: Why it cannot; empty where it can.
        fix: What gets it; None where nothing does, or nothing has to.
        precisions: For each precision None, or why it does not compute in it here. Empty where it cannot run.
    """

    label: str
    version: str | None
    usable: bool
    reason: str = ""
    fix: str | None = None
    precisions: dict[str, str | None] = field(default_factory=dict)


def python_findings() -> Iterator[Finding]:
    """Says which Python this is."""
    yield Finding(topic="Python", name="Python", status="ok", text=f"{platform.python_version()}, {sys.executable}")


def processor_findings() -> Iterator[Finding]:
    """Says which processor this is, and which instruction sets of use to an engine it has."""
    environment = describe_environment()
    yield Finding(
        topic="Processor", name="model", status="ok", text=f"{environment['cpu']}, {environment['cores']} cores"
    )
    flags = cpu_flags()
    for name, wanted in CPU_FEATURES.items():
        here = bool(flags & wanted)
        yield Finding(topic="Processor", name=name, status="ok" if here else "absent", text="yes" if here else "no")


def gpu_findings() -> Iterator[Finding]:
    """Asks the NVIDIA driver, and nothing else, for its version and the GPUs."""
    try:
        reason = gpu_unavailable_reason()
        if reason is not None:
            fix = "On a machine with an NVIDIA GPU: install NVIDIA's driver; in a container: run it with --gpus all."
            yield Finding(topic="GPU", name="NVIDIA driver", status="absent", text=reason, fix=fix)
            return
        from tf_opt.engines.tensorrt import cuda

        driver = cuda.cuda_driver()
        version = driver.driver_version()
        text = f"for CUDA up to {version // 1000}.{version % 1000 // 10}"
        yield Finding(topic="GPU", name="NVIDIA driver", status="ok", text=text)
        for ordinal in range(driver.device_count()):
            major, minor = driver.compute_capability(ordinal)
            text = f"{driver.device_name(ordinal)}, compute capability {major}.{minor}"
            yield Finding(topic="GPU", name=f"GPU {ordinal}", status="ok", text=text)
    except Exception as error:
        yield Finding(topic="GPU", name="NVIDIA driver", status="problem", text=_described(error))


def tensorflow_findings(gpu_is_there: bool) -> Iterator[Finding]:
    """Imports TensorFlow and the op in another process; see `tf_opt.tensorflow_probe`.

    Args:
        gpu_is_there: Whether a build for the CPU leaves a GPU unused.
    """
    yield from _conflict("TensorFlow", TENSORFLOW_DISTRIBUTIONS)
    if not is_installed("tensorflow"):
        get = "pip install 'tensorflow>=2.18,<2.22'"
        yield Finding(topic="TensorFlow", name="TensorFlow", status="problem", text="it is not installed", fix=get)
        return
    answer = _ask_tensorflow()
    if "error" in answer:
        installed = " or ".join(versions(TENSORFLOW_DISTRIBUTIONS)) or "tensorflow"
        repair = f"pip install --force-reinstall {installed}"
        yield Finding(topic="TensorFlow", name="TensorFlow", status="problem", text=answer["error"], fix=repair)
        return
    build = "for GPUs (CUDA)" if answer["cuda_build"] else "for the CPU"
    text = f"{answer['version']}, built {build}"
    fix = None
    if gpu_is_there and not answer["gpus"]:
        text += "; it sees no GPU, so what an engine reads from it and returns to it crosses between host and GPU"
        fix = "pip install 'tensorflow[and-cuda]' keeps tensors on the GPU"
    yield Finding(topic="TensorFlow", name="TensorFlow", status="ok", text=text, fix=fix)
    yield from _op_findings(answer)


def conflict_findings() -> Iterator[Finding]:
    """Says which engines are installed from more than one distribution."""
    # TensorRT's is an empty distribution that depends on the one for a CUDA version.
    yield from _conflict("Engines", ENGINE_DISTRIBUTIONS["onnxruntime"])


def onnxruntime_findings() -> Iterator[Finding]:
    """Says by what the op runs ONNX Runtime's engines for the CPU; nothing where the package is not installed."""
    from tf_opt.ops.onnxruntime_library import find_library

    if not is_installed("onnxruntime"):
        return
    library = find_library()
    if library is not None:
        text = f"engines for the CPU run without Python, by {library}"
        yield Finding(topic="Engines", name="onnxruntime", status="ok", text=text)
        return
    text = "engines run through Python, which takes a little longer: the package has no libonnxruntime.so"
    yield Finding(topic="Engines", name="onnxruntime", status="absent", text=text)


def _conflict(topic: str, distributions: tuple[str, ...]) -> Iterator[Finding]:
    installed = versions(distributions)
    if len(installed) < 2:
        return
    yield Finding(
        topic=topic,
        name="packages",
        status="problem",
        text=f"{' and '.join(installed)} are installed at the same time. They write the same folder: which files are "
        "whose is a matter of chance, and removing one breaks the other",
        fix=f"pip uninstall -y {' '.join(installed)}, and then pip install the one that is meant",
    )


def _ask_tensorflow() -> dict[str, Any]:
    """Returns what `tf_opt.tensorflow_probe` says, or {"error": why it says nothing}."""
    # The path of this process: tf_opt may be importable by what the program did to it.
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-m", "tf_opt.tensorflow_probe"]
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TENSORFLOW_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"importing it takes more than {TENSORFLOW_SECONDS:.0f} s"}
    try:
        answer: dict[str, Any] = json.loads(result.stdout)
    except ValueError:
        lines = result.stderr.strip().splitlines() or ["no message"]
        return {"error": f"importing it ends with status {result.returncode}: {lines[-1]}"}
    return answer


def _op_findings(answer: dict[str, Any]) -> Iterator[Finding]:
    from tf_opt.ops.build import compiler_command, compiler_version

    command = " ".join(compiler_command())
    compiler = compiler_version(compiler_command())
    if "op_error" in answer:
        yield Finding(topic="Native op", name="library", status="problem", text=answer["op_error"])
    else:
        when = "compiled just now" if answer["op_compiled_now"] else "compiled"
        yield Finding(topic="Native op", name="library", status="ok", text=f"{when}, loads: {answer['op_library']}")
    if compiler:
        yield Finding(topic="Native op", name="compiler", status="ok", text=compiler)
    else:
        fix = "apt-get install g++, or name another compiler in CXX; a compiled op goes on working without"
        yield Finding(topic="Native op", name="compiler", status="absent", text=f"there is no {command}", fix=fix)


def optional_findings() -> Iterator[Finding]:
    """Says which optional packages are installed. None is imported: that takes seconds each."""
    tensorflow = next(iter(versions(TENSORFLOW_DISTRIBUTIONS).values()), "")
    for name, (purpose, fix) in OPTIONAL.items():
        version = versions((name,)).get(name)
        if version is None:
            yield Finding(topic="Optional", name=name, status="absent", text=f"for {purpose}", fix=fix)
        elif name == "transformers" and not version.startswith("4."):
            text = f"{version} has no TensorFlow models any more; 4.57 is the last line with them"
            yield Finding(topic="Optional", name=name, status="problem", text=text, fix=fix)
        elif name == "tf-keras" and tensorflow and _minor(version) != _minor(tensorflow):
            text = f"{version} does not fit TensorFlow {tensorflow}: it has to be of the same minor version"
            fix = f"pip install 'tf-keras=={_minor(tensorflow)}.*'"
            yield Finding(topic="Optional", name=name, status="problem", text=text, fix=fix)
        else:
            yield Finding(topic="Optional", name=name, status="ok", text=f"{version}, for {purpose}")


def cache_findings() -> Iterator[Finding]:
    """Says where compiled ops, optimizations and plans are kept, how much there is, and whether more can be written."""
    from tf_opt.ops.build import cache_directory

    folder = cache_directory()
    existing = next((each for each in (folder, *folder.parents) if each.exists()), Path("/"))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        text, fix = f"{folder} cannot be written to", "Set TF_OPT_CACHE_DIR to a folder that can."
        yield Finding(topic="Cache", name="folder", status="problem", text=text, fix=fix)
        return
    text = f"{folder}, {size_text(stored_bytes(folder))}"
    yield Finding(topic="Cache", name="folder", status="ok", text=text)


def engine_findings() -> Iterator[EngineFinding]:
    """Looks at each engine. What needs a GPU is not touched before the NVIDIA driver has found one."""
    try:
        gpu_reason = gpu_unavailable_reason()
    except Exception as error:
        gpu_reason = _described(error)
    for candidate in CANDIDATES:
        yield _engine_finding(candidate, gpu_reason)


def _engine_finding(candidate: Candidate, gpu_reason: str | None) -> EngineFinding:
    installed = versions(ENGINE_DISTRIBUTIONS[candidate.name])
    version = ", ".join(f"{name} {number}" for name, number in installed.items()) or None

    def unusable(reason: str, fix: str | None = None) -> EngineFinding:
        return EngineFinding(label=candidate.label, version=version, usable=False, reason=reason, fix=fix)

    if candidate.needs_gpu and gpu_reason is not None:
        return unusable(gpu_reason)
    try:
        backend = load_backend(candidate.name, **candidate.arguments)
        install = candidate.install_command or backend.install_command
        if not is_installed(backend.package):
            return unusable(f"the package {backend.package} is not installed", install)
        # Before the import: the bindings of TensorRT 11 crash where something is missing.
        if (reason := backend.unavailable_reason()) is not None:
            return unusable(reason)
    except Exception as error:
        return unusable(f"it does not load: {_described(error)}")
    try:
        module = importlib.import_module(backend.package)
    except Exception as error:
        repair = install.replace("pip install", "pip install --force-reinstall")
        return unusable(f"importing {backend.package} fails: {_described(error)}", repair)
    # A package that was copied or built into a path has no distribution, and still says what it is.
    version = version or f"{backend.package} {getattr(module, '__version__', 'of unknown version')}"
    precisions = {"fp32": None, **{name: _precision_refusal(backend, name) for name in PRECISIONS}}
    return EngineFinding(label=candidate.label, version=version, usable=True, precisions=precisions)


def _precision_refusal(backend: EngineBackend, precision: str) -> str | None:
    try:
        return backend.precision_refusal(precision)
    except Exception as error:
        return _described(error)


def versions(distributions: tuple[str, ...]) -> dict[str, str]:
    """Returns the versions of those distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _described(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"
