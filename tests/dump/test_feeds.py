"""What flows into a segment is stored within bounds, and read back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.small_graphs import feed, mlp
from tf_opt import errors
from tf_opt.dump.feeds import read_feeds, write_feeds
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.segment import segment_graph
from tf_opt.tensor_info import TensorInfo
from tf_opt.weights import detach_weights

INPUTS = (TensorInfo(name="x:0", dtype="float32", shape=(None, 16)),)


@pytest.fixture(scope="module")
def segmented():
    light, weights = detach_weights(mlp())
    segmentation = segment_graph(light, Border(("x",), ("y:0",)), is_supported=lambda *_: None)
    return light, weights, segmentation.segments[0]


def test_one_feed_of_each_shape_is_kept(segmented, tmp_path):
    feeds = [feed(3), feed(3, seed=1), feed(5)]
    assert write_feeds(tmp_path / "feeds.npz", *segmented, feeds) == (True, "")
    read = read_feeds(tmp_path / "feeds.npz", INPUTS)
    assert [each["input_0:0"].shape for each in read] == [(3, 16), (5, 16)]
    np.testing.assert_array_equal(read[0]["input_0:0"], feeds[0]["x:0"])


def test_feeds_that_are_too_large_are_left_out(segmented, tmp_path):
    feeds = [feed(3), feed(500), feed(5)]
    is_there, reason = write_feeds(tmp_path / "feeds.npz", *segmented, feeds, maximum_bytes=1000)
    assert is_there
    assert reason == "1 of 3 feeds would make it larger than 1,000 bytes"
    assert [len(each["input_0:0"]) for each in read_feeds(tmp_path / "feeds.npz", INPUTS)] == [3, 5]
    is_there, reason = write_feeds(tmp_path / "none.npz", *segmented, feeds, maximum_bytes=10)
    assert not is_there
    assert reason.startswith("3 of 3 feeds")
    assert not (tmp_path / "none.npz").exists()


def test_without_feeds_there_is_no_file(segmented, tmp_path):
    assert write_feeds(tmp_path / "feeds.npz", *segmented, []) == (False, "there were no feeds")


def test_arrays_of_the_user(tmp_path):
    np.savez(tmp_path / "one.npz", input_0=np.ones([2, 16], np.float32))
    (read,) = read_feeds(tmp_path / "one.npz", INPUTS)
    assert read["input_0:0"].shape == (2, 16)
    np.savez(tmp_path / "short.npz", input_1=np.ones(3))
    with pytest.raises(errors.DumpError, match=r"no array 'input_0' \(it holds input_1\)"):
        read_feeds(tmp_path / "short.npz", INPUTS)
    np.savez(tmp_path / "double.npz", input_0=np.ones([2, 16]))
    with pytest.raises(errors.DumpError, match=r"dtype float64; x:0 takes float32"):
        read_feeds(tmp_path / "double.npz", INPUTS)


def test_types_that_numpy_does_not_know_come_back(tmp_path):
    np.savez(tmp_path / "half.npz", input_0=np.array([1.5, 2.0], ml_dtypes.bfloat16))
    (read,) = read_feeds(tmp_path / "half.npz", (TensorInfo(name="x:0", dtype="bfloat16", shape=(None,)),))
    assert read["input_0:0"].dtype == ml_dtypes.bfloat16
    assert read["input_0:0"].tolist() == [1.5, 2.0]
