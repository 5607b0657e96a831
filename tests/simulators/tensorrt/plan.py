"""The simulator's serialized engines and timing caches: containers that only the simulator reads."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from tests.simulators.tensorrt.bindings_base import Version

_MAGIC = b"SIMULATED TENSORRT PLAN\0"
_LENGTHS = struct.Struct("<QQ")

Bounds = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Minimum, optimum, maximum."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an engine is made of.

    Attributes:
        version: Full version of the simulated TensorRT.
        gpu: Name of the GPU.
        compute_capability: Its compute capability.
        compatibility: Name of the HardwareCompatibilityLevel.
        flags: Names of the builder flags.
        profiles: Per optimization profile, the bounds of each input's shape.
        values: Per optimization profile, the bounds of each shape input's values.
        model: The network; in a stripped plan the big weights are empty.
        stripped: Names of the weights that are left out.
    """

    version: str
    gpu: str
    compute_capability: tuple[int, int]
    compatibility: str = "NONE"
    flags: tuple[str, ...] = ()
    profiles: tuple[dict[str, Bounds], ...] = ()
    values: tuple[dict[str, Bounds], ...] = ()
    model: onnx.ModelProto = field(repr=False)
    stripped: tuple[str, ...] = ()

    @property
    def refittable(self) -> bool:
        return any(flag.startswith("REFIT") or flag == "STRIP_PLAN" for flag in self.flags)

    def pack(self) -> bytes:
        """Returns the serialized form."""
        header = json.dumps(
            {name: value for name, value in vars(self).items() if name != "model"}, sort_keys=True
        ).encode()
        model = self.model.SerializeToString(deterministic=True)
        body = _MAGIC + _LENGTHS.pack(len(header), len(model)) + header + model
        return body + hashlib.sha256(body).digest()


def unpack(data: bytes) -> Plan | str:
    """Returns the plan, or what is wrong with the bytes."""
    start = len(_MAGIC) + _LENGTHS.size
    if len(data) < start + 32 or not data.startswith(_MAGIC):
        return "the magic tag does not match: this is no serialized engine"
    header_length, model_length = _LENGTHS.unpack_from(data, len(_MAGIC))
    if len(data) != start + header_length + model_length + 32:
        return f"the serialized engine has {len(data)} bytes where its header demands another number"
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        return "the checksum of the serialized engine does not match"
    fields: dict[str, Any] = json.loads(data[start : start + header_length])
    for name in ("profiles", "values"):
        fields[name] = tuple(
            {key: tuple(tuple(bound) for bound in bounds) for key, bounds in profile.items()}
            for profile in fields[name]
        )
    for name in ("flags", "stripped", "compute_capability"):
        fields[name] = tuple(fields[name])
    model = onnx.ModelProto.FromString(data[start + header_length : -32])
    return Plan(**fields, model=model)


def foreign(plan: Plan, version: str, gpu: str, compute_capability: tuple[int, int]) -> str | None:
    """Returns why a plan cannot run here, None where it can."""
    same_major = plan.version.split(".")[0] == version.split(".")[0]
    if plan.version != version and not ("VERSION_COMPATIBLE" in plan.flags and same_major):
        return f"the engine was built by version {plan.version}, this is version {version}"
    capability = tuple(plan.compute_capability)
    fits = {
        "NONE": plan.gpu == gpu and capability == compute_capability,
        "SAME_COMPUTE_CAPABILITY": capability == compute_capability,
        "AMPERE_PLUS": compute_capability >= (8, 0),
    }[plan.compatibility]
    if not fits:
        return f"the engine was built for {plan.gpu} of compute capability {capability}, this is {gpu}"
    return None


def strip(plan: Plan) -> Plan:
    """Returns the plan without its weights, whose shapes and types stay."""
    model = onnx.ModelProto()
    model.CopyFrom(plan.model)
    names = []
    for initializer in model.graph.initializer:
        # Small integers are axes and shapes, which are not refittable.
        if initializer.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16):
            names.append(initializer.name)
            empty = onnx.TensorProto(
                name=initializer.name, data_type=initializer.data_type, dims=initializer.dims, raw_data=b""
            )
            initializer.CopyFrom(empty)
    return replace(plan, model=model, stripped=tuple(names))


def pack_timing_cache(version: Version, gpu: str, keys: list[str]) -> bytes:
    """Returns a serialized timing cache."""
    text = json.dumps({"version": list(version), "gpu": gpu, "keys": sorted(keys)})
    return b"SIMULATED TIMING CACHE\0" + text.encode()


def unpack_timing_cache(data: bytes) -> tuple[Version, str, list[str]] | None:
    """Returns version, GPU and entries of a timing cache, None where the bytes are none."""
    magic, _, text = data.partition(b"\0")
    if magic != b"SIMULATED TIMING CACHE":
        return None
    try:
        fields = json.loads(text)
        major, minor = fields["version"]
        return (major, minor), fields["gpu"], list(fields["keys"])
    except (KeyError, TypeError, ValueError):
        return None
