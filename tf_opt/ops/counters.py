"""What the op counts: which segments ran, by what, and whether anything was copied."""

from __future__ import annotations

import ctypes
import json

from tf_opt.ops.build import native_functions


def statistics() -> dict[str, dict[str, int]]:
    """Returns what happened to each segment in this process, by segment name.

    The counters: `loads`, `load_failures`, `runs` (by the engine), `device_runs` (those of them that worked on a GPU's
    memory), `fallback_runs`, `copied_bytes` (between TensorFlow and the engine, in either direction),
    `concurrent_peak` (most runs at the same time), `concurrent_runs` (served by the variant for concurrent callers),
    `specialized_runs`, `specialized_kept`, `specialized_rejected` and `specialized_evicted` (engines for one shape),
    `background_failures` (variants that could not be compiled).
    Segments of the same name in several graphs are added up.

    Raises:
        OpBuildError: The op could not be compiled or loaded.
    """
    function = native_functions().TfOptStatistics
    function.restype = ctypes.c_uint64
    function.argtypes = (ctypes.c_char_p, ctypes.c_uint64)
    size = 0
    while True:
        buffer = ctypes.create_string_buffer(size)
        needed = function(buffer, size)
        if needed <= size:
            counters: dict[str, dict[str, int]] = json.loads(buffer.value)
            return counters
        size = needed + 256  # Another thread may add a segment or a digit in between.


def reset_statistics() -> None:
    """Sets every counter to zero.

    Raises:
        OpBuildError: The op could not be compiled or loaded.
    """
    native_functions().TfOptResetStatistics()
