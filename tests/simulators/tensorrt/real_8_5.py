"""A Python environment with the real TensorRT 8.5.3.1, made once and kept in the user's cache.

The wheel holds the whole library and needs Python 3.10. cuBLAS and cuDNN, which
it is linked against, are replaced by libraries whose functions do nothing: without a GPU none of them is called.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.simulators.tensorrt.generate_stubs import StubsUnavailableError, checked, locked
from tf_opt.ops import cache_directory

# What tf_opt needs to import the backend's gate: NumPy, and wrapt for its import hook.
_PACKAGES = ("tensorrt==8.5.3.1", "numpy<2.3", "wrapt")

_REPLACED = ("libcublas.so.11", "libcublasLt.so.11", "libcudnn.so.8")


class RealTensorRTUnavailableError(Exception):
    """The environment cannot be made here."""


def environment() -> tuple[Path, Path]:
    """Returns the environment's interpreter, and the folder with the libraries that do nothing.

    Raises:
        RealTensorRTUnavailableError: There is no Python 3.10, or the wheel cannot be fetched.
    """
    interpreter = _python_3_10()
    folder = cache_directory() / "tensorrt_8.5.3.1"
    folder.mkdir(parents=True, exist_ok=True)
    python, libraries, ready = folder / "venv/bin/python", folder / "libraries", folder / "ready"
    with locked(folder / "lock"):
        if not ready.is_file():
            shutil.rmtree(folder / "venv", ignore_errors=True)
            shutil.rmtree(libraries, ignore_errors=True)
            try:
                # The pip of the tests serves it too; what is never imported need not be compiled.
                checked([interpreter, "-m", "venv", "--without-pip", str(folder / "venv")])
                pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
                options = ["--no-cache-dir", "--no-compile", "--no-deps", "--only-binary=:all:"]
                checked([*pip, "install", *options, *_PACKAGES], seconds=900)
                (site,) = (folder / "venv/lib").glob("python3.10/site-packages")
                _replace_libraries(site / "tensorrt/libnvinfer_plugin.so.8", libraries)
            except StubsUnavailableError as error:
                raise RealTensorRTUnavailableError(str(error)) from error
            ready.touch()
    return python, libraries


def _python_3_10() -> str:
    if sys.version_info[:2] == (3, 10):
        return sys.executable
    candidates = [found] if (found := shutil.which("python3.10")) else []
    # A version manager's `python3.10` may be there and refuse to run.
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += map(str, sorted(root.glob("versions/3.10.*/bin/python3.10")))
    for candidate in candidates:
        if (
            subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode
            == 0
        ):
            return candidate
    raise RealTensorRTUnavailableError(
        "there is no Python 3.10 here, the last one that TensorRT 8.5.3.1 has a wheel for"
    )


def _replace_libraries(plugin: Path, folder: Path) -> None:
    """Compiles libraries that have the functions which TensorRT's plugins are linked against."""
    folder.mkdir()
    undefined = checked(["nm", "--dynamic", "--undefined-only", "--with-symbol-versions", str(plugin)])
    for library in _REPLACED:
        names = sorted(set(re.findall(rf"\bU (\w+)@{re.escape(library)}", undefined)))
        source, versions = folder / f"{library}.c", folder / f"{library}.map"
        source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
        versions.write_text(f"{library} {{ global: *; }};\n")
        flags = ["-shared", "-fPIC", f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"]
        checked(["g++", *flags, "-o", str(folder / library), "-x", "c", str(source)])
