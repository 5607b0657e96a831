"""Compiling the op: what the key depends on, what is said where it fails, and builds at the same time."""

from __future__ import annotations

import dataclasses
import os
import shlex
import stat
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tf_opt.errors import OpBuildError
from tf_opt.ops import build
from tf_opt.ops.build import Library

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Library(name="libtest", sources=("test.cc",), flags=("-DVALUE=1",), paths=(), versions=("tensorflow 1",))


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny source instead of the op's, and empty folders for what is compiled."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "test.cc").write_text('#include "test.h"\nextern "C" int value() { return VALUE; }\n')
    (folder / "test.h").write_text("")
    monkeypatch.setattr(build, "SOURCE_DIRECTORY", folder)
    monkeypatch.setattr(build, "PREBUILT_DIRECTORY", tmp_path / "prebuilt")
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return folder


def test_second_build_is_a_look_up(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build.build(LIBRARY)
    monkeypatch.setattr(build, "_compile", None)  # Calling it would fail.

    assert build.build(LIBRARY) == first
    assert first.parent == build.cache_directory()
    assert not list(first.parent.glob(".building-*"))


def test_key_changes_with_everything_the_library_depends_on(sources: Path) -> None:
    names = {LIBRARY.file_name("g++ 12")}
    names.add(LIBRARY.file_name("g++ 13"))
    names.add(dataclasses.replace(LIBRARY, versions=("tensorflow 2",)).file_name("g++ 12"))
    names.add(dataclasses.replace(LIBRARY, flags=("-DVALUE=2",)).file_name("g++ 12"))
    (sources / "test.h").write_text("// changed")
    names.add(LIBRARY.file_name("g++ 12"))
    (sources / "test.cc").write_text("// changed")
    names.add(LIBRARY.file_name("g++ 12"))

    assert len(names) == 6


def test_key_does_not_change_with_the_place_of_the_installation(sources: Path) -> None:
    elsewhere = dataclasses.replace(LIBRARY, paths=("-L/somewhere",))

    assert elsewhere.file_name("g++ 12") == LIBRARY.file_name("g++ 12")


def test_real_libraries_name_their_versions() -> None:
    import tensorflow as tf

    openvino = build.openvino_library()
    assert openvino is not None
    assert f"tensorflow {tf.__version__}" in build.op_library().versions
    assert any(version.startswith("openvino 20") for version in openvino.versions)


def test_without_a_compiler_the_error_says_what_to_install(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")

    with pytest.raises(OpBuildError, match=r"no C\+\+ compiler 'no-such-compiler'.*sudo apt-get install g\+\+"):
        build.build(LIBRARY)


def test_failed_compilation_shows_command_and_last_lines(sources: Path) -> None:
    (sources / "test.cc").write_text("int value() { return undeclared_name; }\n")

    with pytest.raises(OpBuildError) as caught:
        build.build(LIBRARY)

    assert "undeclared_name" in str(caught.value)
    assert "g++ -O2" in str(caught.value)
    assert not list(build.cache_directory().glob("*.so"))


def test_compiler_may_have_arguments(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ -DUNUSED")

    assert build.build(LIBRARY).exists()


def test_folder_that_cannot_be_written(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "file" / "cache"))

    with pytest.raises(OpBuildError, match="Set TF_OPT_CACHE_DIR"):
        build.build(LIBRARY)


def test_prebuilt_library_is_found_without_a_compiler(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build.build(LIBRARY, build.PREBUILT_DIRECTORY)
    monkeypatch.setenv("CXX", "no-such-compiler")

    assert build.build(LIBRARY) == built
    with pytest.raises(OpBuildError):
        build.build(dataclasses.replace(LIBRARY, versions=("tensorflow 2",)))


def test_builds_at_the_same_time_compile_once(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "compilations"
    compiler = tmp_path / "slow-compiler"
    compiler.write_text(f'#!/bin/sh\n[ "$1" = --version ] || {{ echo x >> {log}; sleep 0.3; }}\nexec g++ "$@"\n')
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(compiler))

    # The lock is on an open file, which threads of one process exclude each other by just as processes do.
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: build.build(LIBRARY), range(4)))

    assert len(set(paths)) == 1
    assert log.read_text() == "x\n"


def test_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_OPT_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert build.cache_directory() == Path.home() / ".cache" / "tf_opt"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert build.cache_directory() == Path("/xdg/tf_opt")
    monkeypatch.setenv("TF_OPT_CACHE_DIR", "/own")
    assert build.cache_directory() == Path("/own")


def test_missing_openvino_is_told_to_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "openvino_library", lambda: None)

    function, arguments = build._build_openvino()

    assert function == "TfOptRegisterUnavailableRuntime"
    assert b"pip install openvino" in arguments[0]


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, check=False)


