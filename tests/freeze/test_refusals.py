"""What cannot be frozen is an error with the reason."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.python.ops.resource_variable_ops import UninitializedVariable

from tf_opt.errors import FreezeError
from tf_opt.freeze.models import freeze_concrete_function, freeze_saved_model


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
