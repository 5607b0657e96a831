from __future__ import annotations

import io
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console

from tf_opt.comparison import Comparison, compare
from tf_opt.errors import InvalidFeedError, UnknownOutputError
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.session import GraphRunner, shared_runner


def values(a: Any, b: Any, **options: Any) -> Comparison:
    """Compares two lists of arrays, one a feed."""
    feeds = [{"number": index} for index in range(len(a))]
    options.setdefault("show", False)
    return compare(
        lambda feed: {"y": np.asarray(a[feed["number"]])},
        lambda feed: {"y": np.asarray(b[feed["number"]])},
        feeds,
        **options,
    )


def test_equal_values() -> None:
    a = [np.array([[1.0, -2.0]]), np.array([[3.0, 4.0]])]
    (output,) = values(a, a).outputs
    assert output.passed
    assert (output.maximum_absolute, output.maximum_relative, output.mismatched, output.elements) == (0, 0, 0, 4)
    assert output.cosine == pytest.approx(1.0)
    assert output.worst_index is None


def test_finds_the_worst_element_over_all_feeds() -> None:
    a = [np.zeros((2, 3)), np.full((2, 3), 10.0), np.zeros((2, 3))]
    b = [array.copy() for array in a]
    b[0][0, 1] = 0.5
    b[1][1, 2] = 12.0
    result = values(a, b, atol=0.6)
    output = result["y"]
    assert not result.passed
    assert (output.maximum_absolute, output.worst_index, output.worst_feed) == (2.0, (1, 2), 1)
    assert output.maximum_relative == pytest.approx(0.2)
    assert (output.mismatched, output.elements) == (1, 18)


@pytest.mark.parametrize(("difference", "passed"), [(0.0999, True), (0.1011, False)])
def test_tolerance_is_that_of_allclose(difference: float, passed: bool) -> None:
    a, b = [np.array([10.0])], [np.array([10.0 + difference])]
    assert values(a, b, rtol=0.01, atol=0.0001).passed is passed
    assert np.allclose(b[0], a[0], rtol=0.01, atol=0.0001) is passed


def test_cosine() -> None:
    assert values([np.array([1.0, 0.0])], [np.array([0.0, 1.0])])["y"].cosine == pytest.approx(0.0)
    assert values([np.array([1.0, 1.0])], [np.array([-2.0, -2.0])])["y"].cosine == pytest.approx(-1.0)
    assert values([np.zeros(2)], [np.zeros(2)])["y"].cosine == 1.0
    assert values([np.zeros(2)], [np.ones(2)])["y"].cosine == 0.0


def test_nan_and_infinity() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert values([special], [special]).passed
    for index, value in ((0, 1.0), (1, -np.inf), (1, np.nan), (3, np.nan), (3, np.inf)):
        other = special.copy()
        other[index] = value
        output = values([special], [other], atol=1e6, rtol=1e6)["y"]
        assert not output.passed
        assert (output.maximum_absolute, output.worst_index, output.mismatched) == (np.inf, (index,), 1)


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", ml_dtypes.bfloat16])
def test_inexact_dtypes_have_a_tolerance(dtype: Any) -> None:
    a, b = np.array([1.0, 2.0]).astype(dtype), np.array([1.0, 2.25]).astype(dtype)
    assert values([a], [b], atol=0.3).passed
    output = values([a], [b], atol=0.2)["y"]
    assert not output.passed
    assert output.maximum_absolute == 0.25


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True, True]), np.array([True, False])),
        (np.array([b"a", b"b"], object), np.array([b"a", b"c"], object)),
    ],
)
def test_other_dtypes_must_be_equal(a: Any, b: Any) -> None:
    assert values([a], [a]).passed
    output = values([a], [b], atol=10, rtol=10)["y"]
    assert not output.passed
    assert (output.mismatched, output.worst_index, output.maximum_absolute) == (1, (1,), 1.0)


def test_integer_differences_do_not_overflow() -> None:
    limits = np.iinfo("int64")
    output = values([np.array([limits.min])], [np.array([limits.max])])["y"]
    assert output.maximum_absolute == pytest.approx(2.0**64)
    assert values([np.uint8([1])], [np.uint8([2])])["y"].maximum_absolute == 1.0


def test_scalars_and_empty_arrays() -> None:
    assert values([np.float32(1.0)], [np.float32(1.0)]).passed
    output = values([np.float32(1.0)], [np.float32(2.0)])["y"]
    assert (output.worst_index, output.maximum_absolute) == ((), 1.0)
    assert values([np.zeros((0, 3))], [np.zeros((0, 3))])["y"].elements == 0


def test_shapes_and_dtypes_must_agree() -> None:
    assert values([np.zeros(2)], [np.zeros((2, 1))])["y"].problem == "shapes [2] and [2, 1] (feed 0)"
    output = values([np.zeros(2), np.zeros(2)], [np.zeros(2), np.zeros(2, "float32")])["y"]
    assert output.problem == "dtypes float64 and float32 (feed 1)"
    assert not output.passed


