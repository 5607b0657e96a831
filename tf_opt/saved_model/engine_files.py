"""The engines of a SavedModel that is written: each a file among its assets, read when the model is loaded.

    assets/tf_opt_segment_0-1f0c….engine ─ TfOptReadEngine ─► string resource ─ ReadVariableOp ─► TfOptEngine

What is left of the resource runs once, when the model is loaded, as the reading of a lookup table's file does; after
that, the model needs its folder no more. Assets are part of the SavedModel format, so that every loader finds them
wherever the folder lies.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from tf_opt.engine_nodes import ENGINE_FILE_ATTRIBUTE, STORED_ENGINES_ATTRIBUTE, data_input_count
from tf_opt.ops.build import load as load_op
from tf_opt.passes.tf.control_flow import execution_contexts
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.splice import ENGINE_OP
from tf_opt.sizes import stored_bytes
from tf_opt.write_errors import named_write_errors

Resource: TypeAlias = Any
"""A `tf.saved_model.experimental.TrackableResource`; TensorFlow has no types."""

_INPUT = "tf_opt_stored_engine"

_LONGEST_NAME = 150
"""File systems take 255 bytes."""


class EngineFiles:
    """Gives a resource for each engine: one for each content, whoever runs it."""

    def __init__(self, folder: Path) -> None:
        """Does nothing yet.

        Args:
            folder: Where the files lie until TensorFlow has copied them into the SavedModel.
        """
        self._folder = folder
        self._resources: dict[str, Resource] = {}

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What the SavedModel has to hold: the files go with them."""
        return tuple(self._resources.values())

    @property
    def size_bytes(self) -> int:
        """How large the engines are together."""
        return stored_bytes(self._folder)

    def take_out(self, graph_def: graph_pb2.GraphDef, whole: graph_pb2.GraphDef) -> dict[str, Resource]:
        """Replaces, in place, the engine in each engine node by an input.

        Engines stay in nodes inside of the graph's functions, which capture nothing, and in those of a TensorFlow 1
        loop, whose inputs would have to enter its frame.

        Args:
            graph_def: The graph; nodes that engines read may be missing in it.
            whole: The graph with all of its nodes.

        Returns:
            The resource that the input is to be read from, by the name of the tensor that the nodes now take.
        """
        nodes = [node for node in graph_def.node if node.op == ENGINE_OP and node.attr["engine"].s]
        has_loops = any(node.op == "Enter" for node in whole.node)
        contexts = execution_contexts(GraphView(whole)) if nodes and has_loops else {}
        tensors: dict[str, str] = {}
        for node in nodes:
            if has_loops and contexts[node.name].frame:
                continue
            engine = node.attr["engine"].s
            file = _file_name(node.attr["segment_name"].s.decode(), engine)
            if file not in self._resources:
                with named_write_errors(self._folder / file, len(engine)):
                    (self._folder / file).write_bytes(engine)
                self._resources[file] = _stored_engine(self._folder / file, node.attr["segment_name"].s.decode())
            tensor = tensors.setdefault(file, f"{_INPUT}_{len(tensors)}")
            node.attr["engine"].s = b""
            node.attr[STORED_ENGINES_ATTRIBUTE].i = 1
            node.attr[ENGINE_FILE_ATTRIBUTE].s = file.encode()
            node.input.insert(data_input_count(node), tensor)
        return {f"{tensor}:0": self._resources[file] for file, tensor in tensors.items()}


@contextmanager
def engine_files() -> Iterator[EngineFiles]:
    """Yields a place for engines, whose files are gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="tf_opt_engines.") as folder:
        yield EngineFiles(Path(folder))


def read_stored_engine(resource: Resource) -> Any:
    """Returns the engine that a resource holds, without a copy: a tensor of one string."""
    with tf.device("CPU:0"):
        return tf.raw_ops.ReadVariableOp(resource=resource.resource_handle, dtype=tf.string)


def _stored_engine(path: Path, segment_name: str) -> Resource:
    """Returns a resource that is filled from a file whenever its SavedModel is loaded.

    It is named by its content, so that models which are loaded into one process share it if their engines are equal. It
    stays for as long as the process or the Session does, as lookup tables do: functions that were taken out of a model
    outlive it.
    """
    resource = tf.saved_model.experimental.TrackableResource(device="CPU:0")
    asset = tf.saved_model.Asset(str(path))
    name = f"tf_opt_engine_{hashlib.sha256(path.read_bytes()).hexdigest()}"

    def create() -> Any:
        return tf.raw_ops.VarHandleOp(dtype=tf.string, shape=[], shared_name=name)

    def initialize() -> None:
        engine = load_op().tf_opt_read_engine(filename=asset.asset_path, segment_name=segment_name)
        tf.raw_ops.AssignVariableOp(resource=resource.resource_handle, value=engine)

    resource._create_resource = create
    resource._initialize = initialize
    resource._track_trackable(asset, "file")
    with tf.init_scope():  # The handle is captured by the function that is being traced, and no node of it.
        _ = resource.resource_handle
    return resource


def _file_name(segment_name: str, engine: bytes) -> str:
    """Returns a name that tells whose engine it is and that no other engine has: TensorFlow renames files otherwise."""
    readable = re.sub(r"[^A-Za-z0-9_.-]", "_", segment_name)[:_LONGEST_NAME]
    return f"{readable}-{hashlib.sha256(engine).hexdigest()[:16]}.engine"
