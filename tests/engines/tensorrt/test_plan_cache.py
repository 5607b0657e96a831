"""Plans on disk: found where they fit, built where they do not, never run where they are foreign or damaged."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.engines.tensorrt.small_engines import WEIGHT, build, dense, expected, load, profile, ready, rows, run
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt import cache_files
from tf_opt.engines.tensorrt import TensorRTSettings
from tf_opt.engines.tensorrt.plan_cache import MAGIC, Device, PlanCache, plan_key
from tf_opt.errors import EngineBuildError

DEVICE = Device(name="GPU", compute_capability=(9, 0), tensorrt="10.16.1")
KEY = "a" * 64


def plans(cache_folder):
    return sorted((cache_folder / "plans").glob("*.plan"))


def test_equal_segments_are_built_once_and_others_again(simulation, cache_folder):
    build(dense(), [profile()])
    build(dense(name="another name"), [profile()])
    assert simulation.builds == 1
    build(dense(), [profile(high=32)])
    build(dense(WEIGHT + 1), [profile()])
    build(dense(), [profile()], TensorRTSettings(optimization_level=5))
    build(dense(), [profile()], TensorRTSettings(tf32=True))
    assert simulation.builds == len(plans(cache_folder)) == 5
    build(dense(), [profile()], TensorRTSettings(cuda_graphs=False, maximum_contexts=1))
    assert simulation.builds == 5


def builds_of_a_load(first, second, settings=None):
    """Builds an engine on one GPU or version and loads it on another; returns how many plans the load built."""
    model = dense()
    with simulated_tensorrt(**first) as simulation:
        engine = build(model, [profile()], settings)
        assert simulation.builds == 1
    with simulated_tensorrt(**second) as simulation:
        loaded = load(model, engine)
        np.testing.assert_allclose(run(loaded, rows(4))[0], expected(rows(4)), rtol=1e-5)
        loaded.close()
    return simulation.builds


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"version": "10.16"}, {"version": "10.16", "gpu_name": "Another GPU"}),
        ({"version": "10.16"}, {"version": "10.16", "compute_capability": (8, 0)}),
        ({"version": "10.0"}, {"version": "11.4"}),
    ],
    ids=["GPU", "compute capability", "version"],
)
def test_another_gpu_or_version_builds_its_own_plan(cache_folder, first, second):
    assert builds_of_a_load(first, second) == 1
    assert len(plans(cache_folder)) == 2


def test_compatible_plan_serves_gpus_of_one_compute_capability(cache_folder):
    settings = TensorRTSettings(hardware_compatibility="same_compute_capability")
    assert builds_of_a_load({"version": "10.16"}, {"version": "10.16", "gpu_name": "Another GPU"}, settings) == 0
    assert len(plans(cache_folder)) == 1


def test_other_weights_in_the_graph_build_another_plan(simulation):
    model = dense()
    loaded = load(model, build(model, [profile()]), weights=[WEIGHT * 2])
    np.testing.assert_allclose(run(loaded, rows(4))[0], expected(rows(4), WEIGHT * 2), rtol=1e-5)
    assert simulation.builds == 2
    loaded.close()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-100], lambda data: data[:50] + b"\0" + data[51:], lambda _: b""]
)
def test_damaged_plan_is_a_miss(simulation, cache_folder, damage):
    model = dense()
    engine = build(model, [profile()])
    (path,) = plans(cache_folder)
    path.write_bytes(damage(path.read_bytes()))
    loaded = load(model, engine)
    np.testing.assert_allclose(run(loaded, rows(4))[0], expected(rows(4)), rtol=1e-5)
    assert simulation.builds == 2
    assert len(plans(cache_folder)) == 1
    loaded.close()


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_one_line_says_that_a_plan_is_built_when_an_engine_is_loaded(cache_folder, caplog):
    model = dense()
    with simulated_tensorrt("10.16"):
        engine = build(model, [profile()])
        load(model, engine).close()
        assert not warnings_of(caplog)
    with simulated_tensorrt("10.16", gpu_name="Another GPU"):
        load(model, engine).close()
        (line,) = warnings_of(caplog)
        assert "builds the engine of" in line
        assert "\n" not in line
        assert str(cache_folder / "plans") in line
        assert "no plan of it for this GPU (Another GPU), TensorRT 10.16" in line
        caplog.clear()
        load(model, engine).close()
        assert not warnings_of(caplog)


def test_plan_that_tensorrt_does_not_load_is_built_again(simulation, cache_folder, caplog):
    model = dense()
    engine = build(model, [profile()])
    (path,) = plans(cache_folder)
    header, _ = cache_files.read_checked(path, MAGIC)
    cache_files.write_checked(path, MAGIC, header, (b"whole, but no plan of TensorRT",))
    loaded = load(model, engine)
    np.testing.assert_allclose(run(loaded, rows(4))[0], expected(rows(4)), rtol=1e-5)
    assert simulation.builds == 2
    assert "built again" in caplog.text
    loaded.close()


def test_plan_under_a_wrong_name_is_not_used(tmp_path):
    cache = PlanCache(tmp_path)
    cache.store(KEY, b"plan", DEVICE)
    os.replace(tmp_path / f"{KEY}.plan", tmp_path / f"{'b' * 64}.plan")
    assert cache.load("b" * 64) is None
    assert list(tmp_path.glob("*.plan")) == []


def test_least_recently_used_plans_go(tmp_path):
    cache = PlanCache(tmp_path, limit_bytes=3500)
    for age, key in ((300, "old"), (200, "used"), (100, "new")):
        cache.store(key, b"x" * 1000, DEVICE)
        stamp = os.stat(tmp_path / f"{key}.plan").st_mtime - age
        os.utime(tmp_path / f"{key}.plan", (stamp, stamp))
    assert cache.load("old") is not None
    cache.store("newest", b"x" * 1000, DEVICE)
    assert cache.load("used") is None
    assert all(cache.load(key) == b"x" * 1000 for key in ("old", "new", "newest"))
    assert not cache.store("large", b"x" * 4000, DEVICE)


def test_folder_that_cannot_be_written(simulation, cache_folder):
    cache_folder.write_text("a file where the folder should be")
    engine = ready(dense(), [profile()])
    np.testing.assert_allclose(run(engine, rows(4))[0], expected(rows(4)), rtol=1e-5)
    assert simulation.builds == 2  # Nothing was stored, so the load built again.
    engine.close()


def test_key_depends_on_what_the_plan_depends_on():
    def key(device=DEVICE, weights="w", **settings):
        return plan_key(b"model", weights, TensorRTSettings(**settings), [profile()], device)

    other_name = Device(name="Other", compute_capability=(9, 0), tensorrt="10.16.1")
    other_capability = Device(name="GPU", compute_capability=(8, 0), tensorrt="10.16.1")
    assert key() == key()
    other_version = Device(name="GPU", compute_capability=(9, 0), tensorrt="10.16.2")
    others = [key(other_name), key(other_capability), key(other_version), key(weights="v"), key(workspace_bytes=1)]
    assert len({key(), *others}) == 6
    same = {"hardware_compatibility": "same_compute_capability"}
    assert key(**same) == key(other_name, **same) != key(other_capability, **same)
    ampere = {"hardware_compatibility": "ampere_plus"}
    assert key(**ampere) == key(other_name, **ampere) == key(other_capability, **ampere) != key(**same)


def test_version_compatible_plan_is_loaded(simulation):
    engine = ready(dense(), [profile()], TensorRTSettings(version_compatible=True))
    np.testing.assert_allclose(run(engine, rows(4))[0], expected(rows(4)), rtol=1e-5)
    assert simulation.builds == 1
    engine.close()


def test_stripped_plan_is_small_and_gets_the_weights_back(any_version, cache_folder):
    weight = np.random.default_rng(1).standard_normal((8, 4096)).astype(np.float32)
    engine = ready(dense(weight), [profile()], TensorRTSettings(strip_weights=True))
    np.testing.assert_allclose(run(engine, rows(4))[0], expected(rows(4), weight), rtol=1e-4)
    (path,) = plans(cache_folder)
    assert path.stat().st_size < weight.nbytes / 2
    engine.close()
    assert any_version.driver.leaks() == []


def test_stripped_plan_has_one_profile(simulation):
    with pytest.raises(EngineBuildError, match=r"2 shape profiles.*strip_weights"):
        build(dense(), [profile(1, 1, 2), profile(4, 4, 8)], TensorRTSettings(strip_weights=True))