def graph(factor: float, *names: str) -> FrozenGraph:
    with tf.Graph().as_default() as built:
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        for name in names:
            tf.multiply(x, factor, name=name)
    return frozen_from_graph_def(built.as_graph_def(), names)


def test_graphs_runners_and_functions() -> None:
    feeds = [{"x": np.ones(2, "float32")}, {"x": np.ones(3, "float32")}]
    assert compare(graph(2.0, "y"), graph(2.0, "y"), feeds, show=False).passed
    with GraphRunner(graph(2.0, "y")) as runner:
        assert not compare(runner, lambda feed: {"y": feed["x"] * 3}, feeds, show=False).passed
        runner.run(feeds[0])  # It is still open.


def test_sessions_are_shared_with_run() -> None:
    frozen = graph(2.0, "y")
    runner = shared_runner(frozen)
    feeds = [{"x": np.ones(2, "float32")}]
    assert compare(frozen, frozen, feeds, show=False).passed
    assert shared_runner(frozen) is runner
    runner.run(feeds[0])


def test_outputs_are_matched_by_key() -> None:
    feeds = [{"x": np.ones(2, "float32")}]
    assert [output.key for output in compare(graph(1.0, "b"), graph(1.0, "a", "b"), feeds, show=False).outputs] == ["b"]
    with pytest.raises(UnknownOutputError, match=r"second graph has no output 'logits'\. Did you mean 'logit'"):
        compare(graph(1.0, "logits"), graph(1.0, "logit"), feeds, show=False)
    with pytest.raises(UnknownOutputError, match="No output 'x' was compared"):
        values([np.zeros(1)], [np.zeros(1)])["x"]


def test_feeds_are_checked_before_anything_runs() -> None:
    good, bad = {"x": np.ones(2, "float32")}, {"x": np.ones(2)}
    with pytest.raises(InvalidFeedError, match=r"Feed 1: .*dtype float64"):
        compare(lambda feed: pytest.fail("ran"), graph(1.0, "y"), [good, bad])
    with pytest.raises(InvalidFeedError, match="empty"):
        compare(graph(1.0, "y"), graph(1.0, "y"), [])
    with pytest.raises(InvalidFeedError, match=r"\[feed\]"):
        compare(graph(1.0, "y"), graph(1.0, "y"), good)


def test_table_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    result = values([np.zeros((2, 3))], [np.eye(2, 3)])
    assert capsys.readouterr().out == ""
    stream = io.StringIO()
    result.print(Console(file=stream, width=120))
    text = stream.getvalue()
    assert "float64 2×3" in text
    assert "2/6" in text
    assert "[0, 0], feed 0" in text
    assert " no " in text
    values([np.zeros(1)], [np.zeros(1)], show=True)
    assert "Comparison over 1 feed" in capsys.readouterr().out


def test_minimum_cosine_is_that_of_the_worst_sample() -> None:
    a = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[[3.0], [4.0]]])]
    b = [np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[[4.0], [3.0]]])]
    output = values(a, b)["y"]
    assert output.minimum_cosine == pytest.approx(np.sqrt(0.5))
    assert values(a[1:], b[1:])["y"].minimum_cosine == pytest.approx(24 / 25)
    # One large sample that is right hides a small one that is wrong from the cosine over all elements.
    a, b = [np.array([[1e6, 0.0], [1.0, 0.0]])], [np.array([[1e6, 0.0], [0.0, 1.0]])]
    assert values(a, b)["y"].cosine > 0.999
    assert values(a, b)["y"].minimum_cosine == 0.0


def test_minimum_cosine_of_zeros_scalars_and_extremes() -> None:
    def lowest(a: Any, b: Any) -> float | None:
        return values([np.asarray(a)], [np.asarray(b)])["y"].minimum_cosine

    assert lowest([[0.0, 0.0], [1.0, 2.0]], [[0.0, 0.0], [1.0, 2.0]]) == pytest.approx(1.0)
    assert lowest([[0.0, 0.0]], [[0.0, 1e-30]]) == 0.0
    assert lowest(2.0, 3.0) == 1.0
    assert lowest(2.0, -3.0) == -1.0
    assert lowest([[1e200, 1e200]], [[1e200, 0.0]]) == pytest.approx(np.sqrt(0.5))
    assert lowest([[1e-200, 1e-200]], [[1e-200, 0.0]]) == pytest.approx(np.sqrt(0.5))
    assert lowest([[1j, 1.0]], [[1j, 1.0]]) == pytest.approx(1.0)
    assert lowest([[np.nan, 1.0, np.inf]], [[np.nan, 1.0, np.inf]]) == 1.0
    assert lowest([[1.0, 1.0]], [[1.0, np.nan]]) == -1.0
    assert lowest([[1.0, np.inf]], [[1.0, -np.inf]]) == -1.0
    assert lowest(np.zeros((0, 3)), np.zeros((0, 3))) is None
    assert lowest([1, 2], [1, 3]) is None
    assert values([np.ones(2)], [np.ones(3)])["y"].minimum_cosine == -1.0


