"""Names and numbers of the enums, per version.

`tests/simulators/test_conformance.py` holds them to the real bindings.
"""

from __future__ import annotations

from tests.simulators.tensorrt.bindings_base import Enumeration, Version, make_enum


def _numbered(names: str) -> dict[str, int]:
    return {name: number for number, name in enumerate(names.split())}


_DATA_TYPES_10_0 = "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4"

_BUILDER_FLAGS_10_0 = (
    "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE "
    "OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS DIRECT_IO REJECT_EMPTY_ALGORITHMS VERSION_COMPATIBLE "
    "EXCLUDE_LEAN_RUNTIME FP8 ERROR_ON_TIMING_CACHE_MISS BF16 DISABLE_COMPILATION_CACHE STRIP_PLAN REFIT_IDENTICAL "
    "WEIGHT_STREAMING"
)
_BUILDER_FLAGS_10_16 = (
    f"{_BUILDER_FLAGS_10_0} INT4 REFIT_INDIVIDUAL STRICT_NANS MONITOR_MEMORY FP4 EDITABLE_TIMING_CACHE "
    "DISTRIBUTIVE_INDEPENDENCE"
)
# 11 took the weak types' flags out and closed most gaps, but not all.
_BUILDER_FLAGS_11 = {
    "DEBUG": 2,
    "GPU_FALLBACK": 3,
    "REFIT": 4,
    "DISABLE_TIMING_CACHE": 5,
    "TF32": 6,
    "SPARSE_WEIGHTS": 7,
    "SAFETY_SCOPE": 8,
    "DIRECT_IO": 11,
    "VERSION_COMPATIBLE": 12,
    "EXCLUDE_LEAN_RUNTIME": 13,
    "ERROR_ON_TIMING_CACHE_MISS": 15,
    "DISABLE_COMPILATION_CACHE": 17,
    "STRIP_PLAN": 18,
    "REFIT_IDENTICAL": 19,
    "WEIGHT_STREAMING": 20,
    "REFIT_INDIVIDUAL": 22,
    "STRICT_NANS": 23,
    "MONITOR_MEMORY": 24,
    "EDITABLE_TIMING_CACHE": 26,
    "DISTRIBUTIVE_INDEPENDENCE": 27,
}

SEVERITIES = _numbered("INTERNAL_ERROR ERROR WARNING INFO VERBOSE")


def enums(version: Version) -> dict[str, type[Enumeration]]:
    """Returns the enums of a version by name."""
    late, eleven = version >= (10, 16), version >= (11, 0)
    builder_flags = _numbered(_BUILDER_FLAGS_10_16 if late else _BUILDER_FLAGS_10_0)
    builder_flags["WEIGHTLESS"] = builder_flags["STRIP_PLAN"]
    creation = ["STRONGLY_TYPED"] if eleven else ["EXPLICIT_BATCH", "STRONGLY_TYPED"]
    if late:
        creation += ["PREFER_JIT_PYTHON_PLUGINS", "PREFER_AOT_PYTHON_PLUGINS"]
    sources = "EDGE_MASK_CONVOLUTIONS JIT_CONVOLUTIONS"
    numbers = {
        "DataType": _numbered(_DATA_TYPES_10_0 + (" FP4 E8M0" if late else "")),
        "BuilderFlag": _BUILDER_FLAGS_11 if eleven else builder_flags,
        "NetworkDefinitionCreationFlag": _numbered(" ".join(creation)),
        "TacticSource": _numbered(sources if eleven else f"CUBLAS CUBLAS_LT CUDNN {sources}"),
        "MemoryPoolType": _numbered(
            "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM TACTIC_SHARED_MEMORY"
        ),
        "HardwareCompatibilityLevel": _numbered("NONE AMPERE_PLUS" + (" SAME_COMPUTE_CAPABILITY" if late else "")),
        "ProfilingVerbosity": _numbered("LAYER_NAMES_ONLY NONE DETAILED"),
        "TensorIOMode": _numbered("NONE INPUT OUTPUT"),
        "TensorLocation": _numbered("DEVICE HOST"),
        "OnnxParserFlag": _numbered(
            "NATIVE_INSTANCENORM ENABLE_UINT8_AND_ASYMMETRIC_QUANTIZATION_DLA REPORT_CAPABILITY_DLA "
            "ENABLE_PLUGIN_OVERRIDE ADJUST_FOR_DLA"
            if late
            else "NATIVE_INSTANCENORM"
        ),
        "ErrorCode": _numbered(
            "SUCCESS INTERNAL_ERROR MEM_ALLOC_FAILED MODEL_DESERIALIZE_FAILED INVALID_VALUE INVALID_GRAPH INVALID_NODE "
            "UNSUPPORTED_GRAPH UNSUPPORTED_NODE UNSUPPORTED_NODE_ATTR UNSUPPORTED_NODE_INPUT UNSUPPORTED_NODE_DATATYPE "
            "UNSUPPORTED_NODE_DYNAMIC UNSUPPORTED_NODE_SHAPE REFIT_FAILED"
        ),
        "ExecutionContextAllocationStrategy": _numbered("STATIC ON_PROFILE_CHANGE USER_MANAGED"),
        "SerializationFlag": _numbered("EXCLUDE_WEIGHTS EXCLUDE_LEAN_RUNTIME" + (" INCLUDE_REFIT" if late else "")),
        "EngineCapability": _numbered("STANDARD SAFETY DLA_STANDALONE"),
    }
    return {name: make_enum(name, members) for name, members in numbers.items()}
