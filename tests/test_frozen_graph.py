from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf.message import EncodeError
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import FreezeError, InvalidFeedError, UnknownOutputError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.tensor_info import TensorInfo


def example() -> FrozenGraph:
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="x")
        y = tf.matmul(x, tf.constant(np.ones([4, 500], "float32")), name="y")
        tf.reduce_sum(y, name="total")
    return frozen_from_graph_def(graph.as_graph_def(), ["y", "total"], keys={"y:0": "logits"})


def test_lookup_by_key_node_and_tensor_name() -> None:
    frozen = example()
    assert frozen.input_names == ("x:0",)
    assert frozen.output_names == ("y:0", "total:0")
    assert frozen.input("x") is frozen.input("x:0") is frozen.inputs[0]
    assert frozen.output("logits") is frozen.output("y") is frozen.output("y:0") is frozen.outputs[0]


def test_unknown_names_list_what_there_is() -> None:
    frozen = example()
    with pytest.raises(InvalidFeedError, match=r"no input 'xx'\..*Its inputs: 'x'"):
        frozen.input("xx")
    with pytest.raises(UnknownOutputError, match=r"no output 'logit'\. Did you mean 'logits'.*'logits', 'total'"):
        frozen.output("logit")


def test_size_is_that_of_the_file_but_for_headers(tmp_path: Path) -> None:
    frozen = example()
    size = frozen.save(tmp_path / "graph.pb").stat().st_size
    assert abs(frozen.size_bytes - size) < 100
    assert size > 8000


def test_save_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "folder" / "graph.pb"
    frozen = example()
    frozen.save(target)
    target.write_bytes(b"old")
    assert frozen.save(str(target)) == target
    assert [path.name for path in target.parent.iterdir()] == ["graph.pb"]
    assert stat.S_IMODE(target.stat().st_mode) & 0o444
    loaded = graph_pb2.GraphDef()
    loaded.ParseFromString(target.read_bytes())
    assert loaded == frozen.graph_def


def test_graph_above_two_gigabytes_is_an_error(tmp_path: Path) -> None:
    class Big:
        """Stands for a GraphDef that protobuf refuses to write."""

        def SerializeToString(self) -> bytes:  # noqa: N802
            raise EncodeError("too big")

        def __getattr__(self, name: str) -> Any:
            return getattr(graph_pb2.GraphDef(), name)

    info = TensorInfo(name="x:0", dtype="float32")
    frozen = FrozenGraph(graph_def=Big(), inputs=(info,), outputs=(info,))
    with pytest.raises(FreezeError, match="2 GB"):
        frozen.save(tmp_path / "graph.pb")
    assert list(tmp_path.iterdir()) == []


def test_compared_by_identity_and_shown_without_weights() -> None:
    frozen = example()
    assert frozen == frozen
    assert len({frozen, example()}) == 2
    assert len(repr(frozen)) < 1000
