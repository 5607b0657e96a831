"""A segment whose engine fails costs as few nodes as possible, and the report says why."""

from __future__ import annotations

import pytest

from tests.small_graphs import engine_nodes, feed, mlp, optimize, two_towers
from tf_opt import errors, segment_models
from tf_opt.engines import openvino as openvino_backend


def test_refused_segment_stays_tensorflow_with_the_whole_reason(monkeypatch):
    def refuse(self, segment, profiles=()):
        raise errors.EngineBuildError(f"no kernel for {segment.name}")

    monkeypatch.setattr(openvino_backend.OpenVINOBackend, "build", refuse)
    graph_def = mlp()
    optimized, report = optimize(graph_def, ["y"], [feed()])
    assert optimized is graph_def
    assert report.segments[0].reason == "no kernel for tf_opt_segment_0"
    with pytest.raises(errors.EngineBuildError, match="no kernel"):
        optimize(graph_def, ["y"], [feed()], strict=True)


def test_engine_that_does_not_load_stays_tensorflow(monkeypatch):
    real = openvino_backend.pack_segment

    def damage(segment, runtime, version):
        blob = bytearray(real(segment, runtime, version))
        if segment.name == "tf_opt_segment_1":
            blob[len(blob) // 2] ^= 0xFF
        return bytes(blob)

    monkeypatch.setattr(openvino_backend, "pack_segment", damage)
    optimized, report = optimize(two_towers(), ["left", "right"], [feed()])
    assert [segment.adopted for segment in report.segments] == [True, False]
    assert "checksum" in report.segments[1].reason
    assert [node.name for node in engine_nodes(optimized)] == ["tf_opt_segment_0"]
    with pytest.raises(errors.EngineBuildError, match="checksum"):
        optimize(two_towers(), ["left", "right"], [feed()], strict=True)


def test_segment_is_cut_around_a_node_that_does_not_convert(monkeypatch):
    real = segment_models.export_segment

    def refuse_relu(graph, *arguments):
        for node in graph.node:
            if node.op == "Relu":
                raise errors.ExportError("Relu is not liked here", nodes=(node.name,))
        return real(graph, *arguments)

    monkeypatch.setattr(segment_models, "export_segment", refuse_relu)
    optimized, report = optimize(mlp(), ["y"], [feed()], minimum_segment_size=2)
    assert [node.op for node in report.refused] == ["Relu"]
    assert "Relu is not liked here" in report.refused[0].reason
    assert len(engine_nodes(optimized)) == 2


def test_one_node_that_fails_without_a_name_does_not_cost_the_segment(monkeypatch):
    real = segment_models.export_segment

    def fail_with_softmax(graph, *arguments):
        if any(node.op == "Softmax" for node in graph.node):
            raise errors.ExportError("something went wrong somewhere")
        return real(graph, *arguments)

    monkeypatch.setattr(segment_models, "export_segment", fail_with_softmax)
    optimized, report = optimize(mlp(), ["y"], [feed()])
    assert [node.op for node in report.refused] == ["Softmax", "Identity"]
    assert "something went wrong somewhere" in report.refused[0].reason
    assert len(engine_nodes(optimized)) == 1