def test_importing_imports_neither_tensorflow_nor_openvino() -> None:
    result = run_python(
        "import sys, tf_opt.ops, tf_opt.ops.build, tf_opt.ops.import_hook\n"
        "assert not {'tensorflow', 'openvino', 'numpy'} & set(sys.modules)"
    )

    assert result.returncode == 0, result.stderr


def test_failing_hook_warns_and_leaves_tensorflow_usable(tmp_path: Path) -> None:
    script = """
import warnings
import tf_opt.ops
tf_opt.ops.register_when_tensorflow_is_imported()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import tensorflow as tf
assert any("no C++ compiler 'no-such-compiler'" in str(warning.message) for warning in caught), caught
assert tf.constant(1).numpy() == 1
try:
    tf_opt.ops.load()
except tf_opt.errors.OpBuildError:
    print("raised")
"""
    result = run_python(script, CXX="no-such-compiler", TF_OPT_CACHE_DIR=str(tmp_path))

    assert result.returncode == 0, result.stderr
    assert "raised" in result.stdout


@pytest.mark.slow
def test_damaged_library_in_the_cache_is_compiled_anew(tmp_path: Path) -> None:
    """In a process of its own: a process loads the op once."""
    # What the compiler makes is known, and half a minute long: it is asked, and gives what it made for this process.
    compiled = build.build_all()
    log, compiler, cache = tmp_path / "compilations", tmp_path / "compiler", tmp_path / "cache"
    compiler.write_text(
        f"""#!/bin/sh
[ "$1" != --version ] || exec {shlex.join(build.compiler_command())} --version
while [ "$1" != -o ]; do shift; done
echo "${{2##*/}}" >> {log}
cp {compiled["libtf_opt_op"].parent}/"${{2##*/}}" "$2"
"""
    )
    compiler.chmod(compiler.stat().st_mode | stat.S_IXUSR)
    damaged = cache / compiled["libtf_opt_op"].name
    cache.mkdir()
    damaged.write_bytes(b"no library")
    result = run_python(
        "from tf_opt.ops import build; print(build.load().__name__)", TF_OPT_CACHE_DIR=str(cache), CXX=str(compiler)
    )

    assert result.returncode == 0, result.stderr
    assert sorted(log.read_text().split()) == sorted(path.name for path in compiled.values())
    assert damaged.read_bytes() == compiled["libtf_opt_op"].read_bytes()


@pytest.fixture
def no_home(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user whose home cannot be written; returns where temporary files go."""
    monkeypatch.delenv("TF_OPT_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_without_a_home_that_can_be_written_the_op_goes_to_a_private_folder(
    no_home: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = build.build(LIBRARY)
    folder = no_home / f"tf_opt-{os.getuid()}"
    assert found.parent == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert f"It goes to {folder}; name another folder in TF_OPT_CACHE_DIR" in caplog.text
    caplog.clear()
    monkeypatch.setattr(build, "_compile", None)  # Calling it would fail.
    assert build.build(LIBRARY) == found
    assert caplog.text == ""


def test_a_folder_that_others_can_write_is_not_used(no_home: Path) -> None:
    folder = no_home / f"tf_opt-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(OpBuildError, match=r"cannot be written to .*others may write there. Set TF_OPT_CACHE_DIR"):
        build.build(LIBRARY)
    folder.rmdir()
    (no_home / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(no_home / "elsewhere")
    with pytest.raises(OpBuildError, match="cannot be written"):
        build.build(LIBRARY)


def test_a_folder_that_was_named_is_the_only_one(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(no_home.parent / "home" / "cache"))
    with pytest.raises(OpBuildError, match="Set TF_OPT_CACHE_DIR to a folder that can"):
        build.build(LIBRARY)
    assert list(no_home.iterdir()) == []


def test_without_any_home_the_cache_is_a_temporary_folder(no_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    assert build.cache_directory() == no_home / f"tf_opt-{os.getuid()}"
