"""Files that are whole or of no use."""

from __future__ import annotations

import os
import threading
import time

import pytest

from tf_opt import files
from tf_opt.cache_files import CacheFolder, UnusableFileError, exclusive, read_checked, write_checked

MAGIC = b"TESTFILE"
HEADER = {"key": "k", "more": [1, 2]}
PAYLOAD = bytes(range(256)) * 4


@pytest.fixture
def path(tmp_path):
    write_checked(tmp_path / "folder" / "file", MAGIC, HEADER, (PAYLOAD[:100], PAYLOAD[100:]))
    return tmp_path / "folder" / "file"


def test_what_is_written_is_read(path):
    assert read_checked(path, MAGIC) == (HEADER, PAYLOAD)
    write_checked(path, MAGIC, {}, ())
    assert read_checked(path, MAGIC) == ({}, b"")
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_every_changed_byte_is_noticed(path):
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(UnusableFileError):
            read_checked(path, MAGIC)


def test_every_cut_is_noticed(path):
    content = path.read_bytes()
    for length in (*range(120), *range(120, len(content), 97)):
        path.write_bytes(content[:length])
        with pytest.raises(UnusableFileError):
            read_checked(path, MAGIC)


def test_file_of_another_kind(path):
    with pytest.raises(UnusableFileError, match="TESTFILE"):
        read_checked(path, b"OTHERFIL")
    with pytest.raises(OSError, match="nowhere"):
        read_checked(path.with_name("nowhere"), MAGIC)


def test_failed_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checked(path, MAGIC, {}, (b"new",))
    monkeypatch.undo()
    assert read_checked(path, MAGIC) == (HEADER, PAYLOAD)
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_abandoned_temporary_files_go_and_fresh_ones_stay(tmp_path):
    for name in (".writing-old", ".writing-new", "a.plan"):
        (tmp_path / name).write_bytes(b"x")
    hours_ago = time.time() - 7200
    os.utime(tmp_path / ".writing-old", (hours_ago, hours_ago))
    CacheFolder(tmp_path, ".plan", MAGIC, 1000).store("b", {}, (b"x",))
    assert sorted(each.name for each in tmp_path.iterdir()) == [".lock", ".writing-new", "a.plan", "b.plan"]


def test_lock_excludes_other_threads(tmp_path):
    held, entered = threading.Event(), []

    def enter():
        held.wait(120)
        with exclusive(tmp_path / "lock"):
            entered.append("second")

    thread = threading.Thread(target=enter)
    thread.start()
    with exclusive(tmp_path / "lock"):
        held.set()
        time.sleep(0.05)
        entered.append("first")
    thread.join(120)
    assert entered == ["first", "second"]


def test_files_are_for_whom_the_umask_allows(path):
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_entry_under_another_name_is_removed(tmp_path):
    folder = CacheFolder(tmp_path, ".plan", MAGIC, 1000)
    folder.store("one", {"more": 1}, (b"abc",))
    assert folder.load("one") == ({"key": "one", "more": 1}, b"abc")
    folder.path("one").rename(folder.path("two"))
    assert folder.load("two") is None
    assert not folder.path("two").exists()
