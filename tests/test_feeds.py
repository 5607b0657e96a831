from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from tf_opt.errors import InvalidFeedError
from tf_opt.feeds import check_feeds, feed_shapes, normalize_feed
from tf_opt.tensor_info import TensorInfo

IDS = TensorInfo(name="input_ids:0", dtype="int32", shape=(None, 4))
MASK = TensorInfo(name="serving_mask:0", dtype="float32", shape=None, key="mask")


def one(dtype: str, value: Any, shape: tuple[int | None, ...] | None = None) -> np.ndarray[Any, Any]:
    (array,) = normalize_feed({"x": value}, [TensorInfo(name="x:0", dtype=dtype, shape=shape)]).values()
    return array


@pytest.mark.parametrize("ids", ["input_ids", "input_ids:0"])
@pytest.mark.parametrize("mask", ["mask", "serving_mask", "serving_mask:0"])
def test_names_in_every_form(ids: str, mask: str) -> None:
    feed = normalize_feed({mask: np.ones(3, "float32"), ids: np.zeros((1, 4), "int32")}, [IDS, MASK])
    assert list(feed) == ["input_ids:0", "serving_mask:0"]
    assert feed_shapes(feed) == (("input_ids:0", (1, 4)), ("serving_mask:0", (3,)))


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({}, r"The feed lacks 'input_ids', 'mask'\. The graph takes 'input_ids', 'mask'"),
        ({"input_id": 1}, r"no input 'input_id'\. Did you mean 'input_ids'.*Its inputs: 'input_ids', 'mask'"),
        ({"mask": 1.0, "serving_mask": 1.0}, r"'mask' is fed twice, the second time as 'serving_mask'"),
        (
            [1],
            r"Expected a mapping from input names to arrays, got list\. Write \{'input_ids': \.\.\., 'mask': \.\.\.\}",
        ),
    ],
)
def test_names_that_do_not_fit(feed: Any, message: str) -> None:
    with pytest.raises(InvalidFeedError, match=message):
        normalize_feed(feed, [IDS, MASK])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((1, 4), "int64"), r"dtype int64, expected int32\. Convert it with \.astype\(\"int32\"\)\."),
        (tf.zeros((1, 4), tf.int64), r"dtype int64, expected int32"),
        (np.zeros(4, "int32"), r"rank 1 \(shape \[4\]\), expected rank 2 \(shape \[\?, 4\]\).*array\[None\]"),
        (np.zeros((1, 1, 4), "int32"), r"rank 3 .*expected rank 2 \(shape \[\?, 4\]\)\.$"),
        (np.zeros((1, 5), "int32"), r"shape \[1, 5\], expected \[\?, 4\]: dimension 1 must be 4\."),
        ([[1, 2, 3, 4], [1]], r"Rows must have one length; pad them"),
        ([[1, 2, 3, 2**31]], r"values from 1 to 2147483648, which int32 does not hold"),
        ([[1.0, 2.0, 3.0, 4.0]], r"dtype float64, which do not convert to int32 without loss"),
        ([[True, False, True, True]], r"dtype bool, which do not convert to int32"),
    ],
)
def test_values_that_do_not_fit(value: Any, message: str) -> None:
    with pytest.raises(InvalidFeedError, match=message):
        normalize_feed({"input_ids": value}, [IDS])


def test_symbolic_tensor_is_an_error() -> None:
    with tf.Graph().as_default():
        symbolic = tf.compat.v1.placeholder(tf.int32, [1, 4], name="ids")
    with pytest.raises(InvalidFeedError, match=r"symbolic tensor 'ids:0'"):
        normalize_feed({"input_ids": symbolic}, [IDS])


def test_arrays_are_not_copied() -> None:
    array = np.zeros((1, 4), "int32")
    assert normalize_feed({"input_ids": array}, [IDS])["input_ids:0"] is array


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        ("int32", [[1, 2]], np.array([[1, 2]], "int32")),
        ("uint8", 255, np.uint8(255)),
        ("float32", [1, 2], np.array([1, 2], "float32")),
        ("float32", 0.1, np.float32(0.1)),
        ("bfloat16", [0.5], np.array([0.5], ml_dtypes.bfloat16)),
        ("complex64", [1, 2], np.array([1, 2], "complex64")),
        ("bool", [True, False], np.array([True, False])),
        ("float32", [], np.array([], "float32")),
        ("string", ["a", "bc"], np.array(["a", "bc"], object)),
        ("string", np.array([b"a"]), np.array([b"a"], object)),
        ("int32", tf.constant([1]), np.array([1], "int32")),
    ],
)
def test_values_that_convert_without_loss(dtype: str, value: Any, expected: Any) -> None:
    array = one(dtype, value)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


def test_integers_that_a_float_does_not_hold_exactly() -> None:
    with pytest.raises(InvalidFeedError, match="without loss"):
        one("float32", 2**24 + 1)


def test_lists_of_feeds() -> None:
    good = {"input_ids": [[1, 2, 3, 4]]}
    assert len(check_feeds([good, good], [IDS])) == 2
    assert len(check_feeds(iter([good]), [IDS])) == 1
    with pytest.raises(InvalidFeedError, match=r"Feed 1: The feed lacks 'input_ids'"):
        check_feeds([good, {}], [IDS])
    with pytest.raises(InvalidFeedError, match="list of feeds is empty"):
        check_feeds([], [IDS])
    with pytest.raises(InvalidFeedError, match=r"Write \[feed\]"):
        check_feeds(good, [IDS])


def test_graph_without_inputs_takes_empty_feeds() -> None:
    assert check_feeds([{}], []) == [{}]
