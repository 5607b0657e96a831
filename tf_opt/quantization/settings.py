"""How a segment is quantized: one frozen dataclass, checked once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

from tf_opt.errors import InvalidOptionError, did_you_mean
from tf_opt.onnx_target import Int8Form

Method: TypeAlias = Literal["search", "nncf"]

QUANTIZABLE_OPS = ("MatMul", "Gemm", "Conv")
"""Operators that are quantized: matrix products and convolutions."""


@dataclass(frozen=True, kw_only=True)
class QuantizationSettings:
    """How int8 quantization works. Impossible values raise InvalidOptionError when the object is made."""

    target: Int8Form = "openvino"
    # Which engine reads the result. CPU engines want unsigned, asymmetric activations; TensorRT takes only signed
    # symmetric ones.

    method: Method = "search"
    # "search": ranges and smoothing of each matrix product by its own error on held-out rows; of a convolution, the
    # whole range. "nncf": those that nncf's post-training quantization finds, with one smoothing exponent for all.

    denied_ops: Sequence[str] = ()
    # ONNX operators that stay in floating point, of MatMul, Gemm and Conv; all others do anyway.

    denied_nodes: Sequence[str] = ()
    # Nodes that stay in floating point, by name; fnmatch patterns such as "*/pooler/*".

    smoothing: Sequence[float] = (0.35, 0.5, 0.65, 0.8)
    # How much of the activations' differences between channels moves into the weights (0: none, 1: all). The one with
    # the smallest error is taken for each tensor, none at all included; empty: none. nncf gets the largest.

    weight_bits: int | None = None
    # Bits that weights use of their int8. None: 7 on CPUs, where the multiply-add of processors without VNNI saturates
    # at 8 and a stored graph may come to any of them; 8 for TensorRT.

    correct_bias: bool = True
    # Takes the mean error of each output channel out of the bias that follows.

    minimum_weight_elements: int = 4096
    # Smaller matrix products stay in floating point: quantizing the input costs more than they gain. Convolutions have
    # no minimum: they use each element of a weight at many places.

    maximum_samples: int = 64
    # At most so many feeds are used.

    maximum_rows: int = 2048
    # No more feeds are used once they hold so many rows (tokens). On MiniLM nothing is gained beyond 500. A sample of a
    # model with convolutions counts as 32 rows at most, as what it holds at its many places is alike.

    def __post_init__(self) -> None:
        for name, allowed in (("target", get_args(Int8Form)), ("method", get_args(Method))):
            value = getattr(self, name)
            if value not in allowed:
                raise InvalidOptionError(
                    f"{name} is {value!r}; expected one of {', '.join(allowed)}.{did_you_mean(str(value), allowed)}"
                )
        for name in ("denied_ops", "denied_nodes"):
            self._check_names(name)
        for op in self.denied_ops:
            if op not in QUANTIZABLE_OPS:
                raise InvalidOptionError(
                    f"denied_ops has {op!r}; only {', '.join(QUANTIZABLE_OPS)} are ever quantized."
                    f"{did_you_mean(op, QUANTIZABLE_OPS)}"
                )
        if isinstance(self.smoothing, str | Iterator) or not isinstance(self.smoothing, Iterable):
            raise InvalidOptionError(f"smoothing is {self.smoothing!r}; expected a list of numbers from 0 to 1.")
        for exponent in self.smoothing:
            if isinstance(exponent, bool) or not isinstance(exponent, int | float) or not 0 <= exponent <= 1:
                raise InvalidOptionError(f"smoothing has {exponent!r}; expected numbers from 0 to 1.")
        if self.weight_bits not in (None, 7, 8) or isinstance(self.weight_bits, bool):
            raise InvalidOptionError(f"weight_bits is {self.weight_bits!r}; expected 7, 8 or None.")
        if not isinstance(self.correct_bias, bool):
            raise InvalidOptionError(f"correct_bias is {self.correct_bias!r}; expected True or False.")
        for name in ("minimum_weight_elements", "maximum_samples", "maximum_rows"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidOptionError(f"{name} is {value!r}; expected an integer of at least 1.")

    @property
    def symmetric_activations(self) -> bool:
        """Whether activations are signed with zero point 0, instead of unsigned with any zero point."""
        return self.target == "tensorrt"

    @property
    def quantizes_results(self) -> bool:
        """Whether convolutions need a quantized result: ONNX Runtime's int8 kernel writes nothing else."""
        return self.target == "onnxruntime"

    @property
    def samples_first(self) -> bool:
        """Whether a convolution of single elements with strides reads what a pooling has sampled, and has none itself.

        OpenVINO makes that of it anyway, but between a quantized tensor and its scale, where it is int8 no more.
        """
        return self.target == "openvino"

    @property
    def weight_levels(self) -> int:
        """Largest absolute value of a quantized weight: 63 or 127."""
        bits = self.weight_bits or (8 if self.target == "tensorrt" else 7)
        return int(math.pow(2, bits - 1)) - 1

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields as plain values, for keys and reports."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for name, value in plain.items()
        }

    def _check_names(self, name: str) -> None:
        value = getattr(self, name)
        # An iterator would be used up by this very check.
        is_list = isinstance(value, Iterable) and not isinstance(value, str | Iterator)
        if not is_list or not all(isinstance(each, str) for each in value):
            raise InvalidOptionError(f"{name} is {value!r}; expected a list of strings.")
