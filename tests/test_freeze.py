from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from tf_opt.errors import FreezeError, GraphNotFrozenError, InvalidGraphError, UnknownOutputError
from tf_opt.freeze import freeze_concrete_function, freeze_saved_model, load_graph_def
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner


def ops(frozen: FrozenGraph) -> list[str]:
    return [node.op for node in frozen.graph_def.node]


def all_ops(frozen: FrozenGraph) -> set[str]:
    inner = {node.op for function in frozen.graph_def.library.function for node in function.node_def}
    return inner | set(ops(frozen))


def assert_same(frozen: FrozenGraph, function: Any, *feeds: dict[str, Any]) -> None:
    """The frozen graph in a plain Session returns what the function returns, in the order of its outputs."""
    with GraphRunner(frozen) as runner:
        for feed in feeds:
            expected = tf.nest.flatten(function(*feed.values()))
            for value, want in zip(runner.run(feed).values(), expected, strict=True):
                np.testing.assert_allclose(value, want.numpy(), rtol=1e-6, atol=1e-6)


def array(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")


def test_keys_and_names_of_structured_outputs() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return {"b": x + 1.0, "a": [x * 2.0, x * 3.0]}

    frozen = freeze_concrete_function(function)
    assert [(info.key, info.name) for info in frozen.outputs] == [
        ("a_0", "Identity:0"),
        ("a_1", "Identity_1:0"),
        ("b", "Identity_2:0"),
    ]
    assert str(frozen.inputs[0]) == "x:0 float32 ['?', 3]"
    assert_same(frozen, function, {"x": array(2, 3)}, {"x": array(5, 3)})


def test_unnamed_outputs_are_numbered() -> None:
    single = tf.function(lambda x: x + 1.0, input_signature=[tf.TensorSpec([], tf.float32)])
    assert [info.key for info in freeze_concrete_function(single).outputs] == ["output_0"]
    double = tf.function(lambda x: (x, x * 2.0), input_signature=[tf.TensorSpec([], tf.float32)])
    assert [info.key for info in freeze_concrete_function(double).outputs] == ["output_0", "output_1"]


def test_variables_become_constants() -> None:
    kernel = tf.Variable(array(3, 300))
    table = tf.Variable(array(50, 3))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32, name="ids")])
    def function(ids: Any) -> Any:
        x = tf.gather(table, ids)
        return tf.matmul(x, kernel), tf.gather_nd(table, ids[:, None]), tf.shape(kernel)

    frozen = freeze_concrete_function(function)
    assert "Placeholder" in ops(frozen)
    assert not {"ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape"} & all_ops(frozen)
    assert_same(frozen, function, {"ids": np.array([1, 49], "int32")}, {"ids": np.array([0, 3, 3], "int32")})
    # The values are those of the moment of freezing.
    before = function(tf.constant([1]))[0].numpy()
    kernel.assign(tf.zeros_like(kernel))
    with GraphRunner(frozen) as runner:
        np.testing.assert_allclose(runner.run({"ids": [1]})["output_0"], before, rtol=1e-6)


def test_gather_with_batch_dimensions() -> None:
    table = tf.Variable(array(2, 5, 4))

    @tf.function(input_signature=[tf.TensorSpec([2, None], tf.int32, name="ids")])
    def function(ids: Any) -> Any:
        return tf.gather(table, ids, batch_dims=1)

    assert_same(freeze_concrete_function(function), function, {"ids": np.array([[0, 4], [1, 2]], "int32")})


def test_nested_loops_and_conditions_with_variables_inside() -> None:
    table = tf.Variable(array(600, 4))
    scale = tf.Variable(0.5)

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x"), tf.TensorSpec([], tf.int32, name="count")]
    )
    def function(x: Any, count: Any) -> Any:
        def outer(i: Any, y: Any) -> Any:
            def inner(j: Any, z: Any) -> Any:
                row = tf.gather(table, i * 10 + j)
                return j + 1, tf.cond(j % 2 == 0, lambda: z + row * scale, lambda: z - row)

            _, y = tf.while_loop(lambda j, _: j < i + 1, inner, [0, y])
            return i + 1, y * scale

        _, y = tf.while_loop(lambda i, _: i < count, outer, [0, x])
        return tf.cond(tf.reduce_sum(y) > 0, lambda: y * tf.reduce_sum(table), lambda: y)

    frozen = freeze_concrete_function(function)
    # Loops stay one node each, and what has no side effect says so.
    assert "StatelessWhile" in ops(frozen)
    assert not {"Switch", "Merge", "Enter", "While", "If", "ReadVariableOp", "ResourceGather"} & all_ops(frozen)
    feeds = [{"x": sign * np.abs(array(rows, 4)), "count": np.int32(n)} for sign, rows, n in ((1, 2, 4), (-1, 3, 1))]
    assert_same(frozen, function, *feeds)


