from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from tf_opt.errors import OutputExistsError, OutputWriteError
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
