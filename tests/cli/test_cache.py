"""`tf-opt cache`: what is listed, what goes, and what is never touched."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Invoke, content
from tf_opt.cli.cache import format_age
from tf_opt.cli.cache_entries import KIND_NAMES, CacheEntries
from tf_opt.optimization_cache import OptimizationCache
from tf_opt.quantization import cache as calibrations

KEY = "0123456789abcdef" * 4
OURS = {
    f"optimizations/{KEY}.tf_opt": b"TFOPTRES and more",
    f"optimizations/calibrations/{KEY}.int8": b"{}",
    f"plans/{KEY}.plan": b"TFOPTTRT and more",
    "timing_caches/10.1-NVIDIA_H200-9.0.timing": b"TFOPTTIM and more",
    "libtf_opt_op-0123456789abcdef0123.so": b"ELF",
    "12345678.compiler": b"g++",
}
FOREIGN = {
    "notes.txt": b"x",
    "optimizations/notes.tf_opt": b"TFOPTRES",
    f"optimizations/{KEY[:32]}.tf_opt": b"something else",
    f"optimizations/{KEY}.bak": b"TFOPTRES",
    f"plans/{KEY[:32]}.plan": b"short",
    "libtf_opt_op.so": b"ELF",
    "optimizations/.lock": b"",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    for name, text in (OURS | FOREIGN).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    (folder / "plans" / f"{KEY[:48]}.plan").symlink_to(folder / "notes.txt")
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(folder))
    return folder


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


def test_each_kind_is_listed(cache: Path, invoke: Invoke) -> None:
    an_hour_ago = time.time() - 3600
    os.utime(cache / "12345678.compiler", (an_hour_ago, an_hour_ago))
    found = content(invoke("cache", "list", "--json"))
    assert found["folder"] == str(cache)
    assert {each["kind"]: each["files"] for each in found["kinds"]} == {
        "optimizations": 1,
        "calibrations": 1,
        "plans": 1,
        "timings": 1,
        "ops": 2,
    }
    ops = found["kinds"][-1]
    assert ops["bytes"] == 6
    assert ops["last_used"] - ops["oldest"] > 3500
    assert sorted(path for each in found["kinds"] for path in each["paths"]) == sorted(
        str(cache / name) for name in OURS
    )
    table = invoke("cache", "list", env={"COLUMNS": "80"}).stdout
    assert "1 h" in table
    # The folder stands above the table, however long its name is.
    lines = table.splitlines()
    start = next(number for number, line in enumerate(lines) if "kind" in line)
    assert max(map(len, lines[start:])) <= 80


def test_clearing_takes_what_is_ours(cache: Path, invoke: Invoke) -> None:
    result = invoke("cache", "clear", "--yes", "--json")
    assert {each["kind"] for each in content(result)["removed"]} == set(KIND_NAMES)
    assert left(cache) == set(FOREIGN)
    assert "There is nothing to remove" in invoke("cache", "clear").stdout


def test_clearing_one_kind_leaves_the_others(cache: Path, invoke: Invoke) -> None:
    result = invoke("cache", "clear", "--kind", "plans", "--kind", "timings", "--yes")
    assert result.exit_code == 0
    gone = {name for name in OURS if name.startswith(("plans", "timing"))}
    assert left(cache) == (set(OURS) | set(FOREIGN)) - gone


def test_clearing_asks(cache: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    before = left(cache)
    result = invoke("cache", "clear")
    assert result.exit_code == 2
    assert "say --yes" in result.stderr
    monkeypatch.setattr("tf_opt.cli.cache.is_asked", lambda: True)
    result = invoke("cache", "clear", input="n\n")
    assert (result.exit_code, "Nothing was removed." in result.stderr) == (0, True)
    assert left(cache) == before
    assert invoke("cache", "clear", input="y\n").exit_code == 0
    assert left(cache) == set(FOREIGN)


def test_what_another_process_removed_is_removed(cache: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone_meanwhile(self: CacheEntries, *arguments: Any) -> list[CacheEntries]:
        return listed

    from tf_opt.cli import cache as command

    listed = command.list_entries(cache)
    for name in OURS:
        (cache / name).unlink()
    monkeypatch.setattr(command, "list_entries", gone_meanwhile)
    assert invoke("cache", "clear", "--yes").exit_code == 0


def test_what_cannot_be_removed_is_named(cache: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "unlink", refuse)
    result = invoke("cache", "clear", "--yes")
    assert result.exit_code == 1
    assert "cannot be removed: Permission denied" in result.stderr


def test_there_may_be_no_folder_yet(tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "none"))
    assert content(invoke("cache", "list", "--json"))["kinds"][0]["files"] == 0
    assert invoke("cache", "clear", "--yes").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_files_are_named_as_the_caches_name_them(cache: Path) -> None:
    # Guards the patterns: a cache that changes its names would otherwise drop out of the list.
    folder = cache / "optimizations"
    assert OptimizationCache(folder)._files.path(KEY).name == f"{KEY}.tf_opt"
    assert calibrations._path(folder, KEY).name == f"{KEY}.int8"


def test_ages() -> None:
    now = time.time()
    assert [format_age(now - seconds) for seconds in (5, 120, 7200, 3 * 86400)] == ["5 s", "2 min", "2 h", "3 d"]
    assert format_age(None) == ""
