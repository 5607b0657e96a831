"""A folder for what is compiled where the user's cache cannot be written: in a container whose user has no home."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def temporary_folder() -> Path:
    """Returns where it is, without touching anything; the same for all processes of a user."""
    return Path(tempfile.gettempdir()) / f"tf_opt-{os.getuid()}"


def is_private(folder: Path) -> bool:
    """Tells whether a folder is there in which nobody else can put a library that this user then loads."""
    try:
        status = folder.lstat()  # What a link points to is the choice of whoever made the link.
    except OSError:
        return False
    return (
        stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.getuid()
        and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )


def private_folder() -> Path:
    """Returns the folder, made if need be.

    Raises:
        OSError: It cannot be made, or belongs to somebody else.
    """
    folder = temporary_folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    if not is_private(folder):
        raise PermissionError(f"{folder} belongs to another user, or others may write there")
    return folder
