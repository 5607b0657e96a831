"""Tells whether two optimizations have the same result: a digest of everything that the result depends on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef

import tf_opt.passes
from tf_opt.environment import cpu_flags, describe_environment
from tf_opt.feeds import NormalizedFeed
from tf_opt.options import Options
from tf_opt.weights import WeightStore

_IRRELEVANT_OPTIONS = frozenset(("cache", "cache_dir", "dump_dir", "progress"))
"""They change where things are written and what is shown, not the result."""

_ENVIRONMENT_PREFIXES = ("DNNL_", "KMP_", "ONEDNN_", "OPENVINO_", "OV_")
_ENVIRONMENT_NAMES = frozenset(
    """
    CUDA_VISIBLE_DEVICES NVIDIA_TF32_OVERRIDE OMP_NUM_THREADS TF_ENABLE_ONEDNN_OPTS TF_NUM_INTEROP_THREADS
    TF_NUM_INTRAOP_THREADS TF_OPT_ON_ENGINE_FAILURE TF_XLA_FLAGS
    """.split()
)
"""Environment variables that decide which kernels run, and on how many threads."""

_MACHINE_FILES = ("/sys/fs/cgroup/cpu.max", "/proc/driver/nvidia/version")
"""What else the speed depends on: a container's share of the processors, the driver of a GPU."""

_SOURCE_SUFFIXES = frozenset((".py", ".cc", ".h"))


class _NotComparableError(Exception):
    """A value of which one cannot tell whether another is equal to it, such as a function."""


def cache_key(
    light: GraphDef,
    weights: WeightStore,
    *,
    outputs: Sequence[str],
    feeds: Sequence[NormalizedFeed],
    calibration: Sequence[NormalizedFeed],
    options: Options,
    opset: int,
    engine: str,
) -> str | None:
    """Returns the key of an optimization, or None where no later one can be known to be the same.

    That is so where an option is a function: `node_filter`, or the metric of a tolerance.

    Args:
        light: The given graph, light, before any pass.
        weights: Its constants. All of their bytes are read, in several threads.
        outputs: Tensor names to fetch.
        feeds: What engines are measured on.
        calibration: What "int8" is calibrated with.
        options: The options, resolved.
        opset: ONNX opset of the exported segments.
        engine: Identity of the backends.
    """
    try:
        stated = {
            field.name: _comparable(getattr(options, field.name))
            for field in dataclasses.fields(options)
            if field.name not in _IRRELEVANT_OPTIONS
        }
    except _NotComparableError:
        return None
    parts = {
        "graph": hashlib.sha256(light.SerializeToString(deterministic=True)).hexdigest(),
        "weights": digest_of_weights(weights),
        "outputs": list(outputs),
        "feeds": [_digest_of_feed(feed) for feed in feeds],
        # The same list is what calibrates where the user gives no other.
        "calibration": "feeds" if calibration is feeds else [_digest_of_feed(feed) for feed in calibration],
        "options": stated,
        "opset": opset,
        "engine": engine,
        "machine": machine(),
        "sources": digest_of_sources(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:40]


def digest_of_weights(weights: WeightStore, names: Collection[str] | None = None) -> str:
    """Returns a digest of the names and the bytes of constants.

    Args:
        weights: The constants.
        names: Some of them; None for all.
    """

    def digest(name: str) -> bytes:
        # May be a copy: threads hold one weight each at a time.
        return hashlib.sha256(weights.array(name).reshape(-1).view(np.uint8).data).digest()

    chosen = sorted(weights if names is None else names)
    total = hashlib.sha256()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for name, found in zip(chosen, pool.map(digest, chosen), strict=True):
            total.update(f"{name}\0".encode())
            total.update(found)
    return total.hexdigest()


def machine() -> dict[str, Any]:
    """Returns what the speed and the results of an engine depend on besides the graph: versions and the device."""
    files = [*map(Path, _MACHINE_FILES), *sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    variables = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT_NAMES or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    return {
        "environment": describe_environment(),
        "architecture": platform.machine(),
        "instruction_sets": sorted(cpu_flags()),
        "files": {str(path): _text(path) for path in files},
        "variables": variables,
        "tf_opt": tf_opt.__version__,
    }


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # Most machines have only some of these files.
        return ""


@cache
def digest_of_sources() -> str:
    """Returns a digest of tf_opt's own sources: in a checkout they change without the version."""
    total = hashlib.sha256()
    for package in (tf_opt, tf_opt.passes):
        folder = Path(next(iter(package.__path__)))
        for path in sorted(folder.rglob("*")):
            if path.suffix in _SOURCE_SUFFIXES:
                total.update(f"{path.relative_to(folder)}\0".encode())
                total.update(path.read_bytes())
    return total.hexdigest()


def _digest_of_feed(feed: NormalizedFeed) -> str:
    total = hashlib.sha256()
    for name, array in sorted(feed.items()):
        total.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        # Arrays of strings hold references, whose bytes say nothing.
        total.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    return total.hexdigest()


def _comparable(value: Any) -> Any:
    """Returns plain data that is equal for equal options."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Enum):
        return _comparable(value.value)
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _comparable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _comparable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_comparable, value))
    if isinstance(value, Sequence):
        return [_comparable(item) for item in value]
    raise _NotComparableError