def tokens(fed: Any, a: Any, b: Any, **options: Any) -> Comparison:
    """Compares one feed of functions whose input is called attention_mask."""
    return compare(
        lambda feed: {"y": np.asarray(a, float)},
        lambda feed: {"y": np.asarray(b, float)},
        [{"attention_mask": np.asarray(fed)}],
        show=False,
        **options,
    )


def test_with_a_mask_only_real_tokens_count() -> None:
    mask = [[1, 1, 0], [1, 0, 0]]
    a = np.arange(12.0).reshape(2, 3, 2)
    b = a * np.asarray(mask)[:, :, None]
    assert not tokens(mask, a, b).passed
    output = tokens(mask, a, b, mask="attention_mask")["y"]
    assert output.passed
    assert (output.elements, output.shape, output.maximum_absolute) == (6, (2, 3, 2), 0.0)
    assert output.minimum_cosine == pytest.approx(1.0)
    b[1, 0, 1] += 5.0
    output = tokens(mask, a, b, mask="attention_mask:0")["y"]
    assert (output.worst_index, output.worst_feed, output.maximum_absolute) == ((1, 0, 1), 0, 5.0)
    assert (output.mismatched, output.passed) == (1, False)
    assert output.minimum_cosine == pytest.approx((6 * 6 + 7 * 12) / np.hypot(6, 7) / np.hypot(6, 12))
    assert not tokens([[1]], a, b, mask=[np.asarray(mask)]).passed
    assert tokens([[1]], a, b, mask=[[[True, True, False], [False, False, False]]]).passed


def test_a_sample_without_real_tokens_has_no_cosine() -> None:
    a, b = [[[1.0, 0.0]], [[1.0, 0.0]]], [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert tokens([[1], [0]], a, b, mask="attention_mask")["y"].minimum_cosine == 1.0
    assert tokens([[0], [0]], a, b, mask="attention_mask")["y"].minimum_cosine is None


def test_other_outputs_are_compared_whole() -> None:
    mask = np.array([[1, 0, 0], [1, 1, 0]])
    assert not tokens(mask, [[1.0, 2.0]] * 2, [[1.0, 3.0]] * 2, mask="attention_mask").passed
    assert not tokens(mask, [1.0, 2.0], [1.0, 3.0], mask="attention_mask").passed


@pytest.mark.parametrize(("declared", "passed"), [((None, None), True), ((None, 3), False)])
def test_a_pooled_output_as_long_as_the_sequence_is_no_list_of_tokens(declared: Any, passed: bool) -> None:
    with tf.Graph().as_default() as built:
        mask = tf.compat.v1.placeholder(tf.int32, [None, None], name="mask")
        tf.ensure_shape(tf.cast(mask, tf.float32), declared, name="y")
    frozen = frozen_from_graph_def(built.as_graph_def(), ["y"])
    feeds = [{"mask:0": np.array([[1, 1, 0]], "int32")}]
    assert compare(frozen, lambda _: {"y": np.ones((1, 3), "float32")}, feeds, mask="mask", show=False).passed is passed


def test_masks_that_do_not_fit() -> None:
    with pytest.raises(InvalidFeedError, match=r"no input 'atention_mask'.* Did you mean 'attention_mask'"):
        tokens([[1]], [[1.0]], [[1.0]], mask="atention_mask")
    with pytest.raises(
        InvalidFeedError, match=r"'attention_mask' of feed 0 has the shape \[2\]; expected \[batch, seq"
    ):
        tokens([1, 0], [[1.0]], [[1.0]], mask="attention_mask")
    with pytest.raises(InvalidFeedError, match="has dtype bytes"):
        tokens(np.array([[b"yes"]]), [[1.0]], [[1.0]], mask="attention_mask")
    with pytest.raises(InvalidFeedError, match="2 masks for 1 feeds"):
        tokens([[1]], [[1.0]], [[1.0]], mask=[np.ones((1, 1))] * 2)
    with pytest.raises(
        InvalidFeedError, match=r"shape \[1, 7\], with which no input and no output begins: attention_ma"
    ):
        tokens([[1]], [[1.0]], [[1.0]], mask=[np.ones((1, 7))])
    feeds = [{"x": np.ones(2, "float32")}]
    with pytest.raises(InvalidFeedError, match=r"no input 'mask'.* The inputs are: 'x'"):
        compare(graph(1.0, "y"), graph(1.0, "y"), feeds, mask="mask", show=False)
