"""SavedModels and GraphDefs are read from files, those of TensorFlow 1 too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format

from tests.freeze.freeze_checks import all_ops, array, assert_same, ops
from tf_opt.errors import FreezeError, GraphNotFrozenError, InvalidGraphError, UnknownOutputError
from tf_opt.freeze.models import freeze_concrete_function, freeze_saved_model, load_graph_def
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner


class Module(tf.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = tf.Variable(array(3, 600))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def project(self, x: Any) -> Any:
        return {"projected": tf.matmul(x, self.kernel)}

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def total(self, x: Any) -> Any:
        return {"sum": tf.reduce_sum(x), "mean": tf.reduce_mean(x)}


def test_saved_model_with_two_signatures(tmp_path: Path) -> None:
    module = Module()
    tf.saved_model.save(module, tmp_path, signatures={"project": module.project, "total": module.total})
    project = freeze_saved_model(tmp_path, "project")
    assert [(info.key, info.dtype, info.shape) for info in project.inputs] == [("x", "float32", (None, 3))]
    assert [info.key for info in project.outputs] == ["projected"]
    assert_same(project, module.project, {"x": array(2, 3)}, {"x": array(4, 3)})
    total = freeze_saved_model(str(tmp_path), "total")
    assert [info.key for info in total.outputs] == ["mean", "sum"]
    assert_same(total, module.total, {"x": array(2, 3)})
    with pytest.raises(FreezeError, match=r"no signature 'serving_default'.*'project', 'total'"):
        freeze_saved_model(tmp_path)
    with pytest.raises(FreezeError, match="Did you mean 'total'"):
        freeze_saved_model(tmp_path, "totl")


def test_directory_that_is_no_saved_model(tmp_path: Path) -> None:
    with pytest.raises(FreezeError, match=r"holds no saved_model\.pb"):
        freeze_saved_model(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(FreezeError, match="cannot load the SavedModel"):
        freeze_saved_model(tmp_path)


@pytest.mark.parametrize("resource", [True, False], ids=["resource variables", "reference variables"])
def test_saved_model_of_tensorflow_1(tmp_path: Path, resource: bool) -> None:
    value = array(3, 200)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 3], name="features")
        kernel = tf.compat.v1.get_variable("kernel", initializer=value, use_resource=resource)
        y = tf.matmul(x, kernel, name="logits")
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"y": y})
    frozen = freeze_saved_model(tmp_path / "model")
    assert [info.key for info in frozen.inputs] == ["x"]
    assert [info.key for info in frozen.outputs] == ["y"]
    with GraphRunner(frozen) as runner:
        np.testing.assert_allclose(runner.run({"x": array(2, 3)})["y"], array(2, 3) @ value, rtol=1e-5)


def test_saved_model_of_tensorflow_1_with_control_flow(tmp_path: Path) -> None:
    # Without control flow v2 a graph is made of Switch, Merge and Enter; its control inputs must survive.
    was_enabled = tf.compat.v1.control_flow_v2_enabled()
    tf.compat.v1.disable_control_flow_v2()
    try:
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
            scale = tf.compat.v1.get_variable("scale", initializer=2.0, use_resource=True)
            y = tf.compat.v1.cond(tf.reduce_sum(x) > 0, lambda: tf.identity(x) * 2.0 + 1.0, lambda: x - 1.0)
            with tf.control_dependencies([tf.compat.v1.assert_less(x, 1000.0)]):
                y = tf.identity(y)
            _, z = tf.compat.v1.while_loop(lambda i, _: i < 3, lambda i, z: (i + 1, z * scale + 1.0), [0, y])
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "model"), {"x": x}, {"z": z})
            feeds = [np.array([1.0, 2.0], "float32"), np.array([-1.0], "float32")]
            expected = [session.run(z, {x: feed}) for feed in feeds]
    finally:
        if was_enabled:
            tf.compat.v1.enable_control_flow_v2()
    frozen = freeze_saved_model(tmp_path / "model")
    assert "Enter" in ops(frozen)
    assert "Assert" not in all_ops(frozen)
    with GraphRunner(frozen) as runner:
        for feed, want in zip(feeds, expected, strict=True):
            np.testing.assert_allclose(runner.run({"x": feed})["z"], want)


def frozen_example() -> FrozenGraph:
    kernel = tf.Variable(array(3, 200))
    function = tf.function(
        lambda x: {"y": tf.matmul(x, kernel), "n": tf.reduce_sum(x)},
        input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")],
    )
    return freeze_concrete_function(function)


@pytest.mark.parametrize("name", ["graph.pb", "graph.pbtxt"])
def test_saved_graph_def_is_loaded_again(tmp_path: Path, name: str) -> None:
    frozen = frozen_example()
    loaded = load_graph_def(frozen.save(tmp_path / name))
    assert loaded.graph_def == frozen.graph_def
    assert loaded.input_names == frozen.input_names
    assert set(loaded.output_names) == set(frozen.output_names)
    assert loaded.inputs[0].shape == (None, 3)
    assert loaded.output("Identity_1").shape == (None, 200)
    chosen = load_graph_def(tmp_path / name, ["Identity_1"])
    assert chosen.output_names == ("Identity_1:0",)
    with pytest.raises(UnknownOutputError, match=r"no node 'Identty'.*Did you mean 'Identity'"):
        load_graph_def(tmp_path / name, "Identty")


def test_files_that_are_no_graph_def(tmp_path: Path) -> None:
    with pytest.raises(InvalidGraphError, match="cannot be read: No such file"):
        load_graph_def(tmp_path / "missing.pb")
    (tmp_path / "graph.pb").write_bytes(b"\xff" * 10)
    with pytest.raises(InvalidGraphError, match="is no GraphDef"):
        load_graph_def(tmp_path / "graph.pb")
    (tmp_path / "graph.pbtxt").write_text("node { nme: 1 }")
    with pytest.raises(InvalidGraphError, match="is no GraphDef"):
        load_graph_def(tmp_path / "graph.pbtxt")
    (tmp_path / "empty.pb").write_bytes(b"")
    with pytest.raises(InvalidGraphError, match="without nodes"):
        load_graph_def(tmp_path / "empty.pb")


def test_graph_with_variables_is_an_error(tmp_path: Path) -> None:
    with tf.Graph().as_default() as graph:
        variable = tf.compat.v1.get_variable("kernel", initializer=2.0, use_resource=True)
        tf.identity(variable * 2.0, name="y")
    (tmp_path / "graph.pbtxt").write_text(text_format.MessageToString(graph.as_graph_def()))
    with pytest.raises(GraphNotFrozenError, match=r"kernel \(VarHandleOp\).*freeze_saved_model"):
        load_graph_def(tmp_path / "graph.pbtxt", "y")
