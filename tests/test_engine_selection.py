"""Which engines an optimization takes on which processor."""

from __future__ import annotations

import pytest

import tf_opt
from tests.small_graphs import engine_nodes, feed, mlp
from tf_opt import engine_selection, engines
from tf_opt.engine_selection import INT8_PRODUCTS, select_engines
from tf_opt.engines.onnxruntime import ONNXRuntimeBackend
from tf_opt.options import Options

AVX2 = frozenset({"avx2", "fma"})


@pytest.fixture
def processor(monkeypatch):
    """Sets the processor's flags; there is no GPU."""
    monkeypatch.setattr(engines, "gpu_unavailable_reason", lambda: "there is none")

    def has(flags):
        monkeypatch.setattr(engine_selection, "cpu_flags", lambda: flags)

    return has


def names(**options):
    (selection,) = select_engines(Options(**options))
    return [backend.name for backend in selection.backends], selection.reason


def test_onnxruntime_multiplies_integers_where_openvino_does_not(processor):
    processor(AVX2)
    taken, reason = names(precision="int8")
    assert taken == ["onnxruntime", "openvino"]
    assert reason.startswith("onnxruntime (cpu): the processor has no VNNI")
    assert "openvino:" not in reason  # It could have run.


@pytest.mark.parametrize("flags", [*({"avx2", flag} for flag in sorted(INT8_PRODUCTS)), {"asimddp"}, set()])
def test_openvino_elsewhere(processor, flags):
    processor(frozenset(flags))
    assert names(precision="int8")[0] == ["openvino"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_openvino_in_other_precisions(processor, precision):
    processor(AVX2)
    assert names(precision=precision)[0] == ["openvino"]


def test_a_name_stands_for_itself(processor):
    processor(AVX2)
    assert names(precision="int8", engine="openvino")[0] == ["openvino"]


def test_openvino_where_onnxruntime_cannot_run(processor, monkeypatch):
    processor(AVX2)
    monkeypatch.setattr(ONNXRuntimeBackend, "unavailable_reason", lambda self: "it is broken")
    assert names(precision="int8")[0] == ["openvino"]


def test_what_onnxruntime_refuses_is_openvinos(processor, monkeypatch):
    processor(AVX2)
    original = ONNXRuntimeBackend.refusal

    def refusal(self, op, inputs, outputs):
        return "not today" if op == "Relu" else original(self, op, inputs, outputs)

    monkeypatch.setattr(ONNXRuntimeBackend, "refusal", refusal)
    settings = tf_opt.QuantizationSettings(minimum_weight_elements=1)
    optimizer = tf_opt.Tf2TrtOpt(
        precision="int8", quantization=settings, adopt="always", minimum_segment_size=1, cache=False
    )
    optimized = optimizer.optimize_graph_def(mlp(), ["y:0"], [feed()] * 4)
    assert sorted({node.attr["runtime"].s.decode() for node in engine_nodes(optimized)}) == ["onnxruntime", "openvino"]
