"""Everything that turns a model into a FrozenGraph, whatever form it comes in.

Keras, Hugging Face   freeze_keras               traces the inference call
SavedModel            freeze_saved_model         takes a signature
function              freeze_concrete_function   inlines, turns variables into constants, cleans
GraphDef file         load_graph_def             reads, checks, describes
GraphDef              frozen_from_graph_def      checks, describes
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import FreezeError, InvalidGraphError, did_you_mean
from tf_opt.freeze_function import freeze_concrete_function
from tf_opt.freeze_keras import freeze_keras
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import check_graph, frozen_from_graph_def

__all__ = [
    "check_graph",
    "freeze_concrete_function",
    "freeze_keras",
    "freeze_saved_model",
    "frozen_from_graph_def",
    "load_graph_def",
]


def freeze_saved_model(
    directory: str | os.PathLike[str], signature: str = "serving_default", *, tags: Iterable[str] | None = None
) -> FrozenGraph:
    """Freezes one signature of a SavedModel of TensorFlow 2 or 1.

    Args:
        directory: The folder that holds saved_model.pb.
        signature: Key of the signature to freeze.
        tags: Tags of the graph to load; None takes the only one there is ("serve" almost always).

    Returns:
        A graph whose inputs and outputs are keyed by the signature's keys.

    Raises:
        FreezeError: The directory is no SavedModel, has no such signature (the message lists those it has), or the
            signature cannot be frozen.
    """
    path = Path(directory)
    if not (path / "saved_model.pb").is_file() and not (path / "saved_model.pbtxt").is_file():
        raise FreezeError(
            f"{path} is no SavedModel: it holds no saved_model.pb. Pass the folder that tf.saved_model.save(model, "
            "folder) or model.export(folder) wrote."
        )
    try:
        # The object must outlive the freezing: its functions refer to the variables weakly.
        loaded = tf.saved_model.load(str(path), tags=None if tags is None else list(tags))
    except (ValueError, OSError, KeyError, tf.errors.OpError) as error:
        raise FreezeError(
            f"TensorFlow cannot load the SavedModel in {path}: {error} Where an op is not registered, load or import "
            "its library first."
        ) from error
    signatures = dict(loaded.signatures)
    if signature not in signatures:
        raise FreezeError(
            f"The SavedModel in {path} has no signature {signature!r}.{did_you_mean(signature, signatures)} Its "
            f"signatures: {', '.join(repr(name) for name in signatures) or 'none; save the model with signatures='}."
        )
    return freeze_concrete_function(signatures[signature])


def load_graph_def(path: str | os.PathLike[str], outputs: Iterable[str] | str | None = None) -> FrozenGraph:
    """Reads a frozen GraphDef from a file.

    Args:
        path: A binary GraphDef (.pb), or a text one (.pbtxt).
        outputs: Node or tensor names to fetch; None takes the compute tensors that nothing consumes.

    Returns:
        The graph with its placeholders as inputs.

    Raises:
        InvalidGraphError: The file is no GraphDef, or the graph is inconsistent.
        UnknownOutputError: An output is no tensor of the graph.
        UnknownOpError: An op is not registered in this process.
        GraphNotFrozenError: Variables are left.
    """
    file = Path(path)
    graph_def = graph_pb2.GraphDef()
    try:
        if file.suffix in (".pbtxt", ".prototxt"):
            text_format.Parse(file.read_text(), graph_def)
        else:
            graph_def.ParseFromString(file.read_bytes())
    except OSError as error:
        raise InvalidGraphError(f"The GraphDef {file} cannot be read: {error.strerror or error}.") from error
    except (DecodeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidGraphError(
            f"{file} is no GraphDef: {error}. Expected a binary protobuf, or a text one in a file that ends in .pbtxt; "
            "a SavedModel (saved_model.pb) is frozen by tf_opt.freeze_saved_model on its folder."
        ) from error
    if not graph_def.node:
        raise InvalidGraphError(
            f"{file} holds a graph without nodes. A SavedModel (saved_model.pb) is frozen by "
            "tf_opt.freeze_saved_model on its folder."
        )
    return frozen_from_graph_def(graph_def, outputs)
