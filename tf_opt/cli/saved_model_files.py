"""Reads what a SavedModel says of itself, without loading its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow import as_dtype
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from tf_opt.errors import InvalidSavedModelError, UnknownSignatureError, did_you_mean
from tf_opt.tensor_info import TensorInfo

_INTERNAL = "__saved_model"
"""How the keys of signatures begin that TensorFlow writes for itself."""


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One way to call a SavedModel.

    Attributes:
        key: Its key, such as "serving_default".
        inputs: What it takes, by key.
        outputs: What it returns, by key.
    """

    key: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def read_meta_graph(folder: Path, tags: Sequence[str] | None = None) -> meta_graph_pb2.MetaGraphDef:
    """Returns the graph of a SavedModel with these tags.

    Args:
        folder: The folder that holds saved_model.pb.
        tags: Tags of the graph; None takes the only one there is, or that for serving.

    Raises:
        InvalidSavedModelError: The file is damaged, or has no graph of these tags; the message lists its own.
    """
    model = saved_model_pb2.SavedModel()
    binary = folder / "saved_model.pb"
    file = binary if binary.exists() else folder / "saved_model.pbtxt"
    try:
        if file == binary:
            model.ParseFromString(file.read_bytes())
        else:
            text_format.Parse(file.read_text(), model)
    except OSError as error:
        raise InvalidSavedModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidSavedModelError(
            f"{file} is damaged: {error}. Save the model again, or copy the folder again."
        ) from error
    graphs = {frozenset(graph.meta_info_def.tags): graph for graph in model.meta_graphs}
    wanted = frozenset(("serve",) if tags is None else tags)
    if tags is None and len(graphs) == 1:
        return next(iter(graphs.values()))
    if wanted not in graphs:
        listed = "; ".join(" + ".join(sorted(each)) or "no tags" for each in graphs) or "no graph at all"
        raise InvalidSavedModelError(
            f"{folder} has no graph with the tags {' + '.join(sorted(wanted))}. It has: {listed}. Name them with --tag."
        )
    return graphs[wanted]


def read_signatures(folder: Path, tags: Sequence[str] | None = None) -> dict[str, Signature]:
    """Returns the signatures of a SavedModel by key, in their order; raises as `read_meta_graph`."""
    definitions = read_meta_graph(folder, tags).signature_def
    keys = sorted(key for key in definitions if not key.startswith(_INTERNAL))
    # Protobuf's maps have no order; the default goes first.
    keys.sort(key=lambda key: key != "serving_default")
    return {
        key: Signature(key=key, inputs=_infos(definitions[key].inputs), outputs=_infos(definitions[key].outputs))
        for key in keys
    }


def choose_signatures(
    known: Mapping[str, Signature], names: Sequence[str] | None, folder: Path
) -> dict[str, Signature]:
    """Returns the signatures that the user names; all of them where none is named.

    Raises:
        UnknownSignatureError: There is none of that name; the message lists those there are.
    """
    listed = ", ".join(map(repr, known)) or "none"
    if not known:
        raise UnknownSignatureError(
            f"{folder} has no signature, so there is nothing to call. Save the model again with "
            "tf.saved_model.save(model, folder, signatures=...)."
        )
    for name in names or ():
        if name not in known:
            raise UnknownSignatureError(
                f"{folder} has no signature {name!r}.{did_you_mean(name, known)} It has: {listed}."
            )
    return {key: known[key] for key in dict.fromkeys(names or known)}


def _infos(tensors: Mapping[str, Any]) -> tuple[TensorInfo, ...]:
    return tuple(_info(key, tensors[key]) for key in sorted(tensors))


def _info(key: str, tensor: meta_graph_pb2.TensorInfo) -> TensorInfo:
    shape = tensor.tensor_shape
    sizes = None if shape.unknown_rank else tuple(None if dim.size < 0 else int(dim.size) for dim in shape.dim)
    return TensorInfo(name=tensor.name or f"{key}:0", dtype=as_dtype(tensor.dtype).name, shape=sizes, key=key)
