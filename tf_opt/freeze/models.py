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

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import InvalidGraphError
from tf_opt.freeze.function import freeze_concrete_function
from tf_opt.freeze.keras import freeze_keras
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import check_graph, frozen_from_graph_def
from tf_opt.saved_model.source import check_signature, load_saved_model

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
        InvalidSavedModelError: The directory is no SavedModel that TensorFlow can load here.
        UnknownSignatureError: It has no such signature; the message lists those it has.
        FreezeError: The signature cannot be frozen.
    """
    # The model must outlive the freezing: its functions refer to the variables weakly.
    model = load_saved_model(directory, tags)
    check_signature(model, signature)
    return freeze_concrete_function(model.signatures[signature])


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
