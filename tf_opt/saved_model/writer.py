"""Writes SavedModels: whole or not at all, with the report beside the graph."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.checkpoint.graph_view import ObjectGraphView
from tensorflow.python.trackable.resource import CapturableResource, TrackableResource

from tf_opt.files import write_parts
from tf_opt.folders import writing_folder
from tf_opt.report.saved_model import SavedModelReport
from tf_opt.sizes import stored_bytes
from tf_opt.write_errors import named_write_errors

REPORT_PATH = Path("assets.extra") / "tf_opt_report.json"
"""Where a SavedModel that is written here has its report."""


@dataclass(kw_only=True)
class SavedModelContent:
    """What is to be written.

    Attributes:
        signatures: Concrete functions by key.
        endpoints: Functions by the attribute of the root that they become.
        variables: What the functions read.
        engines: Resources that hold the engines which the functions run.
        kept: Objects of the loaded model that functions of it need: variables, tables, assets.
        engine_bytes: Size of the engines.
    """

    signatures: Mapping[str, Any]
    endpoints: Mapping[str, Any] = field(default_factory=dict)
    variables: Sequence[Any] = ()
    engines: Sequence[Any] = ()
    kept: Sequence[Any] = ()
    engine_bytes: int = 0

    @property
    def size_bytes(self) -> int:
        """About how large the folder becomes, without graphs and tables."""
        variables = {id(each): each for each in (*self.variables, *self.kept) if isinstance(each, tf.Variable)}
        return self.engine_bytes + sum(map(_size, variables.values()))


def write_content(
    content: SavedModelContent,
    target: Path,
    report: Callable[[Path], SavedModelReport],
    *,
    overwrite: bool,
    extra: Path | None = None,
) -> SavedModelReport:
    """Writes a SavedModel and its report.

    Args:
        content: What to write.
        target: The folder.
        report: Makes the report once the folder is whole; it is given the folder.
        overwrite: Whether a folder in its place is replaced.
        extra: Folder of files to add to assets.extra.

    Raises:
        OutputWriteError: The disk is full, or something else keeps it from being written.
    """
    root = tf.__internal__.tracking.AutoTrackable()
    root.tf_opt_weights = list(content.variables)
    root.tf_opt_engines = list(content.engines)
    root.tf_opt_kept = list(content.kept)
    for name, function in content.endpoints.items():
        setattr(root, name, function)
    with named_write_errors(target, content.size_bytes), writing_folder(target, overwrite=overwrite) as folder:
        # Gradients would be traced for nothing, and the engine op has none.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(root, str(folder), signatures=dict(content.signatures), options=options)
        if extra is not None and extra.is_dir():
            shutil.copytree(extra, folder / "assets.extra", dirs_exist_ok=True)
        return _add_report(folder, report)


def write_copy(
    source: Path, target: Path, report: Callable[[Path], SavedModelReport], *, overwrite: bool
) -> SavedModelReport:
    """Writes a SavedModel as it is, and the report; see `write_content`."""
    size = stored_bytes(source)
    with named_write_errors(target, size), writing_folder(target, overwrite=overwrite) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
        return _add_report(folder, report)


def _size(variable: Any) -> int:
    return int(variable.shape.num_elements() or 0) * int(variable.dtype.size)


def _add_report(folder: Path, make: Callable[[Path], SavedModelReport]) -> SavedModelReport:
    (folder / REPORT_PATH).unlink(missing_ok=True)
    report = make(folder)
    # A failure is one of the whole folder, of which the user knows the name.
    write_parts(folder / REPORT_PATH, [f"{report.to_json()}\n".encode()])
    return report


def variable_bytes(folder: Path) -> int:
    """Returns the size of the weights in a SavedModel."""
    return stored_bytes(folder / "variables") if (folder / "variables").is_dir() else 0


def needed_objects(root: Any, functions: Sequence[Any]) -> list[Any]:
    """Returns the variables, tables and other resources of a loaded model that functions of it need.

    Args:
        root: The loaded model.
        functions: Concrete functions of it.
    """
    if not functions:
        return []
    captured = {id(tensor) for function in functions for tensor in function.captured_inputs}
    needed = []
    for found in ObjectGraphView(root).breadth_first_traversal()[0]:
        handle = getattr(found, "handle", None) if isinstance(found, tf.Variable) else None
        if isinstance(found, TrackableResource):
            handle = found.resource_handle
        # Other resources hold what a graph of TensorFlow 1 has to run before its first use.
        if (id(handle) in captured) if handle is not None else isinstance(found, CapturableResource):
            needed.append(found)
    return needed
