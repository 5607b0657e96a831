from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from tests.quantization.segments import block, feeds_of, matrix, run
from tf_opt.quantization import QuantizationSettings, quantize_segment

FEEDS = feeds_of(block())


def quantize(folder, model=None, feeds=FEEDS, **settings):
    return quantize_segment(model or block(), feeds, QuantizationSettings(**settings), cache_dir=folder)


def test_the_second_run_reads_what_the_first_found(tmp_path):
    first, second = quantize(tmp_path), quantize(tmp_path)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert len(list(tmp_path.iterdir())) == 1
    for expected, actual in zip(run(first.model, FEEDS[0]), run(second.model, FEEDS[0]), strict=True):
        np.testing.assert_array_equal(actual, expected)
    assert [entry.error for entry in second.recipe.layers] == [entry.error for entry in first.recipe.layers]


def test_notes_are_kept_too(tmp_path):
    few = feeds_of(block(), count=1, rows=3)
    assert quantize(tmp_path, feeds=few).notes == quantize(tmp_path, feeds=few).notes != ()


def test_names_do_not_matter(tmp_path):
    quantize(tmp_path)
    renamed = block()
    for index, node in enumerate(renamed.graph):
        node.name = f"other_{index}"
        for value in node.outputs:
            if not value.is_graph_output():
                value.name = f"value_{index}"
    result = quantize(tmp_path, renamed)
    assert result.from_cache
    assert result.quantized_layers == ("other_1", "other_3", "other_6")


def changed_weight(model):
    weight = matrix(2)
    weight[5, 5] += 1e-6
    model.graph.initializers["w_q"].const_value = ir.tensor(weight, name="w_q")


def changed_attribute(model):
    model.graph.node("LayerNormalization_0").attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def changed_wiring(model):
    node = model.graph.node("Mul_4")
    node.replace_input_with(1, node.inputs[0])


def changed_op(model):
    model.graph.node("Tanh_5").op_type = "Sigmoid"


@pytest.mark.parametrize("change", [changed_weight, changed_attribute, changed_wiring, changed_op])
def test_another_graph_is_calibrated_anew(tmp_path, change):
    quantize(tmp_path)
    model = block()
    change(model)
    assert not quantize(tmp_path, model).from_cache


@pytest.mark.parametrize(
    "settings",
    [
        {"target": "tensorrt"},
        {"smoothing": (0.5,)},
        {"weight_bits": 8},
        {"correct_bias": False},
        {"denied_nodes": ["MatMul_1"]},
    ],
)
def test_other_settings_are_calibrated_anew(tmp_path, settings):
    quantize(tmp_path)
    assert not quantize(tmp_path, **settings).from_cache
    assert quantize(tmp_path, **settings).from_cache


def test_other_feeds_are_calibrated_anew(tmp_path):
    quantize(tmp_path)
    assert not quantize(tmp_path, feeds=FEEDS[:-1]).from_cache
    assert not quantize(tmp_path, feeds=feeds_of(block(), seed=1)).from_cache


def test_settings_that_choose_the_same_layers_share_an_entry(tmp_path):
    quantize(tmp_path)
    assert quantize(tmp_path, denied_nodes=["nothing"], minimum_weight_elements=100).from_cache


@pytest.mark.parametrize("damage", [lambda content: content[:-20], lambda content: b"", lambda content: b"x" * 500])
def test_a_damaged_entry_is_made_anew(tmp_path, caplog, damage):
    quantize(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert not quantize(tmp_path).from_cache
    assert "is ignored and made anew" in caplog.text
    assert quantize(tmp_path).from_cache


def test_a_folder_that_cannot_be_written_costs_the_entry_only(tmp_path, caplog):
    file = tmp_path / "file"
    file.write_text("no folder")
    assert not quantize(file / "cache").from_cache
    assert "could not be kept" in caplog.text
