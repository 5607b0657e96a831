"""Folders appear whole, replace only what they may, and leave nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tf_opt.errors import OutputExistsError
from tf_opt.files import write_bytes
from tf_opt.folders import writing_folder
from tf_opt.leftovers import REPLACED_PREFIX, claimed_file, remove_leftovers, temporary_prefix
from tf_opt.sizes import stored_bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "made" / "model"
    with writing_folder(target, overwrite=False) as folder:
        (folder / "saved_model.pb").write_bytes(b"12345")
        assert not target.exists()
        assert folder.parent == target.parent
    assert names(target.parent) == ["model"]
    assert stored_bytes(target) == 5


def test_an_error_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "saved_model.pb").write_bytes(b"old")

    def write_half() -> None:
        with writing_folder(target, overwrite=True) as folder:
            (folder / "saved_model.pb").write_bytes(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert names(tmp_path) == ["model"]
    assert (target / "saved_model.pb").read_bytes() == b"old"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_bytes(b"old")
    with writing_folder(target, overwrite=True) as folder:
        (folder / "new").write_bytes(b"new")
        assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]
    assert names(target) == ["new"]


def test_a_folder_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with pytest.raises(OutputExistsError, match="in the meantime"), writing_folder(target, overwrite=False):
        target.mkdir()
    assert names(tmp_path) == ["model"]


WRITER = """
import sys, time
from pathlib import Path
from tf_opt.folders import writing_folder
with writing_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "half").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(600)
"""


def killed_writer(target: Path) -> subprocess.Popen[str]:
    """Returns a process in the middle of writing."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_leftovers_of_a_killed_process_go_with_the_next_write(tmp_path: Path) -> None:
    target = tmp_path / "model"
    dead, living, other = (killed_writer(path) for path in (target, target, tmp_path / "model.b"))
    try:
        dead.kill()
        assert dead.wait() == -signal.SIGKILL
        assert len(names(tmp_path)) == 3
        with writing_folder(target, overwrite=False) as folder:
            (folder / "new").write_bytes(b"new")
        left = [name.rpartition(".")[0] for name in names(tmp_path)]
        assert left == [".writing-model", ".writing-model.b", ""]  # Of the living, and the model.
    finally:
        for process in (living, other):
            process.kill()
            process.wait()
    with writing_folder(target, overwrite=True) as folder:
        (folder / "newer").write_bytes(b"newer")
    assert [name.rpartition(".")[0] for name in names(tmp_path)] == [".writing-model.b", ""]
    assert names(target) == ["newer"]


def test_what_was_replaced_stays_until_there_is_a_new_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    old = tmp_path / f"{temporary_prefix(target, REPLACED_PREFIX)}abcdefgh"
    old.mkdir()
    elsewhere = tmp_path / ".writing-model.00000000-abcdefgh"
    elsewhere.mkdir()
    remove_leftovers(target)
    assert names(tmp_path) == sorted([old.name, elsewhere.name])
    with writing_folder(target, overwrite=False):
        pass
    assert names(tmp_path) == [elsewhere.name, "model"]


def test_leftovers_of_files(tmp_path: Path) -> None:
    target = tmp_path / "graph.pb"
    (tmp_path / f"{temporary_prefix(target)}abcdefgh").write_bytes(b"half")
    path, descriptor = claimed_file(target)
    write_bytes(target, b"new")
    assert names(tmp_path) == sorted([path.name, "graph.pb"])
    os.close(descriptor)
    write_bytes(target, b"new")
    assert names(tmp_path) == ["graph.pb"]
