"""Nothing is written where it would destroy something, or where it cannot be; and the check itself leaves nothing."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tf_opt.errors import OutputExistsError, OutputPathError
from tf_opt.output_paths import check_output_file, check_output_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"")
    return folder


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Takes from root the right to write into every folder; other users have none to lose."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_there_goes_only_where_it_is_asked_for(model: Path) -> None:
    with pytest.raises(OutputExistsError, match=r"is there already.*pass overwrite=True"):
        check_output_folder(model, overwrite=False)
    with pytest.raises(OutputExistsError, match="give --overwrite"):
        check_output_file(model / "saved_model.pb", overwrite=False, consent="give --overwrite")
    assert check_output_folder(model, overwrite=True, source=model) == model
    assert check_output_file(model / "saved_model.pb", overwrite=True) == model / "saved_model.pb"


def test_what_is_something_else_stays(tmp_path: Path) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "thesis.txt").write_bytes(b"")
    pipe = tmp_path / "pipe.pb"
    os.mkfifo(pipe)
    with pytest.raises(OutputExistsError, match="is a folder, but no SavedModel"):
        check_output_folder(documents, overwrite=True)
    with pytest.raises(OutputExistsError, match="is no folder but a file"):
        check_output_folder(documents / "thesis.txt", overwrite=True)
    with pytest.raises(OutputExistsError, match="is a folder, which a file does not replace"):
        check_output_file(documents, overwrite=True)
    with pytest.raises(OutputExistsError, match="no ordinary file"):
        check_output_file(pipe, overwrite=True)


def test_the_model_stays(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputExistsError, match="lies inside of the model"):
        check_output_folder(model / "optimized", overwrite=False, source=model)
    with pytest.raises(OutputExistsError, match="contains the model"):
        check_output_folder(tmp_path, overwrite=True, source=model)
    with pytest.raises(OutputExistsError, match="is the model itself"):
        check_output_folder(model, overwrite=True, source=model, in_place=False)
    assert check_output_folder(tmp_path / "a" / "b", overwrite=False, source=model) == tmp_path / "a" / "b"


def test_links_are_neither_followed_nor_replaced(model: Path, tmp_path: Path) -> None:
    for name, aim in (("link", model), ("dangling", tmp_path / "nothing"), ("circle", tmp_path / "circle")):
        (tmp_path / name).symlink_to(aim)
        for check in (check_output_folder, check_output_file):
            with pytest.raises(OutputPathError, match=f"{name} is a symbolic link to .*{aim.name}"):
                check(tmp_path / name, overwrite=True)
    (tmp_path / "alias").symlink_to(tmp_path)  # A link around it is like any folder.
    assert check_output_folder(tmp_path / "alias" / "out", overwrite=False) == tmp_path / "alias" / "out"


@pytest.mark.parametrize("check", [check_output_folder, check_output_file])
def test_places_that_are_none(check: object, tmp_path: Path) -> None:
    assert callable(check)
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(OutputPathError, match="file is no folder"):
        check(file / "deeper" / "out", overwrite=False)
    # Root may write everywhere, but not here, and not so long a name.
    with pytest.raises(OutputPathError, match="cannot be written"):
        check("/proc/out", overwrite=False)
    with pytest.raises(OutputPathError, match="cannot be written: File name too long"):
        check(tmp_path / ("n" * 250), overwrite=False)
    with pytest.raises(OutputPathError, match="cannot be written: File name too long"):
        check(tmp_path / ("n" * 300), overwrite=False)
    assert list(tmp_path.iterdir()) == [file]


def test_folders_that_must_not_be_written() -> None:
    # Not below `tmp_path`, into which nobody but its owner may look.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with as_nobody():
            assert list(folder.iterdir()) == []
            for check in (check_output_folder, check_output_file):
                with pytest.raises(OutputPathError, match="cannot be written: Permission denied"):
                    check(folder / "out", overwrite=False)
        assert list(folder.iterdir()) == []


def test_the_check_leaves_nothing(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "a" / "b", overwrite=False)
    check_output_file(tmp_path / "c.pb", overwrite=False)
    assert list(tmp_path.iterdir()) == []
