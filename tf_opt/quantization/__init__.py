"""int8 by post-training quantization of an ONNX segment, calibrated with real feeds."""

from tf_opt.quantization.layer_errors import rank_layers, revert_layers
from tf_opt.quantization.quantize import QuantizationResult, quantize_segment
from tf_opt.quantization.settings import QuantizationSettings

__all__ = ["QuantizationResult", "QuantizationSettings", "quantize_segment", "rank_layers", "revert_layers"]
