"""Engines that are fed from the host: values, shapes, CUDA graphs, outputs of unknown size."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from tests.engines.tensorrt.small_engines import (
    BOOL,
    FLOAT,
    INT64,
    WEIGHT,
    build,
    dense,
    expected,
    load,
    nonzero,
    profile,
    ready,
    reshape,
    rows,
    run,
    segment,
)
from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt import TensorRTSettings
from tf_opt.errors import CudaError, EngineBuildError
from tf_opt.ops.python_runtime import UnsupportedShapeError


def test_every_version_computes_the_original_values(any_version):
    engine = ready(dense(), [profile()])
    for count in (1, 4, 4, 4, 16, 4):
        np.testing.assert_allclose(run(engine, rows(count))[0], expected(rows(count)), rtol=1e-5)
    engine.close()
    assert any_version.driver.leaks() == []


def test_optimizing_builds_and_loading_does_not(simulation):
    model = dense()
    engine = build(model, [profile()])
    assert simulation.builds == 1
    assert engine.library == f"tensorrt {simulation.module.__version__}"
    load(model, engine).close()
    assert simulation.builds == 1


def test_shape_outside_every_profile_names_input_shape_and_ranges(simulation):
    engine = ready(dense(), [profile(1, 2, 4), profile(8, 8, 16)])
    with pytest.raises(
        UnsupportedShapeError,
        match=r"input_0 \('in0:0'\) has the shape \(6, 8\).*\(1, 8\) to \(4, 8\) or \(8, 8\) to \(16, 8\)",
    ):
        run(engine, rows(6))
    np.testing.assert_allclose(run(engine, rows(3))[0], expected(rows(3)), rtol=1e-5)
    engine.close()


def test_first_profile_that_fits_is_used(simulation):
    engine = ready(dense(), [profile(4, 4, 4), profile(1, 8, 16)], TensorRTSettings(maximum_contexts=1))
    chosen = []
    for count in (4, 5, 4, 16):
        np.testing.assert_allclose(run(engine, rows(count))[0], expected(rows(count)), rtol=1e-5)
        slot = engine._pool.acquire(("peek",), 0)
        chosen.append(slot.profile)
        engine._pool.release(slot)
    assert chosen == [0, 1, 0, 1]
    engine.close()


def test_repeated_shapes_become_a_graph_and_other_shapes_leave_it(simulation):
    engine = ready(dense(), [profile()])
    for seed in range(4):
        np.testing.assert_allclose(run(engine, rows(4, seed))[0], expected(rows(4, seed)), rtol=1e-5)
    assert simulation.driver.launches == 3  # The first run is none, the second is captured and launched.
    run(engine, rows(5))
    assert simulation.driver.launches == 3
    np.testing.assert_allclose(run(engine, rows(4, 9))[0], expected(rows(4, 9)), rtol=1e-5)
    assert simulation.driver.launches == 4
    assert engine.context_count == 2  # A graph has its context to itself.
    engine.close()
    assert simulation.driver.leaks() == []


def test_graphs_are_bounded_by_the_contexts(simulation):
    engine = ready(dense(), [profile()], TensorRTSettings(maximum_contexts=2))
    for count in (1, 2, 3, 4, 5, 1, 3):
        for seed in range(3):
            np.testing.assert_allclose(run(engine, rows(count, seed))[0], expected(rows(count, seed)), rtol=1e-5)
    assert engine.context_count == 2
    engine.close()
    assert simulation.driver.leaks() == []


def test_graph_of_a_context_that_has_changed_is_not_launched(simulation):
    engine = ready(dense(), [profile()], TensorRTSettings(maximum_contexts=1))
    for count in (4, 4, 5, 4, 4):
        np.testing.assert_allclose(run(engine, rows(count))[0], expected(rows(count)), rtol=1e-5)
    assert simulation.driver.launches == 2
    engine.close()


def test_shape_that_stays_while_the_profile_changes(simulation):
    nodes = [helper.make_node("Neg", [f"input_{i}"], [f"output_{i}"], name=f"neg{i}") for i in range(2)]
    model = segment(nodes, [(FLOAT, [None, 8])] * 2, [(FLOAT, [None, 8])] * 2)
    ranges = [
        ShapeProfile(minimum=shapes, optimum=shapes, maximum=shapes)
        for shapes in ({"input_0": (count, 8), "input_1": (3, 8)} for count in (1, 2))
    ]
    engine = ready(model, ranges, TensorRTSettings(maximum_contexts=1))
    for count in (1, 2, 1):
        first, second = run(engine, rows(count), rows(3))
        np.testing.assert_array_equal(first, -rows(count))
        np.testing.assert_array_equal(second, -rows(3))
    engine.close()


def test_memory_that_a_call_does_not_get_leaves_earlier_shapes_usable(simulation, monkeypatch):
    engine = ready(dense(), [profile(high=64)], TensorRTSettings(maximum_contexts=1, cuda_graphs=False))
    run(engine, rows(4))

    def refuse(size):
        raise CudaError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(simulation.driver, "allocate_pinned", refuse)
        with pytest.raises(CudaError, match="out of memory"):
            run(engine, rows(64))
    for count in (4, 64, 64):
        np.testing.assert_allclose(run(engine, rows(count))[0], expected(rows(count)), rtol=1e-5)
    engine.close()
    assert simulation.driver.leaks() == []


def test_graphs_can_be_switched_off(simulation):
    engine = ready(dense(), [profile()], TensorRTSettings(cuda_graphs=False))
    for _ in range(4):
        run(engine, rows(4))
    assert simulation.driver.launches == 0
    engine.close()


def test_failed_capture_falls_back_and_is_not_tried_again(simulation, monkeypatch):
    engine = ready(dense(), [profile()])
    captures = []
    begin = simulation.driver.begin_capture

    def begin_and_break(stream):
        captures.append(stream)
        begin(stream)
        # What no capture allows: it makes this one invalid, as another library's call could.
        with pytest.raises(CudaError, match="CAPTURE"):
            simulation.driver.allocate(16)

    monkeypatch.setattr(simulation.driver, "begin_capture", begin_and_break)
    for seed in range(4):
        np.testing.assert_allclose(run(engine, rows(4, seed))[0], expected(rows(4, seed)), rtol=1e-5)
    assert len(captures) == 1
    assert simulation.driver.launches == 0
    engine.close()
    assert simulation.driver.leaks() == []


def test_output_whose_size_depends_on_values(any_version):
    engine = ready(nonzero(), [profile()])
    for array in (np.eye(2, 8), np.ones((16, 8)), np.zeros((3, 8)), np.eye(2, 8)):
        values = array.astype(np.float32)
        places = run(engine, values)[0]
        assert places.dtype == np.int64
        np.testing.assert_array_equal(places, np.array(np.nonzero(values)))
    assert any_version.driver.launches == 0
    engine.close()
    assert any_version.driver.leaks() == []


def test_input_whose_values_are_a_shape(any_version):
    values = {"input_1": ((1, 1), (4, 8), (32, 64))}
    engine = ready(reshape(), [profile(values=values)])
    for shape in ((4, 8), (8, 4), (32, 1), (4, 8), (4, 8), (4, 8)):
        output = run(engine, rows(4), np.array(shape, np.int64))[0]
        np.testing.assert_array_equal(output, rows(4).reshape(shape))
    with pytest.raises(
        UnsupportedShapeError, match=r"input_1 \('in1:0'\) has the values \(1, 128\).*\(1, 1\) to \(32, 64\)"
    ):
        run(engine, rows(16), np.array((1, 128), np.int64))
    assert any_version.driver.launches == 0
    engine.close()
    assert any_version.driver.leaks() == []


def test_missing_values_of_a_shape_are_named(simulation):
    with pytest.raises(EngineBuildError, match="no values for input_1"):
        build(reshape(), [profile()])


def test_empty_tensors_and_scalars(simulation):
    nodes = [
        helper.make_node("Mul", ["input_0", "input_1"], ["output_0"], name="mul"),
        helper.make_node("Neg", ["input_1"], ["output_1"], name="neg"),
    ]
    model = segment(nodes, [(FLOAT, [None, 8]), (FLOAT, [])], [(FLOAT, [None, 8]), (FLOAT, [])])
    engine = ready(model, [profile(0, 2, 4)])
    for count in (0, 2, 0, 0):
        product, negative = run(engine, rows(count), np.float32(3))
        assert product.shape == (count, 8)
        assert negative.shape == ()
        np.testing.assert_allclose(product, rows(count) * 3)
        assert negative == -3
    engine.close()
    assert simulation.driver.leaks() == []


def test_known_shapes_need_no_profile(simulation):
    node = helper.make_node("Neg", ["input_0"], ["output_0"], name="neg")
    model = segment([node], [(FLOAT, [4, 8])], [(FLOAT, [4, 8])])
    engine = ready(model, [])
    np.testing.assert_array_equal(run(engine, rows(4))[0], -rows(4))
    with pytest.raises(UnsupportedShapeError, match=r"\(5, 8\)"):
        run(engine, rows(5))
    engine.close()


def test_weights_that_only_the_fallback_reads_are_left_alone(simulation):
    model = dense()
    engine = load(model, build(model, [profile()]), weights=[WEIGHT, np.zeros(3)])
    np.testing.assert_allclose(run(engine, rows(2))[0], expected(rows(2)), rtol=1e-5)
    assert simulation.builds == 1
    engine.close()


def test_integers_and_booleans_cross_as_they_are(any_version):
    nodes = [
        helper.make_node("Add", ["input_0", "input_0"], ["output_0"], name="add"),
        helper.make_node("Greater", ["input_0", "input_0"], ["output_1"], name="greater"),
    ]
    model = segment(nodes, [(INT64, [None, 8])], [(INT64, [None, 8]), (BOOL, [None, 8])])
    engine = ready(model, [profile()])
    array = np.full((2, 8), 2**40, np.int64)
    doubled, greater = run(engine, array)
    np.testing.assert_array_equal(doubled, array * 2)
    assert greater.dtype == np.bool_
    assert not greater.any()
    engine.close()
