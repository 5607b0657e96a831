"""How long kernels took, kept between builds and shared by processes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from tf_opt.cache_files import default_folder, exclusive, read_checked, write_checked
from tf_opt.engines.tensorrt.plan_cache import Device
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.errors import InvalidOptionError

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger(__name__)

MAGIC = b"TFOPTTIM"


def timing_cache_path(settings: TensorRTSettings, device: Device) -> Path:
    """Returns the file that the settings name, or the one of this TensorRT and GPU.

    Raises:
        InvalidOptionError: The settings name a file that is something else, which a build would overwrite.
    """
    if settings.timing_cache is not None:
        path = Path(settings.timing_cache).expanduser()
        refuse_foreign(path)
        return path
    return default_folder("timing_caches") / f"{device.slug}.timing"


def attach(config: trt.IBuilderConfig, path: Path, device: Device) -> trt.ITimingCache | None:
    """Gives a build what earlier ones measured; nothing where that is damaged or of another GPU or version.

    Returns:
        What has to be kept until the build is over.
    """
    known = _read(path, device)
    for content in (known, b"") if known else (b"",):
        cache = config.create_timing_cache(content)
        # False: never ignore that it was measured elsewhere.
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        logger.info("TensorRT does not take the timing cache %s; this build measures again.", path)
    return None


def refuse_foreign(path: Path) -> None:
    """Raises where a folder is there, or a file that tf_opt did not write, whatever is in it.

    Raises:
        InvalidOptionError: There is such a file or folder.
    """
    if path.is_dir():
        # Said now: a build may take minutes, and what it measured could not be kept.
        raise InvalidOptionError(f"timing_cache is {str(path)!r}, a folder; expected the path of a file.")
    try:
        with path.open("rb") as file:
            start = file.read(len(MAGIC))
    except OSError:
        return  # There is none yet, or saving will say what is wrong.
    if start and start != MAGIC:
        raise InvalidOptionError(
            f"timing_cache is {str(path)!r}, a file that tf_opt did not write and would overwrite. Name another file, "
            "or remove that one."
        )


def save(config: trt.IBuilderConfig, path: Path, device: Device) -> None:
    """Adds what a build measured to the file; what other processes added meanwhile stays."""
    # Its stubs say that there always is one; TensorRT answers None where it took none.
    cache: trt.ITimingCache | None = config.get_timing_cache()
    if cache is None:
        return
    try:
        with exclusive(path.with_name(f".{path.name}.lock")):
            other = config.create_timing_cache(_read(path, device))
            if other is not None and not cache.combine(other, False):
                logger.info("The timing cache %s belongs to another GPU or TensorRT and is replaced.", path)
            content = cache.serialize()
            if content is not None:
                write_checked(path, MAGIC, {"device": device.slug}, (bytes(content),))
    except OSError as error:
        logger.warning("The timing cache cannot be written to %s: %s", path, error)


def _read(path: Path, device: Device) -> bytes:
    """Returns a timing cache's content; nothing where there is none for this GPU and TensorRT that is whole."""
    try:
        header, content = read_checked(path, MAGIC)
    except OSError:
        return b""
    except ValueError as error:
        logger.info("The timing cache %s is of no use: %s", path, error)
        return b""
    return bytes(content) if header.get("device") == device.slug else b""
