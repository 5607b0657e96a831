from __future__ import annotations

import math
import multiprocessing
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorflow.core.framework import graph_pb2

from tests.small_graphs import mlp
from tf_opt import cache_files, optimization_cache
from tf_opt import files as files_module
from tf_opt.ops import cache_directory
from tf_opt.optimization_cache import CacheEntry, OptimizationCache, is_worth_keeping
from tf_opt.report.optimization import Measurement, OptimizationReport, RefusedNode, SegmentReport
from tf_opt.weights import detach_weights

KEY, OTHER = "a" * 40, "b" * 40


def report() -> OptimizationReport:
    refused = RefusedNode(name="n", op="Assert", category="op", reason="no")
    return OptimizationReport(engine="openvino", compute_nodes=3, original_nodes=4, refused=(refused,))


def entry(seed: int = 0, hidden: int = 48) -> CacheEntry:
    light, weights = detach_weights(mlp(seed, hidden))
    return CacheEntry(graph_def=light, derived_weights={"derived": weights.node("first")}, report=report())


def assert_equal(left: CacheEntry | None, right: CacheEntry) -> None:
    assert left is not None
    assert left.graph_def == right.graph_def
    assert dict(left.derived_weights) == dict(right.derived_weights)
    assert left.report == right.report


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def test_what_is_stored_is_loaded(tmp_path):
    cache = OptimizationCache(tmp_path / "new" / "folder")
    assert cache.load(KEY) is None
    assert cache.store(KEY, entry())
    assert cache.store(OTHER, entry(seed=1))
    assert_equal(cache.load(KEY), entry())
    assert_equal(OptimizationCache(tmp_path / "new" / "folder").load(OTHER), entry(seed=1))
    assert files(tmp_path / "new" / "folder") == [f"{KEY}.tf_opt", f"{OTHER}.tf_opt"]


def test_result_without_engines(tmp_path):
    cache = OptimizationCache(tmp_path)
    nothing = CacheEntry(graph_def=None, report=report())
    assert cache.store(KEY, nothing)
    assert_equal(cache.load(KEY), nothing)


def test_later_entry_replaces_the_earlier(tmp_path):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    cache.store(KEY, entry(seed=1))
    assert_equal(cache.load(KEY), entry(seed=1))


def test_folder_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setattr(cache_files, "cache_directory", cache_directory)
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path))
    assert OptimizationCache().folder == tmp_path / "optimizations"


# Entries that are of no use.


@pytest.mark.parametrize("position", [0, 8, 12, 20, 40, -40, -1])
def test_changed_byte_is_a_miss(tmp_path, position):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    path = tmp_path / f"{KEY}.tf_opt"
    content = bytearray(path.read_bytes())
    content[position] ^= 0x40
    path.write_bytes(content)
    assert cache.load(KEY) is None
    assert not path.exists()
    assert cache.store(KEY, entry())
    assert_equal(cache.load(KEY), entry())


@pytest.mark.parametrize("size", [0, 3, 8, 19, 25, 500, -1, -33])
def test_entry_that_was_cut_short_is_a_miss(tmp_path, size):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    path = tmp_path / f"{KEY}.tf_opt"
    path.write_bytes(path.read_bytes()[:size])
    assert cache.load(KEY) is None


def test_more_behind_the_end_is_a_miss(tmp_path):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    path = tmp_path / f"{KEY}.tf_opt"
    path.write_bytes(path.read_bytes() + b"more")
    assert cache.load(KEY) is None


def test_other_format_is_a_miss(monkeypatch, tmp_path):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    monkeypatch.setattr(cache_files, "FORMAT_VERSION", 2)
    assert cache.load(KEY) is None
    assert cache.store(KEY, entry())
    assert_equal(cache.load(KEY), entry())


def test_entry_under_the_name_of_another_is_a_miss(tmp_path):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    os.rename(tmp_path / f"{KEY}.tf_opt", tmp_path / f"{OTHER}.tf_opt")
    assert cache.load(OTHER) is None


def test_report_of_another_form_is_a_miss(monkeypatch, tmp_path):
    """As a version with other fields writes it, whose checksum is right."""
    cache = OptimizationCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(optimization_cache, "to_plain", lambda value: {"engine": "openvino"})
        cache.store(KEY, entry())
    assert cache.load(KEY) is None


# Folders.


