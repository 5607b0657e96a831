"""Checks what `Tf2TrtOpt` is given before any work, and brings it into the form that the work starts from."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tensorflow.core.framework import graph_pb2, tensor_shape_pb2

from tf_opt.engines.base import EngineBackend
from tf_opt.errors import InvalidFeedError, InvalidGraphError, InvalidOptionError, did_you_mean
from tf_opt.feeds import Feed, NormalizedFeed, check_feeds
from tf_opt.frozen_graph import FrozenGraph, find_tensor
from tf_opt.light_graph import LightGraph
from tf_opt.options import Options
from tf_opt.output_paths import check_folder_place
from tf_opt.precision import require_16_bit, require_precision
from tf_opt.tensor_info import TensorInfo, node_name

MAXIMUM_CALIBRATION_FEEDS = 512
"""How many feeds are taken of `calibration_data`, which may be endless. Quantization looks at a few hundred at most."""


def first_feeds(calibration_data: Any) -> Any:
    """Returns a list of the first feeds of an iterable, each taken once; anything else is returned as it is."""
    if not isinstance(calibration_data, Iterable) or isinstance(calibration_data, Mapping):
        return calibration_data  # `check_feeds` says what is wrong with it.
    return list(itertools.islice(calibration_data, MAXIMUM_CALIBRATION_FEEDS))


def check_calibration(calibration_data: Iterable[Feed], model: FrozenGraph | LightGraph) -> list[NormalizedFeed]:
    """Returns the first feeds of what int8 is to be calibrated with, each taken once.

    Args:
        calibration_data: Any iterable of feeds, also an endless one.
        model: The graph.

    Raises:
        InvalidFeedError: It is no iterable of feeds, it is empty, or one does not fit; the message says which.
    """
    try:
        return check_feeds(*needed_feeds(model, first_feeds(calibration_data)))
    except InvalidFeedError as error:
        raise InvalidFeedError(f"calibration_data: {error}") from error


def resolve_mask(options: Options, model: FrozenGraph | LightGraph) -> Options:
    """Returns the options with the tensor name of the mask that `skip_padding` names.

    Args:
        options: The user's options.
        model: The graph.

    Raises:
        InvalidOptionError: `skip_padding` names no input.
    """
    if options.skip_padding is None:
        return options
    mask = find_tensor(model.inputs, options.skip_padding)
    if mask is None:
        known = [info.key for info in model.inputs]
        raise InvalidOptionError(
            f"skip_padding is {options.skip_padding!r}, which is no input of the graph."
            f"{did_you_mean(options.skip_padding, known)} The inputs are: {', '.join(map(repr, known))}."
        )
    return replace(options, skip_padding=mask.name)


def resolve_precision(options: Options, backend: EngineBackend, disable_fp16: bool) -> Options:
    """Returns the options with the precision that `disable_fp16` stands for.

    Args:
        options: The user's options.
        backend: What builds the engines.
        disable_fp16: False is short for the fastest 16-bit type, where the options ask for "fp32".

    Raises:
        InvalidOptionError: `disable_fp16` is neither True nor False.
        UnsupportedPrecisionError: The device has no hardware for the precision.
    """
    if not isinstance(disable_fp16, bool):
        raise InvalidOptionError(f"disable_fp16 is {disable_fp16!r}; expected True or False.")
    if not disable_fp16 and options.precision == "fp32":
        return replace(options, precision=require_16_bit(backend))
    if options.precision not in ("fp32", "auto"):
        require_precision(options.precision, backend)
    return options


def check_graph_def(graph_def: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
    """Returns what was given where it is a GraphDef.

    Raises:
        InvalidGraphError: It is something else.
    """
    if not isinstance(graph_def, graph_pb2.GraphDef):
        raise InvalidGraphError(
            f"Expected a GraphDef, got {type(graph_def).__name__}. Of a tf.Graph take graph.as_graph_def(); models are "
            "frozen by tf_opt.freeze_keras, freeze_saved_model or freeze_concrete_function; files are read by "
            "tf_opt.load_graph_def."
        )
    return graph_def


def writable_folder(path: str | Path) -> Path:
    """Returns the folder for dumps, made if need be.

    Raises:
        OutputPathError: It cannot be made or written to.
    """
    folder = Path(path)
    check_folder_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def needed_feeds(model: FrozenGraph | LightGraph, feeds: Iterable[Feed]) -> tuple[Iterable[Feed], list[TensorInfo]]:
    """Returns the feeds and inputs without the inputs that no output depends on, which feeds may leave out."""
    nodes = {node.name: node for node in model.graph_def.node}
    pending = [node_name(name) for name in model.output_names]
    reached: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in reached:
            reached.add(name)
            pending.extend(node_name(reference) for reference in nodes[name].input)
    needed = [info for info in model.inputs if node_name(info.name) in reached]
    unneeded = [info for info in model.inputs if node_name(info.name) not in reached]
    if isinstance(feeds, Iterator):
        feeds = list(feeds)
    if not isinstance(feeds, Sequence) or not all(isinstance(feed, Mapping) for feed in feeds):
        return feeds, needed  # check_feeds says what is wrong.
    return [{name: feed[name] for name in feed if find_tensor(unneeded, str(name)) is None} for feed in feeds], needed


def fix_input_shapes(light: graph_pb2.GraphDef, feeds: Sequence[NormalizedFeed]) -> graph_pb2.GraphDef:
    """Returns a copy of `light` whose placeholders have the dimensions that are the same in all feeds.

    Args:
        light: Light graph; it is not changed.
        feeds: Arrays by tensor name.
    """
    fixed = graph_pb2.GraphDef()
    fixed.CopyFrom(light)
    for node in fixed.node:
        shapes = {feed[f"{node.name}:0"].shape for feed in feeds if f"{node.name}:0" in feed}
        if node.op != "Placeholder" or len({len(shape) for shape in shapes}) != 1:
            continue
        sizes = [set(dimension) for dimension in zip(*shapes, strict=True)]
        shape = tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size.pop() if len(size) == 1 else -1) for size in sizes]
        )
        node.attr["shape"].shape.CopyFrom(shape)
    return fixed
