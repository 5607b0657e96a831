"""What TensorRT does not take, said before anything is exported."""

from __future__ import annotations

from collections.abc import Sequence

from tf_opt.engines.tensorrt.versions import STRONG_TYPES
from tf_opt.tensor_info import TensorInfo

MAXIMUM_RANK = 8
"""Of a TensorRT tensor."""

_COMPUTED = frozenset({"float16", "float32", "int32", "int64", "bool"})
"""Element types that every version computes in."""

_WHY_NOT = {
    "float64": "which TensorRT would compute as float32",
    "bfloat16": "which TensorRT computes in from version 10 on",
    "uint8": "which TensorRT only converts to other types",
    "int8": "which TensorRT takes only from its own quantization",
}

_CONVERTING_OPS = frozenset({"Cast", "Identity"})
"""Ops that may read or make uint8."""

_UNSUPPORTED_OPS = {
    "Unique": "values that decide how many there are",
    "UniqueV2": "values that decide how many there are",
    "UniqueWithCounts": "values that decide how many there are",
    "UniqueWithCountsV2": "values that decide how many there are",
    "BitwiseAnd": "bit operations",
    "BitwiseOr": "bit operations",
    "BitwiseXor": "bit operations",
    "Invert": "bit operations",
    "LeftShift": "bit operations",
    "RightShift": "bit operations",
    "Bitcast": "bit operations",
    "QuantizedMatMul": "TensorFlow's own quantization",
    "QuantizeV2": "TensorFlow's own quantization",
    "Dequantize": "TensorFlow's own quantization",
    "Multinomial": "random choices",
    "RandomUniform": "random numbers that repeat with TensorFlow's seed",
    "RandomUniformInt": "random numbers that repeat with TensorFlow's seed",
    "RandomStandardNormal": "random numbers that repeat with TensorFlow's seed",
    "FFT": "Fourier transforms",
    "FFT2D": "Fourier transforms",
    "RFFT": "Fourier transforms",
    "RFFT2D": "Fourier transforms",
    "IFFT": "Fourier transforms",
    "IRFFT": "Fourier transforms",
    "IRFFT2D": "Fourier transforms",
    "MaxPoolWithArgmax": "the places of maxima",
    "MatrixDeterminant": "determinants",
}
"""TensorFlow ops whose ONNX form TensorRT does not take, and what they are to it."""

_PREFIXES = {"TensorList": "sequences", "TensorArray": "sequences", "String": "strings", "Optional": "optional values"}

_INT64_ARITHMETIC = frozenset(
    "AddV2 Add AddN Sub Mul FloorDiv FloorMod Pow Square Sum Prod Cumsum Neg Abs Range Max Min Maximum Minimum".split()
)
"""Ops whose int64 results may leave int32, in which versions before 10 compute them."""


def node_refusal(
    version: tuple[int, int], op: str, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
) -> str | None:
    """Returns why TensorRT does not take a TensorFlow node, or None where it does.

    Args:
        version: TensorRT's major and minor version.
        op: The node's op.
        inputs: Its data inputs.
        outputs: Its outputs.
    """
    what = _UNSUPPORTED_OPS.get(op) or next((text for prefix, text in _PREFIXES.items() if op.startswith(prefix)), None)
    if what is not None:
        return f"TensorRT does not do {what} ({op})"
    for tensor in (*inputs, *outputs):
        reason = _dtype_refusal(version, op, tensor)
        if reason is not None:
            return reason
        if tensor.shape is not None and len(tensor.shape) > MAXIMUM_RANK:
            return f"{tensor.name} has {len(tensor.shape)} dimensions; TensorRT takes at most {MAXIMUM_RANK}"
    # Outputs that nothing reads often have no known rank; one that is read is an input of the next node.
    for tensor in inputs:
        if tensor.shape is None:
            return f"{tensor.name} has an unknown rank, which TensorRT does not run"
    return None


def precision_refusal(version: tuple[int, int], capability: tuple[int, int], precision: str) -> str | None:
    """Returns why a GPU with this TensorRT does not compute in a precision any faster, or None where it does.

    Args:
        version: TensorRT's major and minor version.
        capability: The GPU's compute capability.
        precision: "fp16", "bf16" or "int8".
    """
    if precision == "bf16" and version < STRONG_TYPES:
        return f"TensorRT {version[0]}.{version[1]} does not compute in bf16; version 10 and later do"
    # fp16 runs from 5.3 on, but on most GPUs before tensor cores (7.0) slower than fp32.
    needed = {"fp16": (7, 0), "bf16": (8, 0), "int8": (6, 1)}[precision]
    if capability < needed:
        return (
            f"the GPU has compute capability {capability[0]}.{capability[1]}; fast {precision} needs "
            f"{needed[0]}.{needed[1]} or later"
        )
    return None


def _dtype_refusal(version: tuple[int, int], op: str, tensor: TensorInfo) -> str | None:
    dtype = tensor.dtype
    if dtype == "int64" and version < STRONG_TYPES and op in _INT64_ARITHMETIC:
        return f"{tensor.name} has dtype int64, which TensorRT {version[0]}.{version[1]} computes as int32"
    computed = dtype in _COMPUTED or (dtype == "bfloat16" and version >= STRONG_TYPES)
    if computed or (dtype == "uint8" and op in _CONVERTING_OPS and version >= STRONG_TYPES):
        return None
    return f"{tensor.name} has dtype {dtype}, {_WHY_NOT.get(dtype, 'which TensorRT does not have')}"
