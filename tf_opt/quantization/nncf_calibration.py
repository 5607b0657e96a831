"""Recipes from nncf's post-training quantization.

It takes one smoothing exponent for the whole model. On MiniLM the worst of 200 unseen sentence embeddings had a cosine
to the original of 0.92 to 0.988, depending on the exponent, against 0.995 by the search; BERT-base took 2.6 GB with
smoothing, as nncf copies the model for each of its steps. So this is for comparison, and for those who want nncf's own
ranges. Read is which scale nncf put where; the quantized model is written as for any recipe.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx_ir as ir

from tf_opt.errors import CalibrationError
from tf_opt.quantization.constants import constant_array
from tf_opt.quantization.convolution_search import filter_scales
from tf_opt.quantization.convolutions import Convolution
from tf_opt.quantization.layers import AnyLayer, Layer
from tf_opt.quantization.recipe import LayerRecipe
from tf_opt.quantization.search import grid_of
from tf_opt.quantization.settings import QuantizationSettings

if TYPE_CHECKING:
    import onnx

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = Mapping[str, Array]

_PASS_THROUGH = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Gather", "Identity"})
"""Operators in front of which nncf may put a quantizer instead of behind them; they move values only."""


def nncf_recipe(
    model: ir.Model, layers: Sequence[AnyLayer], feeds: Sequence[Feed], settings: QuantizationSettings
) -> list[LayerRecipe]:
    """Returns how nncf quantizes the layers; one that it leaves alone is missing. Errors are 0: nncf knows none.

    Of convolutions it says no bias: nncf corrects only the convolution's own, and most have theirs behind.

    Args:
        model: The segment; all its constants are copied.
        layers: What may be quantized.
        feeds: Arrays by graph input name.
        settings: Form of the result; the largest smoothing exponent is used.

    Raises:
        CalibrationError: nncf is not installed, or fails.
    """
    try:
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            AdvancedSmoothQuantParameters,
            OverflowFix,
        )
    except ImportError as error:
        raise CalibrationError(
            "method='nncf' needs the package nncf, which is not installed. Run: pip install 'tf_opt[int8]'. The "
            "default, method='search', needs only onnxruntime."
        ) from error
    copy = model.clone()
    nodes = list(copy.graph)
    for position, node in enumerate(nodes):
        node.name = _name(position)
    wanted = {layer.position for layer in layers}
    others = [_name(position) for position in range(len(nodes)) if position not in wanted]
    used_bits = OverflowFix.ENABLE if settings.weight_levels < 127 else OverflowFix.DISABLE
    preset = nncf.QuantizationPreset.PERFORMANCE if settings.symmetric_activations else nncf.QuantizationPreset.MIXED
    alphas = AdvancedSmoothQuantParameters(matmul=max(settings.smoothing, default=-1))
    with _quiet():
        try:
            quantized = nncf.quantize(
                ir.serde.serialize_model(copy),
                nncf.Dataset(list(feeds)),
                preset=preset,
                subset_size=len(feeds),
                fast_bias_correction=True,
                model_type=nncf.ModelType.TRANSFORMER,
                ignored_scope=nncf.IgnoredScope(names=others, validate=False),
                advanced_parameters=AdvancedQuantizationParameters(
                    overflow_fix=used_bits,
                    smooth_quant_alphas=alphas,
                    disable_bias_correction=not settings.correct_bias,
                    # Weights are quantized when they are read; folding them here would hold them twice.
                    backend_params={"compress_weights": False},
                ),
            )
        except Exception as error:  # nncf's exceptions share no base below Exception.
            raise CalibrationError(f"nncf cannot quantize the segment: {error}") from error
    reader = _Reader(quantized, model, settings)
    return [entry for layer in layers if (entry := reader.read(layer)) is not None]


class _Reader:
    """Finds nncf's numbers in the model that it returns."""

    def __init__(self, quantized: onnx.ModelProto, model: ir.Model, settings: QuantizationSettings) -> None:
        self._nodes = {node.name: node for node in quantized.graph.node}
        self._producers = {output: node for node in quantized.graph.node for output in node.output}
        self._tensors = {tensor.name: tensor for tensor in quantized.graph.initializer}
        self._positions = {id(node): position for position, node in enumerate(model.graph)}
        self._own = {_name(position) for position in self._positions.values()}
        self._settings = settings

    def read(self, layer: AnyLayer) -> LayerRecipe | None:
        """Returns how a layer was quantized; None where it was not."""
        node = self._nodes[_name(layer.position)]
        activation = self._dequantize_behind(node.input[0])
        weight = self._producers.get(node.input[1])
        if activation is None or weight is None or weight.op_type != "DequantizeLinear":
            return None
        scale, zero_point = self._grid(activation)
        if isinstance(layer, Convolution):
            smoothing, shift = None, None
            # nncf looks at filters without what they are multiplied by, and gives grouped ones all eight bits.
            scales = filter_scales(layer, scale, self._settings.weight_levels)
        else:
            smoothing, shift = self._smoothing(activation), self._bias_shift(layer)
            scales = np.broadcast_to(self._array(weight.input[1]), (layer.shape[1],))
        return LayerRecipe(
            position=layer.position,
            name=layer.name,
            scale=scale,
            zero_point=zero_point,
            smoothing=smoothing,
            exponent=None if smoothing is None else max(self._settings.smoothing),
            weight_scales=np.ascontiguousarray(scales, np.float32),
            bias_shift=shift,
            error=0.0,
        )

    def _dequantize_behind(self, name: str) -> onnx.NodeProto | None:
        node = self._producers.get(name)
        while node is not None and node.op_type in _PASS_THROUGH:
            node = self._producers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def _grid(self, dequantize: onnx.NodeProto) -> tuple[float, int]:
        """Returns scale and zero point in the form that the settings want."""
        scales, zero_point = self._array(dequantize.input[1]), self._array(dequantize.input[2])
        signed = zero_point.dtype == np.int8
        if scales.ndim:
            # Depthwise convolutions get a grid for each channel, which engines do not take: one that covers all.
            ends = (np.asarray([[-128], [127]] if signed else [[0], [255]]) - zero_point.astype(int)) * scales
            grid = grid_of(float(ends.min()), float(ends.max()), self._settings.symmetric_activations)
            return grid.scale, grid.zero_point
        scale = float(scales)
        if self._settings.symmetric_activations:
            # nncf takes uint8 for what is never negative; int8 reaches the same largest value in half as many steps.
            return (scale, 0) if signed else (scale * 255 / 127, 0)
        return scale, int(zero_point) + (128 if signed else 0)

    def _smoothing(self, dequantize: onnx.NodeProto) -> Array | None:
        quantize = self._producers[dequantize.input[0]]
        multiply = self._producers.get(quantize.input[0])
        if multiply is None or multiply.op_type != "Mul" or multiply.name in self._own:
            return None
        factors = next((self._array(name) for name in multiply.input if name in self._tensors), None)
        return None if factors is None else np.ascontiguousarray(factors.reshape(-1), np.float32)

    def _bias_shift(self, layer: Layer) -> Array | None:
        if layer.bias is None or layer.bias_node is None:
            return None
        index = list(layer.bias_node.inputs).index(layer.bias)
        corrected = self._array(self._nodes[_name(self._positions[id(layer.bias_node)])].input[index])
        shift = np.asarray(corrected.reshape(-1) - constant_array(layer.bias), np.float32)
        return shift if shift.any() else None

    def _array(self, name: str) -> Array:
        import onnx

        return np.asarray(onnx.numpy_helper.to_array(self._tensors[name]))


def _name(position: int) -> str:
    return f"node_{position}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps nncf's log and its progress bars, which go to standard output, off the terminal."""
    logger = logging.getLogger("nncf")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
