"""Which of ONNX Runtime's providers is used, and what is said where one cannot be."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.engines.onnx_models import definition_of, relu_model, run
from tf_opt.engines.base import SegmentModel
from tf_opt.engines.blob import EngineBlob
from tf_opt.engines.onnxruntime import ONNXRuntimeBackend, backend, load_engine, providers, session
from tf_opt.engines.tensorrt import cuda
from tf_opt.errors import CudaError, EngineUnavailableError, InvalidOptionError
from tf_opt.tensor_info import TensorInfo

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
WEIGHTS = [np.ones((4, 3), np.float32), np.zeros(3, np.float32)]


@pytest.fixture(autouse=True)
def fresh_trials() -> None:
    providers._trial_failure.cache_clear()


def pretend(
    monkeypatch: pytest.MonkeyPatch, *, gpu: bool = True, listed: list[str] = ALL, capability: Any = (8, 0)
) -> None:
    """Makes the driver say that there is a GPU, and ONNX Runtime that it has these providers."""
    driver = SimpleNamespace(compute_capability=lambda ordinal: capability)
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: None if gpu else "no driver")
    monkeypatch.setattr(cuda, "cuda_driver", lambda: driver)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)


def segment_of(model: bytes) -> SegmentModel:
    return SegmentModel(name="segment_9", model=model, inputs=(), outputs=(), weight_array=lambda index: np.zeros(1))


# The choice.


@pytest.mark.parametrize(
    ("gpu", "listed", "expected"), [(True, ALL, "cuda"), (True, ALL[2:], "cpu"), (False, ALL, "cpu")]
)
def test_automatic_choice(monkeypatch: pytest.MonkeyPatch, gpu: bool, listed: list[str], expected: str) -> None:
    pretend(monkeypatch, gpu=gpu, listed=listed)
    assert ONNXRuntimeBackend().provider == expected
    assert ONNXRuntimeBackend("cpu").provider == "cpu"


def test_without_a_gpu_only_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpu=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # Importing it fails.
    assert ONNXRuntimeBackend().provider == "cpu"
    assert ONNXRuntimeBackend("cpu").unavailable_reason() is None
    assert ONNXRuntimeBackend("cuda").unavailable_reason() == "no driver"


def test_unknown_provider() -> None:
    with pytest.raises(InvalidOptionError, match="Did you mean 'cuda'"):
        ONNXRuntimeBackend("cudo")


def test_package_without_the_provider_names_the_one_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, listed=ALL[2:])
    reason = ONNXRuntimeBackend("cuda").unavailable_reason()
    assert reason is not None
    assert "pip install onnxruntime-gpu" in reason
    assert "CUDAExecutionProvider" in reason


# ONNX Runtime takes the CPU in silence where a GPU's provider does not load.


@pytest.fixture
def only_the_cpu_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions as they are where no GPU's provider loads, whatever the installed package has."""
    make = onnxruntime.InferenceSession

    def session_on_the_cpu(model: bytes, options: Any, **arguments: Any) -> Any:
        return make(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session_on_the_cpu)


@pytest.mark.usefixtures("only_the_cpu_loads")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_session_on_another_provider_is_an_error(provider: Any) -> None:
    with pytest.raises(
        EngineUnavailableError, match=f"CPUExecutionProvider in place of .*{providers.CHAINS[provider][0]}"
    ):
        session.create_session(relu_model(), provider, threads=1, optimize=False)


@pytest.mark.usefixtures("only_the_cpu_loads")
def test_a_provider_that_is_listed_and_does_not_load_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    reason = ONNXRuntimeBackend("cuda").unavailable_reason()
    assert reason is not None
    assert "lacks libonnxruntime_providers_cuda.so" in reason
    with pytest.raises(EngineUnavailableError, match="in place of CUDAExecutionProvider"):
        ONNXRuntimeBackend("cuda").build(segment_of(relu_model()))


def test_an_engine_for_a_gpu_says_so_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpu=False)
    header = {"runtime": "onnxruntime", "provider": "cuda"}
    with pytest.raises(EngineUnavailableError, match=r"(?s)segment_0 .*'cuda'.*no driver.*Optimize the original graph"):
        load_engine(definition_of(relu_model(), WEIGHTS, header=header))


