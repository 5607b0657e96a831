from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import tf_opt
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.small_graphs import engine_nodes, run_graph_def
from tf_opt import errors
from tf_opt.engines.openvino import OpenVINOBackend
from tf_opt.engines.tensorrt.settings import TensorRTSettings

RANGE = {"ids": ((1, 4), (2, 8), (4, 16))}


def model() -> object:
    """ids, mask [?, ?] -> Betainc, which no engine takes -> [?, ?, 4] -> "y"; and a Reshape by the shape `target`."""
    graph = tf.Graph()
    with graph.as_default():
        ids = tf.compat.v1.placeholder(tf.float32, [None, None], name="ids")
        mask = tf.compat.v1.placeholder(tf.float32, [None, None], name="mask")
        target = tf.compat.v1.placeholder(tf.int32, [2], name="target")
        middle = tf.math.betainc(2.0, 3.0, tf.sigmoid(ids * mask), name="between")
        wide = tf.nn.relu(middle[:, :, None] * tf.constant(np.ones(4, np.float32)))
        tf.reshape(tf.tanh(wide) * 0.5, target, name="y")
    return graph.as_graph_def()


def fed(batch, length, columns=4):
    random = np.random.default_rng(batch)
    return {
        "ids:0": random.normal(size=(batch, length)).astype(np.float32),
        "mask:0": np.ones((batch, length), np.float32),
        "target:0": np.array([batch * length * 4 // columns, columns], np.int32),
    }


@pytest.fixture
def profiles_of(monkeypatch):
    """Returns the profiles that a backend which asks for them gets, of each segment."""

    def run(feeds, **settings):
        found = []
        original = OpenVINOBackend.build

        def build(self, segment, profiles=()):
            names = [info.name for info in segment.inputs]
            found.append([(names, profile) for profile in profiles])
            return original(self, segment, profiles)

        monkeypatch.setattr(OpenVINOBackend, "wants_profiles", True)
        monkeypatch.setattr(OpenVINOBackend, "build", build)
        optimizer = tf_opt.Tf2TrtOpt(
            engine="openvino",
            adopt="always",
            minimum_segment_size=2,
            tensorrt=TensorRTSettings(**settings),
            strict=True,
        )
        optimized = optimizer.optimize_graph_def(model(), ["y:0"], feeds)
        assert engine_nodes(optimized)
        return found

    return run


def shapes(entry, tensor):
    names, profile = entry
    key = f"input_{names.index(tensor)}"
    return profile.minimum[key], profile.optimum[key], profile.maximum[key]


def behind(found):
    """The profiles of the segment behind the op that no engine takes."""
    (profiles,) = (each for each in found if any("between:0" in names for names, _ in each))
    return profiles


def test_range_of_the_feeds_reaches_a_segment_that_begins_inside(profiles_of):
    (profile,) = behind(profiles_of([fed(1, 16), fed(4, 4), fed(4, 4), fed(2, 8)]))
    assert shapes(profile, "between:0") == ((1, 4), (4, 4), (4, 16))


def test_optimal_makes_one_profile_of_each_shape(profiles_of):
    profiles = behind(profiles_of([fed(1, 16), fed(2, 8), fed(1, 16)], profile_strategy="optimal"))
    assert [shapes(profile, "between:0") for profile in profiles] == [((1, 16),) * 3, ((2, 8),) * 3]


def test_range_and_optimal_has_the_tuned_ones_first(profiles_of):
    profiles = behind(profiles_of([fed(1, 16), fed(2, 8)], profile_strategy="range+optimal"))
    assert [shapes(profile, "between:0") for profile in profiles] == [
        ((1, 16),) * 3,
        ((2, 8),) * 3,
        ((1, 8), (1, 16), (2, 16)),
    ]


def test_ranges_begin_at_what_has_elements(profiles_of):
    empty = [fed(0, 16), fed(3, 0)]
    (profile,) = behind(profiles_of([*empty, *empty, fed(2, 4), fed(1, 12)]))
    assert shapes(profile, "between:0") == ((1, 4), (1, 12), (2, 12))
    profiles = behind(profiles_of([*empty, fed(2, 4)], profile_strategy="optimal"))
    assert [shapes(profile, "between:0") for profile in profiles] == [((2, 4),) * 3]


def test_feeds_without_elements_alone(profiles_of):
    with pytest.raises(errors.EngineBuildError, match=r"has no elements with any of the feeds"):
        profiles_of([fed(0, 16)])


def test_equal_profiles_are_one(profiles_of):
    profiles = behind(profiles_of([fed(2, 8)], profile_strategy="range+optimal"))
    assert len(profiles) == 1


def test_given_ranges_serve_inputs_of_the_same_static_shape_too(profiles_of):
    found = profiles_of([fed(1, 4)], profiles=[RANGE])
    (profile,) = behind(found)
    assert shapes(profile, "between:0") == RANGE["ids"]
    (front,) = (each for each in found if any("ids:0" in names for names, _ in each))
    assert shapes(front[0], "mask:0") == RANGE["ids"]


def test_several_given_ranges_stay_apart(profiles_of):
    profiles = behind(profiles_of([fed(1, 4)], profiles=[RANGE, {"ids:0": ((8, 4), (8, 4), (8, 4))}]))
    assert [shapes(profile, "between:0")[1] for profile in profiles] == [(2, 8), (8, 4)]


def test_values_of_integers_that_may_be_a_shape(profiles_of):
    ((names, profile),) = behind(profiles_of([fed(1, 16), fed(2, 8, columns=2), fed(1, 16)]))
    assert profile.values == {f"input_{names.index('target:0')}": ((16, 2), (16, 4), (32, 4))}


def sliced() -> object:
    """x[:count] -> "y": what flows behind the slice depends on a value."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 8], name="x")
        count = tf.compat.v1.placeholder(tf.int32, [], name="count")
        rows = tf.math.betainc(2.0, 3.0, tf.sigmoid(x[:count]), name="between")
        tf.identity(tf.nn.relu(rows * 2.0) + 1.0, name="y")
    return graph.as_graph_def()


def test_sizes_that_depend_on_values_are_those_of_all_feeds():
    feeds = [{"x:0": np.ones([6, 8], np.float32), "count:0": np.int32(count)} for count in (3, 5)]
    with simulated_tensorrt("10.16"):
        optimizer = tf_opt.Tf2TrtOpt(engine="tensorrt", adopt="always", keep_fallback=False, cache=False)
        optimized = optimizer.optimize_graph_def(sliced(), ["y:0"], feeds)
        assert engine_nodes(optimized)
        for feed in feeds:
            actual, expected = (run_graph_def(each, ["y:0"], feed)[0] for each in (optimized, sliced()))
            np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_sizes_of_zero_run_the_original_nodes():
    feeds = [{"x:0": np.ones([6, 8], np.float32), "count:0": np.int32(count)} for count in (0, 5, 3)]
    with simulated_tensorrt("10.16"):
        optimizer = tf_opt.Tf2TrtOpt(engine="tensorrt", adopt="always", cache=False)
        optimized = optimizer.optimize_graph_def(sliced(), ["y:0"], feeds)
        assert engine_nodes(optimized)
        for feed in feeds:
            actual, expected = (run_graph_def(each, ["y:0"], feed)[0] for each in (optimized, sliced()))
            np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_why_a_segment_without_elements_has_no_engine_is_said():
    feeds = [{"x:0": np.ones([6, 8], np.float32), "count:0": np.int32(0)}]
    with simulated_tensorrt("10.16"):
        optimizer = tf_opt.Tf2TrtOpt(engine="tensorrt", adopt="always", cache=False)
        assert not engine_nodes(optimizer.optimize_graph_def(sliced(), ["y:0"], feeds))
    (segment,) = optimizer.report.segments
    assert "has no elements with any of the feeds" in segment.reason


def test_an_input_of_varying_rank_stays_with_tensorflow():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.compat.v1.placeholder(tf.float32, None, name="x")
        tf.add(tf.tanh(x * 2.0 + 1.0) * 0.5, x, name="y")
    feeds = [{"x:0": np.ones(shape, np.float32)} for shape in ((3, 4), (2, 3, 4))]
    with simulated_tensorrt("10.16"):
        optimizer = tf_opt.Tf2TrtOpt(engine="tensorrt", adopt="always", cache=False)
        assert not engine_nodes(optimizer.optimize_graph_def(graph.as_graph_def(), ["y:0"], feeds))
    assert any("unknown rank" in node.reason for node in optimizer.report.refused)


def test_a_shape_outside_of_all_profiles_is_an_error_that_names_the_input():
    given = {"ids:0": np.ones([1, 4], np.float32)}
    graph = tf.Graph()
    with graph.as_default():
        ids = tf.compat.v1.placeholder(tf.float32, [None, None], name="ids")
        tf.identity(tf.nn.relu(tf.tanh(ids) * 2.0) + 1.0, name="y")
    with simulated_tensorrt("10.16"):
        optimizer = tf_opt.Tf2TrtOpt(engine="tensorrt", adopt="always", keep_fallback=False, cache=False)
        optimized = optimizer.optimize_graph_def(graph.as_graph_def(), ["y:0"], [given])
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            run_graph_def(optimized, ["y:0"], {"ids:0": np.ones([2, 4], np.float32)})
    message = str(caught.value)
    assert "input_0 ('ids:0') has the shape (2, 4); the engine takes (1, 4) to (1, 4). The node" in message


def test_a_largest_shape_that_no_machine_holds(profiles_of):
    with pytest.raises(errors.InvalidOptionError, match=r"takes 4096 GiB"):
        profiles_of([fed(1, 4)], profiles=[{"ids": ((1, 4), (1, 4), (2**20, 2**20))}])


def test_one_input_under_two_names(profiles_of):
    with pytest.raises(errors.InvalidOptionError, match="twice"):
        profiles_of([fed(1, 4)], profiles=[{"ids": RANGE["ids"], "ids:0": RANGE["ids"]}])


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"idz": RANGE["ids"]}, "Did you mean 'ids'"),
        ({"ids": ((1,), (2,), (4,))}, "Give its rank"),
        ({"target": ((1,), (2,), (4,))}, "fixed dimensions"),
    ],
)
def test_ranges_that_do_not_fit_the_graph(profiles_of, profile, message):
    with pytest.raises(errors.InvalidOptionError, match=message):
        profiles_of([fed(1, 4)], profiles=[profile])


def test_shapes_that_the_graph_does_not_take_together_are_an_error(profiles_of):
    with pytest.raises(errors.EngineBuildError, match="cannot be found out"):
        profiles_of([fed(1, 4)], profiles=[{**RANGE, "mask": ((3, 4), (3, 8), (3, 16))}])
