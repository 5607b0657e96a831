from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import InvalidFeedError, InvalidOptionError
from tf_opt.freeze.models import freeze_keras
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.random_feeds import random_feeds
from tf_opt.session import GraphRunner
from tf_opt.weights import detach_weights


def graph(**inputs: tuple[Any, list[int | None] | None]) -> FrozenGraph:
    with tf.Graph().as_default() as built:
        for name, (dtype, shape) in inputs.items():
            tf.identity(tf.compat.v1.placeholder(dtype, shape, name=name), name=f"{name}_out")
    return frozen_from_graph_def(built.as_graph_def())


TEXT = {name: (tf.int32, [None, None]) for name in ("input_ids", "attention_mask", "token_type_ids")}


def embedding_graph() -> graph_pb2.GraphDef:
    """Looks ids up in a table of 7 rows inside a function, and types in one of 2 through Cast and Reshape."""
    table, types = tf.constant(np.ones((7, 100), "float32")), tf.constant(np.ones((2, 3), "float32"))

    @tf.function(experimental_attributes={"_noinline": True})
    def look_up(rows: Any, ids: Any) -> Any:
        return tf.gather(rows, tf.reshape(ids, [-1]))

    with tf.Graph().as_default() as built:
        ids = tf.compat.v1.placeholder(tf.int64, [None, None], name="words")
        kinds = tf.compat.v1.placeholder(tf.int32, [None, None], name="kinds")
        classes = tf.compat.v1.placeholder(tf.int32, [None], name="classes")
        weights = tf.compat.v1.placeholder(tf.int32, [None, None], name="weights")
        free = tf.compat.v1.placeholder(tf.int32, [None, None], name="free")
        tf.identity(look_up(tf.constant(table.numpy()), ids), name="a")
        tf.gather(tf.constant(types.numpy()), tf.reshape(tf.cast(kinds, tf.int64), [-1]), name="b")
        tf.one_hot(classes, 5, name="c")
        tf.multiply(1.0 - tf.cast(weights[:, None, :], tf.float32), -1e9, name="d")
        tf.identity(free, name="e")
    graph_def: graph_pb2.GraphDef = built.as_graph_def()
    return graph_def


def test_meaning_is_read_off_the_graph() -> None:
    (feed,) = random_feeds(embedding_graph(), batch=40, sequence=9)
    assert feed["words"].dtype == np.int64
    assert set(np.unique(feed["words"])) == set(range(7))
    assert set(np.unique(feed["kinds"])) == {0, 1}
    assert set(np.unique(feed["classes"])) == set(range(5))
    # Ones and then zeros: never rising, at least one 1 in each row, not all rows alike.
    assert set(np.unique(feed["weights"])) == {0, 1}
    assert (np.diff(feed["weights"], axis=1) <= 0).all()
    assert (feed["weights"][:, 0] == 1).all()
    assert len(set(feed["weights"].sum(axis=1))) > 2
    assert 20 < feed["free"].max() < 100


def test_light_graphs_give_the_same_feeds() -> None:
    light, _ = detach_weights(embedding_graph())
    for a, b in zip(random_feeds(light, seed=3), random_feeds(embedding_graph(), seed=3), strict=True):
        assert set(a) == set(b) == {"words", "kinds", "classes", "weights", "free"}
        assert all((a[name] == b[name]).all() for name in a)
    assert random_feeds(light, batch=40)[0]["words"].max() == 6


def test_feeds_of_a_hugging_face_model_run() -> None:
    config = transformers.BertConfig(
        num_hidden_layers=1, hidden_size=32, num_attention_heads=2, intermediate_size=64, vocab_size=50
    )
    frozen = freeze_keras(transformers.TFBertModel(config))
    with GraphRunner(frozen) as runner:
        for feed in random_feeds(frozen, batch=8, sequence=20, count=5):
            assert set(feed) == set(TEXT)
            assert feed["input_ids"].max() < 50
            assert set(np.unique(feed["token_type_ids"])) <= {0, 1}
            assert np.isfinite(runner.run(feed)["last_hidden_state"]).all()


