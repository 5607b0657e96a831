from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from rich.progress import Progress

from tests.quantization.segments import block, feeds_of, matrix, model_of, run
from tf_opt.errors import CalibrationError
from tf_opt.quantization import QuantizationSettings
from tf_opt.quantization.calibration import SAMPLED_ROWS, collect, select_feeds
from tf_opt.quantization.layers import find_layers, groups_of

SETTINGS = QuantizationSettings()


def select(feeds, model=None, **settings):
    return select_feeds(model or block(), feeds, QuantizationSettings(**settings))


def observed(model, feeds):
    groups = groups_of(find_layers(model, SETTINGS)[0])
    return collect(model, groups, feeds, Progress(disable=True))


def test_feeds_that_fit_are_taken_without_a_word():
    feeds, notes = select(feeds_of(block()))
    assert len(feeds) == 8
    assert not notes


def test_of_a_list_feeds_are_taken_evenly_and_of_an_iterator_the_first():
    feeds = feeds_of(block(), count=10, rows=20)
    for index, feed in enumerate(feeds):
        feed["input_0"][:] += index
    order = {feed["input_0"].tobytes(): index for index, feed in enumerate(feeds)}

    def taken(calibration, **settings):
        return [order[feed["input_0"].tobytes()] for feed in select(calibration, **settings)[0]]

    assert taken(feeds, maximum_samples=5) == [0, 2, 4, 6, 8]
    assert taken(feeds, maximum_rows=100) == [0, 2, 4, 6, 8]
    assert taken(iter(feeds), maximum_samples=5) == [0, 1, 2, 3, 4]
    assert taken(iter(feeds), maximum_rows=100) == [0, 1, 2, 3, 4]
    assert taken(feeds, maximum_rows=1) == [0]


def test_an_endless_iterator_ends():
    def endless():
        while True:
            yield feeds_of(block(), count=1)[0]

    assert len(select(endless())[0]) == SETTINGS.maximum_rows // 40 + 1


def test_too_few_equal_or_constant_feeds_are_noted():
    few = feeds_of(block(), count=2, rows=5)
    assert "Only 10 rows (tokens) in 2 feeds" in select(few)[1][0]
    assert "All 20 calibration feeds are equal" in select(few[:1] * 20, maximum_rows=10**6)[1][1]
    zeros = [{"input_0": np.zeros((1, 200, 64), np.float32)}]
    (note,) = select(zeros)[1]
    assert "filled with one number" in note


def test_equal_samples_are_noted_wherever_they_stand():
    random = np.random.default_rng(0)
    sample = random.normal(size=(1, 60, 64)).astype(np.float32)
    assert not select([{"input_0": np.concatenate([sample, -sample, sample])}])[1]
    for feeds in ([np.repeat(sample, 4, axis=0)], [np.repeat(sample, 2, axis=0), sample]):
        (note,) = select([{"input_0": feed} for feed in feeds])[1]
        assert "samples in the calibration feeds are equal" in note
    word = np.repeat(sample[:, :1], 100, axis=1)
    (note,) = select([{"input_0": word}, {"input_0": np.repeat(word, 2, axis=0)}])[1]
    assert "the same row at all places of all calibration feeds" in note
    assert not select([{"input_0": word}, {"input_0": -word}])[1]


def test_ids_are_one_a_row():
    model = model_of(
        """g (int32[B, S] input_0) => (float[B, S, 64] y) {
            rows = Gather (table, input_0)
            y = MatMul (rows, w)
        }""",
        table=matrix(0),
        w=matrix(1),
    )
    random = np.random.default_rng(0)
    feeds = [{"input_0": random.integers(0, 64, (2, 50)).astype(np.int32)} for _ in range(4)]
    assert not select(feeds, model)[1]
    assert "filled with one number" in select([{"input_0": np.full((4, 50), 7, np.int32)}], model)[1][0]
    assert "Only 100 rows (tokens) in 1 feeds" in select(feeds[:1], model)[1][0]
    assert len(select(feeds, model, maximum_rows=200)[0]) == 2


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([], "no calibration feed"),
        ({"input_0": np.zeros(3)}, "single mapping"),
        ([np.zeros(3)], "is a ndarray; expected arrays by input name"),
        ([{"input_1": np.zeros((1, 2, 64), np.float32)}], r"Missing: \['input_0'\]; unknown: \['input_1'\]"),
        ([{"input_0": np.zeros((1, 2, 64), np.float64)}], "is float64; the segment takes float32"),
        ([{"input_0": np.zeros((1, 2, 65), np.float32)}], r"shape \[1, 2, 65\]"),
        ([{"input_0": np.zeros((2, 64), np.float32)}], r"shape \[2, 64\]"),
        ([{"input_0": np.zeros((0, 2, 64), np.float32)}], r"shape \[0, 2, 64\], which is nothing"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(feeds, message):
    with pytest.raises(CalibrationError, match=message):
        select(feeds)


@pytest.mark.parametrize("opset", [17, 20])
def test_what_flows_into_each_group_is_seen(opset):
    model = block(opset)
    feeds = feeds_of(model, count=3, rows=50)
    normal, active = observed(model, feeds)
    # The same by the model itself, with what the products read as its outputs.
    shown = block(opset)
    shown.graph.outputs[:] = [shown.graph.node("MatMul_1").inputs[0], shown.graph.node("MatMul_6").inputs[0]]
    for output in shown.graph.outputs:
        output.type, output.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["B", "S", 64])
    for sample, values in zip((normal, active), zip(*(run(shown, feed) for feed in feeds), strict=True), strict=True):
        rows = np.concatenate([value.reshape(-1, 64) for value in values])
        np.testing.assert_allclose(sample.low, rows.min(axis=0), atol=1e-6)
        np.testing.assert_allclose(sample.high, rows.max(axis=0), atol=1e-6)
        # There are fewer rows than are wanted, so all of them are there.
        np.testing.assert_allclose(sample.rows, rows, atol=1e-6)


def test_of_many_rows_a_sample_of_all_positions_is_kept():
    model = model_of("g (float[B, S, 64] input_0) => (float[B, S, 64] y) { y = MatMul (input_0, w) }", w=matrix(0))
    feed = {"input_0": np.broadcast_to(np.arange(128, dtype=np.float32)[:, None], (64, 128, 64)).copy()}
    (sample,) = observed(model, [feed])
    assert SAMPLED_ROWS / 2 < len(sample.rows) < 2 * SAMPLED_ROWS
    assert len(np.unique(sample.rows[:, 0])) == 128
    assert (sample.low == 0).all()
    assert (sample.high == 127).all()


def test_the_model_is_left_as_it_was():
    model = block()
    before = ir.serde.serialize_model(model).SerializeToString()
    observed(model, feeds_of(model))
    assert ir.serde.serialize_model(model).SerializeToString() == before


def test_values_that_are_not_finite_name_the_layer():
    feeds = feeds_of(block(), count=2)
    feeds[1]["input_0"][0, 3, 5] = np.inf
    with pytest.raises(CalibrationError, match="flows into MatMul_1 is not finite"):
        observed(block(), feeds)


def test_a_segment_that_does_not_run_says_why():
    feeds = feeds_of(block(), count=1)
    feeds[0]["input_0"] = feeds[0]["input_0"].astype(np.float64)
    with pytest.raises(CalibrationError, match=r"ONNX Runtime cannot run the segment.*double"):
        observed(block(), feeds)
