from __future__ import annotations

import numpy as np
import pytest

from tf_opt.quantization import recipe as module
from tf_opt.quantization.recipe import LayerRecipe, Recipe


def example():
    layers = [
        LayerRecipe(
            position=3 + index,
            name=f"layer {index} é",
            scale=0.1 + index,
            zero_point=index,
            smoothing=np.arange(4, dtype=np.float32) if index else None,
            exponent=0.5 if index else None,
            weight_scales=np.arange(5, dtype=np.float32) + index,
            bias_shift=None if index else np.ones(5, np.float32),
            error=0.01,
            result_scale=0.5 if index else None,
            result_zero_point=3 * index,
        )
        for index in range(2)
    ]
    return Recipe(layers=tuple(layers), symmetric=False, weight_levels=63, notes=("few rows",))


def test_bytes_and_back():
    read = Recipe.from_bytes(example().to_bytes())
    assert (read.symmetric, read.weight_levels, read.notes) == (False, 63, ("few rows",))
    for stored, original in zip(read.layers, example().layers, strict=True):
        for name in (
            "position",
            "name",
            "scale",
            "zero_point",
            "exponent",
            "error",
            "result_scale",
            "result_zero_point",
        ):
            assert getattr(stored, name) == getattr(original, name)
        assert stored.result_zero_point == original.result_zero_point
        for name in ("smoothing", "weight_scales", "bias_shift"):
            np.testing.assert_array_equal(getattr(stored, name), getattr(original, name))


@pytest.mark.parametrize("position", [0, 30, 200, -1])
def test_a_changed_byte_is_found(position):
    damaged = bytearray(example().to_bytes())
    damaged[position] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        Recipe.from_bytes(bytes(damaged))


@pytest.mark.parametrize("length", [0, 10, 40, 300])
def test_a_cut_file_is_found(length):
    with pytest.raises(ValueError, match="damaged"):
        Recipe.from_bytes(example().to_bytes()[:length])


def test_another_version_is_not_read(monkeypatch):
    stored = example().to_bytes()
    monkeypatch.setattr(module, "FORMAT_VERSION", 99)
    with pytest.raises(ValueError, match="version 3, not 99"):
        Recipe.from_bytes(stored)


def test_layers_leave_by_name():
    assert [layer.position for layer in example().without({"layer 0 é"}).layers] == [4]
    assert [layer.name for layer in example().renamed(["a", "b"]).layers] == ["a", "b"]