def test_folder_that_cannot_be_written_is_said_and_no_error(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = OptimizationCache(tmp_path / "file" / "folder")
    assert not cache.store(KEY, entry())
    assert "cannot be written" in caplog.text
    assert cache.load(KEY) is None


def test_writer_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def refuse(*_: Any) -> None:
        raise OSError("no space left on device")

    cache = OptimizationCache(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "replace", refuse)
        assert not cache.store(KEY, entry())
    assert files(tmp_path) == []


def test_files_of_dead_writers_are_removed(tmp_path):
    old, new = tmp_path / ".writing-old", tmp_path / ".writing-new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    OptimizationCache(tmp_path).store(KEY, entry())
    assert files(tmp_path) == [".writing-new", f"{KEY}.tf_opt"]


# Size.


def test_least_recently_used_entries_go_first(tmp_path):
    OptimizationCache(tmp_path).store("size", entry())
    size = (tmp_path / "size.tf_opt").stat().st_size
    (tmp_path / "size.tf_opt").unlink()
    cache = OptimizationCache(tmp_path, limit_bytes=2 * size + size // 2)
    for number, name in enumerate(("one", "two")):
        cache.store(name, entry())
        os.utime(tmp_path / f"{name}.tf_opt", (1000.0 + number,) * 2)
    assert cache.load("one") is not None  # Now "two" is the one that was not used for longer.
    cache.store("three", entry())
    assert files(tmp_path) == ["one.tf_opt", "three.tf_opt"]


def test_newest_stays_even_where_the_clock_went_back(tmp_path):
    cache = OptimizationCache(tmp_path)
    cache.store("old", entry())
    os.utime(tmp_path / "old.tf_opt", (time.time() + 1e6,) * 2)
    OptimizationCache(tmp_path, limit_bytes=(tmp_path / "old.tf_opt").stat().st_size + 10).store("new", entry())
    assert files(tmp_path) == ["new.tf_opt"]


def test_entry_beyond_the_limit_is_not_stored_and_removes_nothing(tmp_path):
    OptimizationCache(tmp_path).store("small", CacheEntry(graph_def=None, report=report()))
    cache = OptimizationCache(tmp_path, limit_bytes=(tmp_path / "small.tf_opt").stat().st_size)
    assert not cache.store("large", entry())
    assert files(tmp_path) == ["small.tf_opt"]


# Several processes.


def store_and_load(folder: str, entries: list[CacheEntry], own: int, results: Any) -> None:
    cache = OptimizationCache(folder, limit_bytes=20_000)
    bad = 0
    for number in range(100):
        name = f"key{(number + own) % 5}"
        cache.store(name, entries[own])
        found = cache.load(name)  # Another process may have removed it, or stored its own.
        bad += found is not None and found.graph_def not in [each.graph_def for each in entries]
    results.put(bad)


def test_processes_that_write_at_the_same_time_do_not_hurt_each_other(tmp_path):
    context = multiprocessing.get_context("fork")
    results, entries = context.Queue(), [entry(hidden=48 + 8 * number) for number in range(3)]
    processes = [
        context.Process(target=store_and_load, args=(str(tmp_path), entries, number, results)) for number in range(3)
    ]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [0, 0, 0]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    sizes = {name: (tmp_path / name).stat().st_size for name in files(tmp_path)}
    assert sizes
    assert sum(sizes.values()) <= 20_000
    assert not any(name.startswith(".writing") for name in sizes)


def test_entry_that_another_process_removes_meanwhile_is_read_to_its_end(monkeypatch, tmp_path):
    cache = OptimizationCache(tmp_path)
    cache.store(KEY, entry())
    read_bytes = Path.read_bytes

    def read_and_lose(path: Path) -> bytes:
        content = read_bytes(path)
        path.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_and_lose)
    assert_equal(cache.load(KEY), entry())


def test_graphs_of_other_functions_survive(tmp_path):
    graph_def = graph_pb2.GraphDef()
    graph_def.library.function.add().signature.name = "fallback"
    graph_def.versions.producer = 1234
    cache = OptimizationCache(tmp_path)
    stored = CacheEntry(graph_def=graph_def, report=report())
    cache.store(KEY, stored)
    assert_equal(cache.load(KEY), stored)


@pytest.mark.parametrize(
    ("adopted", "verdict", "ratio", "upper", "rounds", "kept"),
    [
        (False, "slower", 0.85, math.inf, 3, False),
        (False, "slower", 0.5, math.inf, 2, False),
        (False, "slower", 0.7, math.inf, 3, True),  # Beyond what a busy machine does to runs in turn.
        (False, "slower", 0.85, 0.9, 9, True),
        (True, "same", 0.99, math.inf, 3, True),
        (False, "faster", 1.2, math.inf, 3, True),  # It went back for its values.
    ],
)
def test_decision_on_too_few_runs_is_not_worth_keeping(adopted, verdict, ratio, upper, rounds, kept):
    measurement = Measurement(
        original_milliseconds=1.0,
        optimized_milliseconds=1.0 / ratio,
        ratio=ratio,
        interval=(0.0, upper),
        rounds=rounds,
        verdict=verdict,
    )
    segment = SegmentReport(
        name="tf_opt_segment_0",
        node_count=1,
        op_counts={},
        inputs=(),
        outputs=(),
        weight_bytes=0,
        adopted=adopted,
        measurement=measurement,
    )
    assert is_worth_keeping(replace(report(), segments=(segment,))) == kept


def test_optimization_without_segments_is_worth_keeping():
    assert is_worth_keeping(report())
