"""Kernel timings: kept between builds, added to by several, of one GPU and version."""

from __future__ import annotations

import contextlib

import pytest
from onnx import helper

from tests.engines.tensorrt.small_engines import FLOAT, build, dense, profile, segment
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tests.simulators.tensorrt.plan import unpack_timing_cache
from tf_opt import cache_files
from tf_opt.engines.tensorrt import TensorRTSettings, timing_cache
from tf_opt.engines.tensorrt.plan_cache import PlanCache
from tf_opt.errors import InvalidOptionError


def other():
    node = helper.make_node("Neg", ["input_0"], ["output_0"], name="neg")
    return segment([node], [(FLOAT, [None, 8])], [(FLOAT, [None, 8])])


def measured(path):
    """How many networks a timing cache knows."""
    _, content = cache_files.read_checked(path, timing_cache.MAGIC)
    return len(unpack_timing_cache(bytes(content))[2])


def test_builds_add_to_one_file(simulation, cache_folder):
    build(dense(), [profile()])
    (path,) = (cache_folder / "timing_caches").glob("*.timing")
    assert measured(path) == 1
    build(other(), [profile()])
    assert measured(path) == 2


def test_next_build_is_given_it(simulation, monkeypatch):
    given = []
    config = simulation.module.IBuilderConfig
    create = config.create_timing_cache
    monkeypatch.setattr(
        config, "create_timing_cache", lambda self, data: given.append(bytes(data)) or create(self, data)
    )
    build(dense(), [profile()])
    assert given[0] == b""
    given.clear()
    build(other(), [profile()])
    assert given[0] != b""


def test_what_another_process_added_meanwhile_stays(simulation, tmp_path, monkeypatch):
    path = tmp_path / "timings"
    settings = TensorRTSettings(timing_cache=path)
    attach = timing_cache.attach

    def attach_then_other_builds(*arguments):
        attached = attach(*arguments)
        monkeypatch.setattr(timing_cache, "attach", attach)
        build(other(), [profile()], settings)
        return attached

    monkeypatch.setattr(timing_cache, "attach", attach_then_other_builds)
    # The other build is of another process, which the lock of this one's builds does not hold up.
    monkeypatch.setattr(PlanCache, "building", lambda *_: contextlib.nullcontext())
    build(dense(), [profile()], settings)
    assert measured(path) == 2


@pytest.mark.parametrize("content", [b"", b"TFOPTTIM" + bytes(100)])
def test_damaged_file_is_replaced(simulation, tmp_path, content):
    path = tmp_path / "timings"
    path.write_bytes(content)
    build(dense(), [profile()], TensorRTSettings(timing_cache=path))
    assert measured(path) == 1
    assert simulation.builds == 1


def test_content_that_tensorrt_refuses_is_replaced(simulation, tmp_path):
    path = tmp_path / "timings"
    build(other(), [profile()], TensorRTSettings(timing_cache=path))
    header, _ = cache_files.read_checked(path, timing_cache.MAGIC)
    cache_files.write_checked(path, timing_cache.MAGIC, header, (b"whole, but nothing of TensorRT",))
    build(dense(), [profile()], TensorRTSettings(timing_cache=path))
    assert measured(path) == 1


def test_file_of_another_gpu_is_not_used(cache_folder, tmp_path):
    path = tmp_path / "timings"
    with simulated_tensorrt("10.16"):
        build(dense(), [profile()], TensorRTSettings(timing_cache=path))
    with simulated_tensorrt("10.16", gpu_name="Another GPU"):
        build(other(), [profile()], TensorRTSettings(timing_cache=path))
    assert measured(path) == 1


def test_build_without_a_timing_cache(simulation, cache_folder, monkeypatch):
    config = simulation.module.IBuilderConfig
    monkeypatch.setattr(config, "set_timing_cache", lambda *_: False)
    monkeypatch.setattr(config, "get_timing_cache", lambda *_: None)
    build(dense(), [profile()])
    assert simulation.builds == 1
    assert list((cache_folder / "timing_caches").glob("*.timing")) == []


def test_folder_that_cannot_be_written_is_no_reason_to_fail(simulation, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    build(dense(), [profile()], TensorRTSettings(timing_cache=blocked / "timings"))
    assert simulation.builds == 1


def test_a_file_of_someone_else_is_refused_and_kept(simulation, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    with pytest.raises(InvalidOptionError, match="did not write"):
        build(dense(), [profile()], TensorRTSettings(timing_cache=path))
    assert path.read_text() == "mine"


def test_a_folder_is_refused_before_anything_is_built(simulation, tmp_path):
    with pytest.raises(InvalidOptionError, match="a folder"):
        build(dense(), [profile()], TensorRTSettings(timing_cache=tmp_path))
    assert simulation.builds == 0
