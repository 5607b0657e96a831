"""What an engine wants of the ONNX model that it is given: the operator set that it reads, and which forms it fuses.

The passes bring every model into one form; each engine states here which part of that form it has kernels for, and
which part has to be written out in smaller operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from tf_opt.errors import InvalidOptionError

AttentionForm: TypeAlias = Literal["matmul", "onnx", "microsoft"]
"""How an attention block is written: as MatMul, Softmax, MatMul; as ONNX's Attention; as ONNX Runtime's own operator
in the domain com.microsoft."""

Int8Form: TypeAlias = Literal["openvino", "onnxruntime", "tensorrt"]
"""Whose int8 kernels a quantized model is written for: with unsigned activations, with quantized results of
convolutions besides, or with signed symmetric activations."""

OLDEST_OPSET = 17
"""The exporter's opset, in which LayerNormalization appeared."""

NEWEST_OPSET = 23
"""The newest opset that the passes write; ONNX's Attention appeared in it."""

GELU_OPSET = 20
"""The opset in which Gelu appeared."""

ATTENTION_OPSET = 23
"""The opset in which Attention appeared."""


@dataclass(frozen=True, kw_only=True)
class OnnxTarget:
    """The forms that an engine's reader of ONNX takes.

    Attributes:
        name: The engine, as messages name it.
        opset: Version of the default operator set that the finished model is written in.
        gelu: Whether Gelu stays one operator; otherwise it is written with Erf or Tanh.
        layer_normalization: Whether LayerNormalization stays one operator; otherwise it is written with ReduceMean.
        attention: How attention blocks are written.
        merge_qkv: Whether the matrix products of query, key and value that read one tensor become one. It saves calls
            where each one is small; the merged weight is a concatenation that the engine folds when it loads.
        infer_shapes: Whether the shapes of inner tensors are written into the model.
        int8: Whose int8 kernels run quantized models.
    """

    name: str
    opset: int = OLDEST_OPSET
    gelu: bool = False
    layer_normalization: bool = True
    attention: AttentionForm = "matmul"
    merge_qkv: bool = False
    infer_shapes: bool = False
    int8: Int8Form = "openvino"

    def __post_init__(self) -> None:
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise InvalidOptionError(
                f"The ONNX target {self.name!r} asks for opset {self.opset}; expected {OLDEST_OPSET} to {NEWEST_OPSET}."
            )
        if self.gelu and self.opset < GELU_OPSET:
            raise InvalidOptionError(
                f"The ONNX target {self.name!r} wants Gelu at opset {self.opset}, but it appeared in {GELU_OPSET}. "
                "Raise the opset or set gelu=False."
            )
        if self.attention == "onnx" and self.opset < ATTENTION_OPSET:
            raise InvalidOptionError(
                f"The ONNX target {self.name!r} wants Attention at opset {self.opset}, but it appeared in "
                f"{ATTENTION_OPSET}. Raise the opset or choose another form of attention."
            )
        if self.attention not in ("matmul", "onnx", "microsoft"):
            raise InvalidOptionError(
                f"The ONNX target {self.name!r} asks for the attention form {self.attention!r}; expected 'matmul', "
                "'onnx' or 'microsoft'."
            )
        if self.int8 not in get_args(Int8Form):
            raise InvalidOptionError(
                f"The ONNX target {self.name!r} asks for the int8 form {self.int8!r}; expected one of "
                f"{', '.join(get_args(Int8Form))}."
            )
