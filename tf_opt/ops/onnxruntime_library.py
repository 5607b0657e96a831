"""Where ONNX Runtime's own library is, by which the op runs engines for the CPU without Python."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

RUNTIME = "onnxruntime"


def find_library() -> Path | None:
    """Returns the library in the installed package; None where there is no package, or one without. Imports nothing.

    Every package named onnxruntime has the Python module, which brings all of ONNX Runtime itself; older ones and some
    of those for other devices have nothing else.
    """
    specification = importlib.util.find_spec("onnxruntime")
    folders = specification.submodule_search_locations if specification is not None else None
    found = [path for folder in folders or () for path in sorted(Path(folder, "capi").glob("libonnxruntime.so*"))]
    return found[0] if found else None


def register(functions: ctypes.CDLL, library: Path | None) -> None:
    """Has the op run ONNX Runtime's engines for the CPU by its library, from the next one that is loaded on.

    Args:
        functions: The op library's C functions, with the runtimes in Python registered.
        library: ONNX Runtime's library, opened when an engine first needs it; None leaves all engines to Python.
    """
    if library is None:
        logger.debug("ONNX Runtime's engines run through Python: no installed package has libonnxruntime.so.")
        functions.TfOptRegisterPythonRuntime(RUNTIME.encode())
        return
    logger.debug("ONNX Runtime's engines for the CPU run by %s.", library)
    functions.TfOptRegisterOnnxRuntime(RUNTIME.encode(), os.fsencode(library))
