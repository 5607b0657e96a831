from __future__ import annotations

import errno
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tensorflow as tf

from tests.report.sample_reports import report, saved_model_report
from tests.small_graphs import mlp
from tf_opt.benchmarking import Benchmark
from tf_opt.cache_files import CacheFolder
from tf_opt.cli.optimize import write_report
from tf_opt.errors import OutputExistsError, OutputWriteError
from tf_opt.graph_checks import frozen_from_graph_def
from tf_opt.quantization.cache import write_recipe
from tf_opt.quantization.recipe import Recipe
from tf_opt.write_errors import named_write_errors

SAVING = (
    "{{function_node __wrapped__SaveV2_dtypes_4_device_/job:localhost}} out/.writing-1/part; File too large [Op:SaveV2]"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/.writing-1/file"), "No space left on device"),
        (tf.errors.OutOfRangeError(None, None, SAVING), "File too large"),
        (tf.errors.UnknownError(None, None, "The disk is broken"), "The disk is broken"),
        (shutil.Error([("from", "to", "[Errno 28] No space left on device")]), "[Errno 28] No space left on device"),
    ],
)
def test_errors_name_the_target_and_the_room(tmp_path: Path, error: Exception, reason: str) -> None:
    with pytest.raises(OutputWriteError) as raised, named_write_errors(tmp_path / "new" / "out", 3 << 20):
        raise error
    text = str(raised.value)
    assert text.startswith(f"{tmp_path / 'new' / 'out'} cannot be written: {reason}. It needs about 3.0 MiB, and ")
    assert f"are free on the disk of {tmp_path}. " in text
    assert ".writing-" not in text
    assert "function_node" not in text


def test_errors_of_ours_stay() -> None:
    with pytest.raises(OutputExistsError, match="there already"), named_write_errors(Path("out"), 1):
        raise OutputExistsError("there already")


@pytest.fixture
def small_files() -> Iterator[None]:
    """Lets no file become larger than 100 bytes, which is what a full disk looks like to a program."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


WRITERS: dict[str, Callable[[Path], object]] = {
    "net.pb": lambda path: frozen_from_graph_def(mlp(), ["y"]).save(path),
    "net.pbtxt": lambda path: frozen_from_graph_def(mlp(), ["y"]).save(path),
    "report.json": lambda path: report().to_json(path),
    "report.html": lambda path: saved_model_report().to_html(path),
    "report.txt": lambda path: write_report(report(), path),
    "benchmark.json": lambda path: Benchmark(rows=(), environment={"cpu": "c" * 200}).to_json(path),
}


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_names_what_it_could_not_write(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        OutputWriteError, match=rf"{name} cannot be written: File too large\. It needs about .* are free"
    ):
        WRITERS[name](tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_files")
def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = CacheFolder(tmp_path, ".entry", b"12345678", 10**6)
    assert not cache.store("key", {}, [b"x" * 500])
    assert "File too large" in caplog.text
    assert cache.load("key") is None
    write_recipe(tmp_path, "key", Recipe(layers=(), symmetric=True, weight_levels=127))
    assert "could not be kept" in caplog.text
