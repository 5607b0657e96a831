"""Places that options name are refused before any work where nothing can be written there."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

import tf_opt
from tf_opt.errors import InvalidOptionError, OutputPathError


def options_of(name: str, path: Path) -> dict[str, Any]:
    if name == "timing_cache":
        return {"engine": "tensorrt", "tensorrt": tf_opt.TensorRTSettings(timing_cache=path)}
    return {"engine": "openvino", name: path}


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has no file made anywhere: root's permissions and the tests' own folders say nothing else."""

    def refuse(**_: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)


@pytest.mark.parametrize("name", ["dump_dir", "cache_dir", "timing_cache"])
def test_places_that_are_none(name: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(OutputPathError, match=r"deeper cannot be written: .*file is no folder\. Name another path"):
        tf_opt.Tf2TrtOpt(**options_of(name, file / "deeper"))
    with pytest.raises(OutputPathError, match="/proc/place cannot be written"):
        tf_opt.Tf2TrtOpt(**options_of(name, Path("/proc/place")))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["dump_dir", "cache_dir", "timing_cache"])
def test_places_on_a_read_only_file_system(name: str, tmp_path: Path, read_only: None) -> None:
    with pytest.raises(OutputPathError, match="cannot be written: Read-only file system"):
        tf_opt.Tf2TrtOpt(**options_of(name, tmp_path / "new"))


@pytest.mark.parametrize("name", ["dump_dir", "cache_dir", "timing_cache"])
def test_places_that_can_be_made(name: str, tmp_path: Path) -> None:
    tf_opt.Tf2TrtOpt(**options_of(name, tmp_path / "a" / "b"))
    assert list(tmp_path.iterdir()) == []


def test_results_that_can_only_be_read_are_of_use(tmp_path: Path, read_only: None) -> None:
    with pytest.raises(OutputPathError):
        tf_opt.Tf2TrtOpt(cache_dir=tmp_path)
    (tmp_path / f"{'a' * 40}.tf_opt").write_bytes(b"")
    tf_opt.Tf2TrtOpt(cache_dir=tmp_path)


def test_timings_in_a_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("mine")
    for wrong in (path, tmp_path):
        with pytest.raises(InvalidOptionError, match="timing_cache is"):
            tf_opt.Tf2TrtOpt(**options_of("timing_cache", wrong))
    assert path.read_text() == "mine"


@pytest.mark.parametrize("engine", ["auto", "fastest", ["openvino", "tensorrt"]])
def test_timings_of_every_choice_that_may_be_tensorrt(engine: Any) -> None:
    settings = tf_opt.TensorRTSettings(timing_cache="/proc/timings")
    with pytest.raises(OutputPathError):
        tf_opt.Tf2TrtOpt(engine=engine, tensorrt=settings)


def test_what_is_not_used_is_not_checked() -> None:
    tf_opt.Tf2TrtOpt(engine="openvino", tensorrt=tf_opt.TensorRTSettings(timing_cache="/proc/timings"))
    tf_opt.Tf2TrtOpt(cache=False, cache_dir="/proc/cache")
