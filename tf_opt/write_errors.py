"""Says of a write that failed what was to be written, why it was not, and how much room it wanted."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tf_opt.errors import OutputWriteError, TfOptError
from tf_opt.sizes import size_text


@contextmanager
def named_write_errors(target: Path, needed_bytes: int) -> Iterator[None]:
    """Raises an OutputWriteError where the block fails to write.

    Args:
        target: What is being written.
        needed_bytes: About how large it becomes.
    """
    try:
        yield
    except TfOptError:  # Some are an OSError too, and say enough.
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not _is_of_tensorflow(error):
            raise
        raise OutputWriteError(
            f"{target} cannot be written: {_reason(error)}. It needs about {size_text(needed_bytes)}, and "
            f"{_free(target)}. Make room, raise the limit on the size of files where there is one (ulimit -f), or name "
            "another path."
        ) from error


def _free(target: Path) -> str:
    folder = target.absolute()
    while not folder.exists():
        folder = folder.parent
    folder = folder if folder.is_dir() else folder.parent
    return f"{size_text(shutil.disk_usage(folder).free)} are free on the disk of {folder}"


def _is_of_tensorflow(error: Exception) -> bool:
    """Tells whether TensorFlow raised an error; where it was never imported, it did not, and reports need it not."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(error, tensorflow.errors.OpError)


def _reason(error: Exception) -> str:
    if isinstance(error, shutil.Error):  # Of each file: its path, where it was to go, and why it did not.
        return str(error.args[0][0][2])
    if isinstance(error, OSError):
        return error.strerror or str(error)
    from tf_opt.run_errors import brief_message  # It imports TensorFlow.

    # TensorFlow names the temporary file and, after a semicolon, what the system said.
    text = re.sub(r"\s*\[Op:\w+\].*", "", brief_message(error))
    return text.rpartition("; ")[2]
