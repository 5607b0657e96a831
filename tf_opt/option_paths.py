"""Checks the places that options name, before any time is spent on what is to be written there."""

from __future__ import annotations

from pathlib import Path

from tf_opt.engines.tensorrt.timing_cache import refuse_foreign
from tf_opt.errors import OutputPathError
from tf_opt.optimization_cache import OptimizationCache
from tf_opt.options import Options
from tf_opt.output_paths import check_folder_place, check_place


def check_option_paths(options: Options) -> None:
    """Refuses places that the options name and that cannot be written to.

    The folder that caches have by themselves is not looked at: nobody asked for it, and a result needs none of it.

    Args:
        options: The options, checked.

    Raises:
        OutputPathError: `dump_dir`, `cache_dir` or TensorRT's `timing_cache` can neither be written nor made.
        InvalidOptionError: `timing_cache` is a folder, or a file of something else.
    """
    if options.dump_dir is not None:
        check_folder_place(Path(options.dump_dir))
    if options.cache and options.cache_dir is not None:
        _check_cache(Path(options.cache_dir).expanduser())
    if options.tensorrt is not None and options.tensorrt.timing_cache is not None and _may_use_tensorrt(options):
        path = Path(options.tensorrt.timing_cache).expanduser()
        refuse_foreign(path)
        check_place(path)


def _check_cache(folder: Path) -> None:
    try:
        check_folder_place(folder)
    except OutputPathError:
        if OptimizationCache(folder).is_empty():  # Results that were put there for others to read are of use.
            raise


def _may_use_tensorrt(options: Options) -> bool:
    engines = {options.engine} if isinstance(options.engine, str) else set(options.engine)
    return bool(engines & {"auto", "fastest", "tensorrt"})