# What an engine carries, and what a backend takes.


def test_the_stored_engine_names_its_provider() -> None:
    engine = ONNXRuntimeBackend("cpu").build(segment_of(relu_model()))
    blob = EngineBlob.unpack(engine.blob)
    assert blob.header["provider"] == "cpu"
    outputs = run(load_engine(definition_of(blob.payload, WEIGHTS, header=blob.header)), np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(outputs.arrays[0], np.full((2, 3), 4))


def test_options_of_the_providers() -> None:
    cuda_options, cpu_options = providers.provider_options("cuda", device=3, stream=0xABC)
    assert cuda_options["device_id"] == "3"
    assert cuda_options["user_compute_stream"] == str(0xABC)
    assert cuda_options["use_tf32"] == "0"
    assert cpu_options == {}
    assert "user_compute_stream" not in providers.provider_options("cuda")[0]
    assert [each.get("device_id") for each in providers.provider_options("tensorrt", device=1)] == ["1", "1", None]


@pytest.mark.parametrize(
    ("provider", "precision", "capability", "word"),
    [
        ("cpu", "fp16", None, "CPU"),
        ("cpu", "bf16", None, "CPU"),
        ("cpu", "int8", None, None),
        ("cuda", "fp16", (7, 5), None),
        ("cuda", "bf16", (7, 5), "7.5"),
        ("cuda", "bf16", (8, 0), None),
        ("cuda", "int8", (9, 0), "CUDA"),
        ("tensorrt", "int8", (7, 5), None),
        ("tensorrt", "bf16", (7, 5), "7.5"),
    ],
)
def test_precisions(
    monkeypatch: pytest.MonkeyPatch, provider: Any, precision: str, capability: Any, word: str | None
) -> None:
    pretend(monkeypatch, capability=capability)
    reason = ONNXRuntimeBackend(provider).precision_refusal(precision)
    assert (reason is None) if word is None else (reason is not None and word in reason)


def test_driver_that_does_not_answer_refuses_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise CudaError("cuDeviceGetAttribute failed: CUDA_ERROR_UNKNOWN")

    for driver in (fail, lambda: SimpleNamespace(compute_capability=fail)):
        pretend(monkeypatch)
        monkeypatch.setattr(cuda, "cuda_driver", driver)
        reason = ONNXRuntimeBackend("cuda").precision_refusal("bf16")
        assert reason is not None
        assert "cuDeviceGetAttribute failed" in reason


def test_bfloat16_is_for_gpus() -> None:
    tensor = TensorInfo(name="a:0", dtype="bfloat16", shape=(None,))
    assert "bfloat16" in str(ONNXRuntimeBackend("cpu").refusal("AddV2", [tensor], [tensor]))
    assert ONNXRuntimeBackend("cuda").refusal("AddV2", [tensor], [tensor]) is None


def test_operators_of_onnx_runtime_are_not_for_tensorrt() -> None:
    assert ONNXRuntimeBackend("tensorrt").onnx_target.attention == "matmul"
    assert ONNXRuntimeBackend("cuda").onnx_target.attention == "microsoft"


@pytest.mark.parametrize(
    ("provider", "form"), [("cpu", "onnxruntime"), ("cuda", "onnxruntime"), ("tensorrt", "tensorrt")]
)
def test_the_form_of_int8(provider: Any, form: str) -> None:
    assert ONNXRuntimeBackend(provider).onnx_target.int8 == form


def test_names_of_nodes_in_messages() -> None:
    # As ONNX Runtime 1.31 writes them.
    for text in (
        "NOT_IMPLEMENTED : Could not find an implementation for Add(14) node with name 'layer/sum'",
        'This is an invalid model. In Node, ("layer/sum", Add, "", -1) : ',
        "Node (layer/sum) Op (Add) [ShapeInferenceError] Incompatible dimensions",
    ):
        assert backend.nodes_in(text) == ("layer/sum",)
    assert backend.nodes_in("Node (a) failed; Node (a) and Node (b)") == ("a", "b")
