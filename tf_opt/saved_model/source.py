"""Loads a SavedModel and says what is in it: signatures, callable attributes, and the state that these need."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.function.polymorphism.function_type import sanitize_arg_name
from tensorflow.python.checkpoint.graph_view import ObjectGraphView
from tensorflow.python.saved_model import loader_impl

from tf_opt.errors import InvalidOptionError, InvalidSavedModelError, UnknownSignatureError, did_you_mean

ConcreteFunction: TypeAlias = Any
"""`tf.types.experimental.ConcreteFunction`; TensorFlow has no types."""


_BOOKKEEPING = frozenset(
    """
    signatures variables trainable_variables non_trainable_variables initializer asset_paths tf_opt_weights
    tf_opt_engines tf_opt_kept
    """.split()
)
"""Attributes by which TensorFlow, Keras and tf_opt keep hold of what the functions need."""


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A SavedModel in memory.

    Attributes:
        folder: Where it was loaded from.
        root: What `tf.saved_model.load` returned. Functions refer to their variables weakly: keep it.
        tags: Tags of the graph that was loaded.
        signatures: The functions by key.
        endpoints: The concrete functions of each callable attribute of the model.
        variables: All variables that it holds.
        attributes: Names of the other attributes that the model was saved with.
    """

    folder: Path
    root: Any = field(repr=False)
    tags: tuple[str, ...]
    signatures: Mapping[str, ConcreteFunction]
    endpoints: Mapping[str, Any]
    variables: tuple[Any, ...] = field(repr=False)
    attributes: tuple[str, ...]


def load_saved_model(directory: str | os.PathLike[str], tags: Iterable[str] | str | None = None) -> LoadedModel:
    """Loads a SavedModel of TensorFlow 2 or 1.

    Args:
        directory: The folder that holds saved_model.pb.
        tags: Tags of the graph to load; None takes the only one there is ("serve" almost always).

    Raises:
        InvalidSavedModelError: The folder is no SavedModel, has no graph with these tags or several to choose from, or
            TensorFlow cannot load it.
    """
    path = Path(directory)
    if not (path / "saved_model.pb").is_file() and not (path / "saved_model.pbtxt").is_file():
        raise InvalidSavedModelError(
            f"{path} is no SavedModel: it holds no saved_model.pb. Pass the folder that tf.saved_model.save(model, "
            "folder) or model.export(folder) wrote."
        )
    try:
        chosen = _chosen_tags(path, tags)
        root = tf.saved_model.load(str(path), tags=list(chosen))
    except (ValueError, OSError, KeyError, FileNotFoundError, tf.errors.OpError) as error:
        raise InvalidSavedModelError(
            f"TensorFlow cannot load the SavedModel in {path}: {error} Where an op is not registered, load or import "
            "its library first."
        ) from error
    endpoints: dict[str, Any] = {}
    attributes = []
    objects = ObjectGraphView(root).breadth_first_traversal()[0]
    for name, child in root._trackable_children().items():
        if hasattr(child, "concrete_functions"):
            endpoints[name] = child
        elif name not in _BOOKKEEPING and not name.startswith("_"):
            attributes.append(name)
    return LoadedModel(
        folder=path,
        root=root,
        tags=chosen,
        signatures=dict(root.signatures),
        endpoints=endpoints,
        variables=tuple(found for found in objects if isinstance(found, tf.Variable)),
        attributes=tuple(attributes),
    )


def _chosen_tags(path: Path, tags: Iterable[str] | str | None) -> tuple[str, ...]:
    if isinstance(tags, str):
        tags = [tags]
    stored = [tuple(graph.meta_info_def.tags) for graph in loader_impl.parse_saved_model(str(path)).meta_graphs]
    known = "; ".join(", ".join(each) or "no tags" for each in stored)
    if tags is None:
        if len(stored) == 1:
            return stored[0]
        raise InvalidSavedModelError(
            f"The SavedModel in {path} holds {len(stored)} graphs, tagged {known}. Say with `tags` which one is meant."
        )
    wanted = tuple(tags)
    if not any(set(wanted) == set(each) for each in stored):
        candidates = sorted({tag for each in stored for tag in each})
        hint = "".join(did_you_mean(tag, candidates) for tag in wanted if tag not in candidates)
        raise InvalidSavedModelError(
            f"The SavedModel in {path} has no graph with the tags {', '.join(wanted) or 'none'}.{hint} Its graphs are "
            f"tagged {known}."
        )
    return wanted


def chosen_signatures(model: LoadedModel, signatures: Sequence[str] | str | None) -> tuple[str, ...]:
    """Returns the names of the signatures to optimize: those that were asked for, or all.

    Raises:
        UnknownSignatureError: The model has no signature of that name; the message lists those it has.
        InvalidOptionError: The names are no strings, or there are none.
    """
    if signatures is None:
        return tuple(model.signatures)
    names = (signatures,) if isinstance(signatures, str) else tuple(signatures)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidOptionError(
            f"signatures is {signatures!r}; expected the name of a signature, a list of them, or None for all."
        )
    for name in names:
        check_signature(model, name)
    return tuple(dict.fromkeys(names))


def check_signature(model: LoadedModel, name: str) -> None:
    """Raises UnknownSignatureError where the model has no signature of that name."""
    if name not in model.signatures:
        listed = ", ".join(repr(known) for known in model.signatures)
        raise UnknownSignatureError(
            f"The SavedModel in {model.folder} has no signature {name!r}.{did_you_mean(name, model.signatures)} Its "
            f"signatures: {listed or 'none; save the model with signatures='}."
        )


def renamed_input(model: LoadedModel) -> str:
    """Returns why a model cannot be written again with all of its names; an empty string where it can.

    TensorFlow writes signatures as Python functions, whose parameters have names of letters, digits and underscores.
    """
    for name, function in model.signatures.items():
        for keyword in function._arg_keywords:
            if sanitize_arg_name(keyword) != keyword:
                return (
                    f"TensorFlow would change the name of the input {keyword!r} of the signature {name!r} when it "
                    "writes the model. Save the original with names of letters, digits and underscores."
                )
    return ""