def test_calls_that_are_not_inlined_get_their_variables() -> None:
    kernel = tf.Variable(array(4, 4))

    @tf.function(experimental_attributes={"_noinline": True})
    def called(x: Any) -> Any:
        return tf.matmul(x, kernel)

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return called(called(x))

    frozen = freeze_concrete_function(function)
    assert not {"ReadVariableOp", "VarHandleOp"} & all_ops(frozen)
    assert_same(frozen, function, {"x": array(2, 4)})


def test_switch_case_with_variables() -> None:
    kernels = [tf.Variable(array(4, 4) * k) for k in range(1, 4)]

    @tf.function(
        input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x"), tf.TensorSpec([], tf.int32, name="which")]
    )
    def function(x: Any, which: Any) -> Any:
        return tf.switch_case(which, [lambda kernel=kernel: tf.matmul(x, kernel) for kernel in kernels])

    frozen = freeze_concrete_function(function)
    assert_same(frozen, function, *({"x": array(2, 4), "which": np.int32(k)} for k in range(3)))


def test_assertions_of_every_kind_are_pruned() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def function(x: Any) -> Any:
        tf.debugging.assert_less(x, 1000.0)  # An If around Assert.
        tf.debugging.assert_less(tf.cast(x, tf.int32), 1000)  # A plain Assert.
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x < 1000.0), [x])]):
            y = tf.identity(x) * 2.0

        def body(i: Any, z: Any) -> Any:
            tf.debugging.assert_less(z, 1000.0)
            return i + 1, z + 1.0

        return tf.while_loop(lambda i, _: i < 3, body, [0, y])[1]

    frozen = freeze_concrete_function(function)
    assert not {"Assert", "If", "StatelessIf", "Less", "All"} & set(ops(frozen))
    assert "Assert" not in all_ops(frozen)
    assert not any(reference.startswith("^") for node in frozen.graph_def.node for reference in node.input)
    assert_same(frozen, function, {"x": array(4)})


def test_gradient_stops_and_identity_chains_are_bypassed() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return tf.identity(tf.stop_gradient(tf.identity(tf.identity(x)))) + 1.0, tf.identity(x)

    frozen = freeze_concrete_function(function)
    assert sorted(ops(frozen)) == ["AddV2", "Const", "Identity", "Identity", "Placeholder"]
    assert_same(frozen, function, {"x": array(4)})


