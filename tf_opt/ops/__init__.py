"""The native TensorFlow op that runs engines inside a graph, and what can be asked of it.

Importing this imports neither TensorFlow nor any engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_opt.ops.build import build_all as build_all
    from tf_opt.ops.build import cache_directory as cache_directory
    from tf_opt.ops.build import library_path as library_path
    from tf_opt.ops.build import load as load
    from tf_opt.ops.counters import reset_statistics as reset_statistics
    from tf_opt.ops.counters import statistics as statistics
    from tf_opt.ops.import_hook import register_when_tensorflow_is_imported as register_when_tensorflow_is_imported

_MODULE_OF = {
    "build_all": "build",
    "cache_directory": "build",
    "library_path": "build",
    "load": "build",
    "register_when_tensorflow_is_imported": "import_hook",
    "reset_statistics": "counters",
    "statistics": "counters",
}

__all__ = [
    "build_all",
    "cache_directory",
    "library_path",
    "load",
    "register_when_tensorflow_is_imported",
    "reset_statistics",
    "statistics",
]


def __getattr__(name: str) -> Any:
    # Lazy, so that `python -m tf_opt.ops.build` does not find its own module imported already, which runpy warns of.
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
