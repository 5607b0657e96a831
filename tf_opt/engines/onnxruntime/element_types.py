"""Element types as NumPy, ONNX's numbers and ONNX Runtime's texts name them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

_ONNX_NUMBERS = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
    "bfloat16": 16,
}
"""TensorProto.DataType, by the name that NumPy and TensorFlow share."""

_NAMES = {"tensor(float)": "float32", "tensor(double)": "float64"}
"""The texts that ONNX Runtime does not write as "tensor(<name>)"."""

EXCHANGED = frozenset(_ONNX_NUMBERS)
"""Names of the element types that cross between TensorFlow and ONNX Runtime."""


@functools.cache
def onnx_type(dtype: np.dtype[Any]) -> int:
    """Returns ONNX's number of an element type.

    Raises:
        TypeError: ONNX Runtime has no such tensors.
    """
    number = _ONNX_NUMBERS.get(dtype.name)
    if number is None:
        raise TypeError(f"ONNX Runtime takes no tensors of {dtype}; expected one of {', '.join(_ONNX_NUMBERS)}.")
    return number


def numpy_type(text: str) -> np.dtype[Any]:
    """Returns NumPy's element type of what ONNX Runtime calls "tensor(float)" and the like."""
    name: Any = _NAMES.get(text, text.removeprefix("tensor(").removesuffix(")"))
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype
