"""Element types: what TensorRT calls them, and how values cross where an engine's type is not TensorFlow's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tf_opt.errors import EngineRunError
from tf_opt.ops.python_runtime import UnsupportedShapeError

if TYPE_CHECKING:
    import tensorrt as trt

    from tf_opt.ops.python_runtime import Array

_NUMPY_NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""NumPy's names of TensorRT's types that a tensor at the border can have. By name, as not every version has all."""

_LARGER = {("int32", "int64"), ("int8", "int32"), ("int8", "int64"), ("uint8", "int32"), ("uint8", "int64")}
"""(from, to) pairs that hold every value."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Returns the dtype of a name such as "float32"; "bfloat16" is that of ml_dtypes, as everywhere in TensorFlow."""
    scalar: Any = name
    if name == "bfloat16":
        import ml_dtypes  # Comes with TensorFlow; not needed for other types.

        scalar = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype


def dtype_of(data_type: trt.DataType) -> np.dtype[Any]:
    """Returns NumPy's dtype of a TensorRT type; raises EngineRunError where TensorFlow has none for it."""
    name = _NUMPY_NAMES.get(data_type.name)
    if name is None:
        raise EngineRunError(f"A tensor of the engine has the type {data_type.name}, which TensorFlow does not have.")
    return numpy_dtype(name)


def check_output_border(name: str, engine: np.dtype[Any], tensorflow: np.dtype[Any]) -> None:
    """Raises EngineRunError where an engine's output does not hold what TensorFlow expects of it."""
    if engine != tensorflow and (engine.name, tensorflow.name) not in _LARGER:
        raise EngineRunError(
            f"TensorRT computes {name} as {engine.name}, TensorFlow expects {tensorflow.name}, and not every value "
            "converts. Deny the op that computes it, or use another engine."
        )


def convert_input(name: str, array: Array, dtype: npt.DTypeLike) -> Array:
    """Returns an input in the engine's type.

    Raises:
        UnsupportedShapeError: A value does not fit, so that TensorFlow's own nodes have to run.
        EngineRunError: The types are of different kinds.
    """
    wanted = np.dtype(dtype)
    if array.dtype == wanted:
        return array
    if array.dtype.kind not in "iu" or wanted.kind not in "iu":
        raise EngineRunError(f"The engine takes {name} as {wanted.name}, but it is fed {array.dtype.name}.")
    limits = np.iinfo(wanted)
    if array.size and (int(array.min()) < int(limits.min) or int(array.max()) > int(limits.max)):
        raise UnsupportedShapeError(
            f"{name} has values from {array.min()} to {array.max()}; this engine takes it as {wanted.name}, from "
            f"{limits.min} to {limits.max}"
        )
    return array.astype(wanted)
