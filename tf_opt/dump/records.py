"""What a dump knows of a segment: `<segment>.json`, which the replay script reads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from tf_opt.engines.base import FloatingType
from tf_opt.errors import DumpError
from tf_opt.plain_data import from_plain
from tf_opt.tensor_info import TensorInfo


@dataclass(frozen=True, kw_only=True)
class ProfileRecord:
    """A range of shapes that an engine was built for, by `input_<i>`; see `tf_opt.engines.base.ShapeProfile`."""

    minimum: dict[str, tuple[int, ...]]
    optimum: dict[str, tuple[int, ...]]
    maximum: dict[str, tuple[int, ...]]
    values: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """An engine that was built of a segment, or could not be.

    Attributes:
        name: What the files and `--engine` call it, such as "openvino_fp32".
        engine: The backend.
        precision: What the report calls its precision.
        sixteen_bit: See `SegmentModel.sixteen_bit`.
        model: File of the ONNX model that it was built of.
        weights: Names in `weights.json` of the model's `weight_<i>`.
        log: File of what was said while it was built.
        blob: File of what an engine node stores; empty where the build failed.
        runtime: Name of the runtime that loads it.
        device: Where its node is placed; empty for anywhere.
        error: Why the build failed; empty where it did not.
    """

    name: str
    engine: str
    precision: str
    sixteen_bit: FloatingType
    model: str
    weights: tuple[str, ...]
    log: str
    blob: str = ""
    runtime: str = ""
    device: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """A segment.

    Attributes:
        name: What the report calls it.
        stem: How its files begin; the name, with a number behind it where an earlier cut of the graph had another
            segment of that name.
        engine: The backend that it was meant for.
        node_count: Compute nodes in it.
        inputs: What flows in, in the order of `input_<i>`.
        outputs: What flows out, in the order of `output_<i>`.
        weights: The constants that it reads, in the order of `weight_<i>`.
        feeds: File of the values at its border; empty where there are none.
        feeds_reason: Why there are none, or not of all feeds.
        exported: File of the exported model; empty where the export failed.
        profiles: The shapes that it has to serve, where the backend wanted to know.
        engines: What was built of it.
        error: Why nothing was built; empty where something was.
    """

    name: str
    stem: str
    engine: str
    node_count: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[TensorInfo, ...]
    feeds: str = ""
    feeds_reason: str = ""
    exported: str = ""
    profiles: tuple[ProfileRecord, ...] = ()
    engines: tuple[EngineRecord, ...] = ()
    error: str = ""


def load_record(path: Path) -> SegmentRecord:
    """Reads `<segment>.json`.

    Raises:
        DumpError: It is no such file.
    """
    try:
        return from_plain(SegmentRecord, json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise DumpError(f"{path} does not describe a dumped segment: {error}.") from error