def test_random_numbers_keep_their_order() -> None:
    @tf.function(input_signature=[tf.TensorSpec([3], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return x + tf.random.normal([3])

    frozen = freeze_concrete_function(function)
    with GraphRunner(frozen) as runner:
        first, second = (runner.run({"x": np.zeros(3, "float32")})["output_0"] for _ in range(2))
    assert (first != second).all()


def test_unused_inputs_stay() -> None:
    signature = [tf.TensorSpec([None], tf.float32, name=name) for name in ("used", "unused")]

    @tf.function(input_signature=signature)
    def function(used: Any, unused: Any) -> Any:
        return used + 1.0

    frozen = freeze_concrete_function(function)
    assert frozen.input_names == ("used:0", "unused:0")
    assert_same(frozen, function, {"used": array(2), "unused": array(3)})


def test_captured_tensors_and_strings() -> None:
    big = tf.constant(array(40, 40))
    words = tf.Variable(["a", "b"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def function(text: Any) -> Any:
        return tf.strings.join([text, words[0]]), tf.reduce_sum(big)

    frozen = freeze_concrete_function(function)
    assert frozen.inputs[0].dtype == "string"
    with GraphRunner(frozen) as runner:
        result = runner.run({"text": np.array(["x", "yz"], object)})
    assert result["output_0"].tolist() == [b"xa", b"yza"]
    np.testing.assert_allclose(result["output_1"], big.numpy().sum(), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int8", "int64", "bool", "complex64"])
def test_dtypes_of_variables(dtype: str) -> None:
    value = tf.cast(tf.constant(np.arange(600).reshape(2, 300) % 2), dtype)
    variable = tf.Variable(value)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, name="row")])
    def function(row: Any) -> Any:
        return variable[row]

    frozen = freeze_concrete_function(function)
    assert frozen.outputs[0].dtype == dtype
    with GraphRunner(frozen) as runner:
        np.testing.assert_array_equal(runner.run({"row": 1})["output_0"], value.numpy()[1])


def test_empty_and_scalar_variables() -> None:
    empty, scalar = tf.Variable(tf.zeros([0, 3])), tf.Variable(3.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return tf.concat([x, empty], 0) * scalar

    assert_same(freeze_concrete_function(function), function, {"x": array(2, 3)})


def test_variable_that_is_written_is_an_error() -> None:
    counter = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([], tf.float32, name="x")])
    def function(x: Any) -> Any:
        return counter.assign_add(x)

    with pytest.raises(FreezeError, match=r"AssignAddVariableOp.*writes to a variable.*training=False"):
        freeze_concrete_function(function)


def test_variable_without_a_value_is_an_error() -> None:
    variable = UninitializedVariable(shape=[2], dtype=tf.float32)
    function = tf.function(lambda x: x + variable, input_signature=[tf.TensorSpec([2], tf.float32, name="x")])
    concrete = function.get_concrete_function()
    with pytest.raises(FreezeError, match="has no value yet"):
        freeze_concrete_function(concrete)


def test_lookup_table_is_an_error_with_the_reason() -> None:
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
    function = tf.function(table.lookup, input_signature=[tf.TensorSpec([None], tf.string, name="words")])
    with pytest.raises(FreezeError, match=r"LookupTableFindV2.*lookup table"):
        freeze_concrete_function(function.get_concrete_function())


def test_lookup_table_of_tensorflow_1_is_an_error(tmp_path: Path) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        table = tf.compat.v1.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), -1)
        words = tf.compat.v1.placeholder(tf.string, [None], name="words")
        ids = table.lookup(words)
        session.run(tf.compat.v1.tables_initializer())
        tf.compat.v1.saved_model.simple_save(
            session, str(tmp_path / "model"), {"words": words}, {"ids": ids}, tf.compat.v1.tables_initializer()
        )
    with pytest.raises(FreezeError, match=r"LookupTableFindV2.*lookup table"):
        freeze_saved_model(tmp_path / "model")


def test_variables_that_are_gone_are_an_error() -> None:
    def make() -> Any:
        variable = tf.Variable(1.0)
        function = tf.function(lambda x: x + variable, input_signature=[tf.TensorSpec([], tf.float32)])
        return function.get_concrete_function()

    concrete = make()
    gc.collect()
    with pytest.raises(FreezeError, match="are gone"):
        freeze_concrete_function(concrete)


def test_composite_tensors_are_an_error() -> None:
    ragged = tf.function(tf.reduce_sum, input_signature=[tf.RaggedTensorSpec([None, None], tf.float32)])
    with pytest.raises(FreezeError, match=r"takes a composite tensor \(RaggedTensorSpec\)"):
        freeze_concrete_function(ragged)
    sparse = tf.function(tf.sparse.from_dense, input_signature=[tf.TensorSpec([None], tf.float32)])
    with pytest.raises(FreezeError, match=r"returns a composite tensor \(SparseTensor"):
        freeze_concrete_function(sparse)


def test_function_without_a_signature() -> None:
    @tf.function
    def function(x: Any) -> Any:
        return x + 1.0

    with pytest.raises(FreezeError, match="traced for 0 signatures"):
        freeze_concrete_function(function)
    function(tf.constant(1.0))
    assert len(freeze_concrete_function(function).inputs) == 1
    function(tf.constant([1.0]))
    with pytest.raises(FreezeError, match="traced for 2 signatures"):
        freeze_concrete_function(function)
    with pytest.raises(FreezeError, match="got int"):
        freeze_concrete_function(3)


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
