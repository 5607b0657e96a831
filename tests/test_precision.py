from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tf_opt import environment
from tf_opt.engines import create_backend
from tf_opt.engines.openvino import OpenVINOBackend
from tf_opt.errors import UnsupportedPrecisionError
from tf_opt.precision import available_precisions, fastest_16_bit, require_16_bit, require_precision


class Device(OpenVINOBackend):
    """A backend on a device with hardware for some precisions."""

    def __init__(self, *possible: str) -> None:
        self.possible = possible

    def precision_refusal(self, precision: str) -> str | None:
        return None if precision in self.possible else f"there is no {precision} unit"


def test_precisions_are_listed_with_their_reasons() -> None:
    assert available_precisions(Device("int8", "fp16")) == {
        "int8": None,
        "bf16": "there is no bf16 unit",
        "fp16": None,
        "fp32": None,
    }


@pytest.mark.parametrize(("possible", "fastest"), [(("fp16", "bf16"), "bf16"), (("fp16",), "fp16"), (("int8",), None)])
def test_fastest_sixteen_bit_type(possible: tuple[str, ...], fastest: str | None) -> None:
    assert fastest_16_bit(Device(*possible)) == fastest


def test_missing_hardware_is_refused_with_the_reason_and_a_way_out() -> None:
    with pytest.raises(UnsupportedPrecisionError, match=r"bf16 here: there is no bf16 unit. Possible are 'int8'"):
        require_precision("bf16", Device("int8"))
    with pytest.raises(UnsupportedPrecisionError, match=r"no 16-bit type .*no bf16 unit; fp16: there is no fp16 unit"):
        require_16_bit(Device("int8"))
    require_precision("fp32", Device())
    assert require_16_bit(Device("bf16")) == "bf16"


@pytest.mark.parametrize(
    ("capabilities", "flags", "precision", "refused"),
    [
        (["FP32", "INT8"], "avx2", "int8", ""),
        (["FP32", "INT8"], "avx2", "bf16", "no bf16 kernels"),
        (["FP32", "INT8", "BF16"], "avx512f avx512_vnni", "bf16", "none of the instructions for bf16"),
        (["FP32", "INT8", "BF16"], "avx512f avx512_bf16", "bf16", ""),
        (["FP32", "FP16"], "asimd asimdhp", "fp16", ""),
        (["FP32", "FP16"], "avx2 f16c", "fp16", "none of the instructions for fp16"),
    ],
)
def test_openvino_asks_its_kernels_and_the_processor(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capabilities: list[str],
    flags: str,
    precision: str,
    refused: str,
) -> None:
    import openvino

    class Core:
        def get_property(self, device: str, name: str) -> Any:
            return capabilities

    monkeypatch.setattr(openvino, "Core", Core)
    monkeypatch.setattr("tf_opt.engines.openvino.cpu_flags", lambda: frozenset(flags.split()))
    reason = create_backend("openvino").precision_refusal(precision)
    assert (reason is None) == (not refused)
    assert refused in (reason or "")


def test_onnx_runtime_computes_in_no_sixteen_bit_type() -> None:
    pytest.importorskip("onnxruntime")
    assert available_precisions(create_backend("onnxruntime")).keys() == {"int8", "bf16", "fp16", "fp32"}
    assert fastest_16_bit(create_backend("onnxruntime")) is None


@pytest.mark.parametrize("label", ["flags\t\t", "Features\t"])
def test_processor_flags_are_read(monkeypatch: pytest.MonkeyPatch, label: str) -> None:
    environment.cpu_flags.cache_clear()
    monkeypatch.setattr(Path, "read_text", lambda self: f"processor\t: 0\n{label}: fpu avx2\n")
    assert environment.cpu_flags() == {"fpu", "avx2"}
    environment.cpu_flags.cache_clear()
