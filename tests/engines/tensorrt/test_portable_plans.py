"""Plans for several kinds of GPU in one folder: a GPU that they do not serve gets its own, and leaves theirs alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.engines.tensorrt.small_engines import build, dense, expected, load, profile, rows, run
from tests.simulators.tensorrt.fixture import simulated_tensorrt
from tf_opt import cache_files
from tf_opt.engines.tensorrt import TensorRTSettings
from tf_opt.engines.tensorrt.plan_cache import MAGIC

AMPERE_PLUS = TensorRTSettings(hardware_compatibility="ampere_plus")
SAME = TensorRTSettings(hardware_compatibility="same_compute_capability")
TURING = {"gpu_name": "T4", "compute_capability": (7, 5)}


def plans(cache_folder):
    return {path: path.read_bytes() for path in (cache_folder / "plans").glob("*.plan")}


def run_here(model, engine, **machine):
    """Loads and runs an engine on a machine; returns how many plans that built."""
    with simulated_tensorrt(**{"version": "10.16", **machine}) as simulation:
        loaded = load(model, engine)
        np.testing.assert_allclose(run(loaded, rows(4))[0], expected(rows(4)), rtol=1e-5)
        loaded.close()
    return simulation.builds


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]


def test_gpu_before_ampere_gets_a_plan_of_its_own(cache_folder, caplog):
    model = dense()
    with simulated_tensorrt("10.16"):
        engine = build(model, [profile()], AMPERE_PLUS)
    shared = plans(cache_folder)
    assert run_here(model, engine, **TURING) == 1
    (line,) = warnings_of(caplog)
    assert "hardware_compatibility='ampere_plus' is left out of" in line
    assert "this GPU (T4) alone" in line
    assert "compute capability 8.0 or later, and this GPU has 7.5" in line
    assert shared.items() < plans(cache_folder).items()
    caplog.clear()
    assert run_here(model, engine, **TURING) == 0
    assert run_here(model, engine, gpu_name="Another GPU", compute_capability=(8, 6)) == 0
    assert run_here(model, engine, gpu_name="Another T4", compute_capability=(7, 5)) == 1
    assert len(plans(cache_folder)) == 3


def test_graph_that_is_optimized_before_ampere_is_portable_all_the_same(cache_folder, caplog):
    model = dense()
    with simulated_tensorrt("10.16", **TURING):
        engine = build(model, [profile()], AMPERE_PLUS)
    assert len(warnings_of(caplog)) == 1
    assert run_here(model, engine) == 1
    assert run_here(model, engine, gpu_name="Another GPU", compute_capability=(8, 6)) == 0


def test_stored_graph_on_a_tensorrt_without_the_level(cache_folder, caplog):
    model = dense()
    with simulated_tensorrt("10.16"):
        engine = build(model, [profile()], SAME)
    assert run_here(model, engine, version="10.0") == 1
    assert "this TensorRT does not have it" in warnings_of(caplog)[0]
    assert run_here(model, engine, version="10.0") == run_here(model, engine) == 0


@pytest.mark.parametrize("settings", [SAME, AMPERE_PLUS])
def test_plan_of_another_gpu_that_is_refused_here_stays(settings, cache_folder, caplog):
    model = dense()
    with simulated_tensorrt("10.16"):
        engine = build(model, [profile()], settings)
    ((path, _),) = plans(cache_folder).items()
    header, _ = cache_files.read_checked(path, MAGIC)
    cache_files.write_checked(path, MAGIC, header, (b"a plan that only the other GPU loads",))
    shared = plans(cache_folder)
    assert run_here(model, engine, gpu_name="Another GPU") == 1
    assert shared.items() < plans(cache_folder).items()
    assert "TensorRT does not load here what another GPU built" in warnings_of(caplog)[0]
    # Its own plan is found behind the other one from now on.
    assert run_here(model, engine, gpu_name="Another GPU") == 0
    (own,) = plans(cache_folder).keys() - {path}
    header, _ = cache_files.read_checked(own, MAGIC)
    cache_files.write_checked(own, MAGIC, header, (b"whole, but no plan",))
    assert run_here(model, engine, gpu_name="Another GPU") == 1
    # The GPU that built it may well replace it.
    assert run_here(model, engine) == 1
    assert plans(cache_folder)[path] != shared[path]
