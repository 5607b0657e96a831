"""Folders appear whole, replace only what they may, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tf_opt.errors import OutputExistsError
from tf_opt.folders import writing_folder
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