def test_one_shape_serves_inputs_of_the_same_static_shape() -> None:
    (feed,) = random_feeds(graph(**TEXT, label=(tf.float32, [None])), {"input_ids:0": (8, 128)})
    assert {name: array.shape for name, array in feed.items()} == dict.fromkeys(TEXT, (8, 128)) | {"label": (8,)}


def test_batch_and_sequence() -> None:
    frozen = graph(**TEXT, image=(tf.float32, [None, 4, 4, 3]), scalar=(tf.float32, []))
    (feed,) = random_feeds(frozen, batch=3, sequence=5)
    assert feed["input_ids"].shape == (3, 5)
    assert feed["image"].shape == (3, 4, 4, 3)
    assert feed["scalar"].shape == ()


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint8", 0, 255), ("int8", 0, 99), ("int64", 0, 99), ("bool", 0, 1), ("float16", -8, 8)]
)
def test_range_of_a_dtype(dtype: str, low: float, high: float) -> None:
    (array,) = random_feeds(graph(x=(dtype, [None, 300])), batch=20)[0].values()
    assert array.dtype == dtype
    assert low <= array.min() < array.max() <= high
    assert len(np.unique(array)) > (high - low) / 10


def test_strings_and_complex_numbers() -> None:
    feed = random_feeds(graph(s=(tf.string, [None]), c=(tf.complex64, [None])), batch=6)[0]
    assert all(isinstance(word, bytes) for word in feed["s"])
    assert feed["c"].dtype == np.complex64
    assert (feed["c"].imag != 0).all()


def test_the_seed_decides() -> None:
    frozen = graph(**TEXT)
    first, again, other = (random_feeds(frozen, count=2, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        assert all((a[name] == b[name]).all() for name in TEXT)
    assert (first[0]["input_ids"] != other[0]["input_ids"]).any()
    assert (first[0]["input_ids"] != first[1]["input_ids"]).any()


@given(batch=st.integers(1, 3), sequence=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_ids_are_never_all_the_same(batch: int, sequence: int, seed: int) -> None:
    (feed,) = random_feeds(TEXT_GRAPH, batch=batch, sequence=sequence, seed=seed)
    assert batch * sequence == 1 or len(np.unique(feed["input_ids"])) > 1
    assert (feed["attention_mask"][:, 0] == 1).all()


TEXT_GRAPH = graph(**TEXT)


def test_shapes_that_do_not_fit() -> None:
    frozen = graph(x=(tf.float32, [None, 3]), y=(tf.float32, [None, None, None]), z=(tf.float32, None))
    with pytest.raises(InvalidFeedError, match=r"\[2, 4\] does not fit the input x:0"):
        random_feeds(frozen, {"x": (2, 4)})
    with pytest.raises(InvalidFeedError, match=r"no input 'xx'"):
        random_feeds(frozen, {"xx": (2, 3)})
    with pytest.raises(InvalidFeedError, match=r"y:0 .*cannot be made up. Give a shape for 'y'"):
        random_feeds(frozen, {"z": (1,)})
    with pytest.raises(InvalidFeedError, match=r"z:0 float32 <unknown rank> .*cannot be made up"):
        random_feeds(frozen, {"y": (1, 2, 3)})
    assert random_feeds(frozen, {"y": (1, 2, 3), "z": ()})[0]["z"].shape == ()
    for options in ({"batch": 0}, {"sequence": 0}, {"count": 0}):
        with pytest.raises(InvalidOptionError, match="must be at least 1"):
            random_feeds(frozen, **options)


@pytest.mark.parametrize("size", [10**12, 10**20])
def test_sizes_beyond_the_memory(size: int) -> None:
    with pytest.raises(InvalidFeedError, match="Give smaller sizes"):
        random_feeds(graph(x=(tf.float32, [None, 64])), {"x": (size, 64)})
