from __future__ import annotations

import errno
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from tests.full_disk_writers import WRITERS
from tf_opt.errors import OutputExistsError, OutputWriteError
from tf_opt.write_errors import named_write_errors

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="module")
def on_a_full_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What came of all writers where no file can become larger than 100 bytes."""
    command = [sys.executable, "-m", "tests.full_disk_writers", str(tmp_path_factory.mktemp("full"))]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    result: dict[str, Any] = json.loads(completed.stdout)
    return result


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_names_what_it_could_not_write(on_a_full_disk: dict[str, Any], name: str) -> None:
    message = on_a_full_disk["raised"][name]
    assert re.search(rf"{name} cannot be written: File too large\. It needs about .* are free", message)


def test_what_could_not_be_written_leaves_nothing(on_a_full_disk: dict[str, Any]) -> None:
    assert on_a_full_disk["left"] == []


def test_a_cache_that_cannot_be_written_stops_nothing(on_a_full_disk: dict[str, Any]) -> None:
    assert not on_a_full_disk["stored"]
    assert on_a_full_disk["found"] is None
    assert "File too large" in on_a_full_disk["log"]
    assert "could not be kept" in on_a_full_disk["log"]
