"""Compiles and loads the native TensorFlow op, once for each combination of sources, TensorFlow, compiler and engine.

`python -m tf_opt.ops.build` builds ahead of time, for images without a compiler.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tf_opt.errors import OpBuildError
from tf_opt.ops.import_hook import register_when_tensorflow_is_imported as register_when_tensorflow_is_imported
from tf_opt.ops.temporary_folder import is_private, private_folder, temporary_folder

logger = logging.getLogger(__name__)

SOURCE_DIRECTORY = Path(__file__).resolve().parent
PREBUILT_DIRECTORY = SOURCE_DIRECTORY / "_prebuilt"
OP_SOURCES = (
    "engine_op_definition.cc",
    "engine_op.cc",
    "gpu_engine_op.cc",
    "read_engine_op.cc",
    "fallback.cc",
    "held_constant.cc",
    "host_constant.cc",
    "tensors.cc",
    "engine_blob.cc",
    "runtime_registry.cc",
    "statistics.cc",
    "python_runtime.cc",
    "onnx_weights.cc",
    "onnxruntime_runtime.cc",
)
OPENVINO_SOURCES = ("openvino_runtime.cc",)
COMMON_FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread")

_lock = threading.RLock()
_loaded: tuple[ModuleType, ctypes.CDLL] | None = None


@dataclass(frozen=True, kw_only=True)
class Library:
    """A shared library to be compiled.

    Attributes:
        name: Beginning of the file name.
        sources: File names in this folder.
        flags: Compiler and linker flags, without machine paths that do not change the result.
        paths: Flags that hold paths of the installation, such as include folders.
        versions: What else the result depends on.
        dependency: The engine's own library, which must be opened before this one.
    """

    name: str
    sources: tuple[str, ...]
    flags: tuple[str, ...]
    paths: tuple[str, ...]
    versions: tuple[str, ...]
    dependency: Path | None = None

    def unit(self) -> str:
        """Returns a source that includes all of them: TensorFlow's headers take 10 s, which would be due for each."""
        return "".join(f'#include "{source}"\n' for source in self.sources)

    def command(self, compiler: Sequence[str], unit: Path, output: Path) -> list[str]:
        """Returns the command that compiles the file with `unit()` to `output`."""
        folders = ["-iquote", str(SOURCE_DIRECTORY)]
        return [*compiler, *COMMON_FLAGS, *folders, str(unit), "-o", str(output), *self.flags, *self.paths]

    def file_name(self, compiler_version: str) -> str:
        """Returns a file name with a key of everything the compiled library depends on."""
        key = hashlib.sha256()
        headers = sorted(path.name for path in SOURCE_DIRECTORY.glob("*.h"))
        for source in (*self.sources, *headers):
            key.update(f"{source}\0".encode())
            key.update((SOURCE_DIRECTORY / source).read_bytes())
        for part in (*COMMON_FLAGS, *self.flags, *self.versions, compiler_version, platform.machine()):
            key.update(f"\0{part}".encode())
        return f"{self.name}-{key.hexdigest()[:20]}.so"


def cache_directory() -> Path:
    """Returns where compiled libraries are kept: TF_OPT_CACHE_DIR, else XDG_CACHE_HOME/tf_opt, else ~/.cache/tf_opt."""
    if own := os.environ.get("TF_OPT_CACHE_DIR"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "tf_opt"
    except RuntimeError:  # The user has no home.
        return temporary_folder()


def compiler_command() -> list[str]:
    """Returns the C++ compiler's command: $CXX (which may hold arguments), else g++."""
    return shlex.split(os.environ.get("CXX", "")) or ["g++"]


def compiler_version(compiler: Sequence[str]) -> str:
    """Returns the first line of `compiler --version`, or "" where there is no such compiler."""
    if shutil.which(compiler[0]) is None:
        return ""
    result = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[0] if result.stdout else ""


def op_library() -> Library:
    """Describes the library that holds the op; imports TensorFlow."""
    import tensorflow as tf

    flags, paths = [], []
    for flag in tf.sysconfig.get_compile_flags():
        if flag.startswith("-I"):
            # System headers: their own warnings are not ours to see.
            paths += ["-isystem", flag[2:]]
        elif not flag.startswith("--std"):
            flags.append(flag)
    for flag in tf.sysconfig.get_link_flags():
        (paths if flag.startswith("-L") else flags).append(flag)
    versions = (f"tensorflow {tf.__version__}", f"compiled by {tf.version.COMPILER_VERSION}")
    return Library(name="libtf_opt_op", sources=OP_SOURCES, flags=tuple(flags), paths=tuple(paths), versions=versions)


def openvino_library() -> Library | None:
    """Describes the library of the runtime "openvino"; None where OpenVINO is not installed. Imports nothing."""
    specification = importlib.util.find_spec("openvino")
    if specification is None or not specification.submodule_search_locations:
        return None
    root = Path(next(iter(specification.submodule_search_locations)))
    libraries = sorted((root / "libs").glob("libopenvino.so*"))
    if not libraries or not (root / "include").is_dir():
        raise OpBuildError(
            f"The OpenVINO in {root} has no include/ and libs/libopenvino.so, which its wheel from PyPI has. "
            "Install that one: pip install --force-reinstall openvino"
        )
    return Library(
        name="libtf_opt_openvino",
        sources=OPENVINO_SOURCES,
        flags=(f"-l:{libraries[0].name}",),
        # No rpath: the op opens `dependency` first, so that the library is the same wherever OpenVINO is installed.
        paths=("-isystem", str(root / "include"), f"-L{root / 'libs'}"),
        versions=(f"openvino {importlib.metadata.version('openvino')}",),
        dependency=libraries[0],
    )


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Holds a lock that other processes respect; the kernel drops it where the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(library: Library, compiler: Sequence[str], target: Path) -> None:
    # Beside the target and renamed: a process that is killed leaves no half-written library under the real name.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
        output = Path(folder) / target.name
        unit = output.with_suffix(".cc")
        unit.write_text(library.unit(), encoding="utf-8")
        command = library.command(compiler, unit, output)
        logger.info("Compiling %s: %s", target, shlex.join(command))
        # It happens within `import tensorflow`, where half a minute of silence looks like a hang.
        if sys.stderr.isatty():
            print(f"tf_opt: compiling {library.name} for this TensorFlow, once", file=sys.stderr)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            last_lines = "\n".join(result.stderr.strip().splitlines()[-30:])
            raise OpBuildError(
                f"Compiling {library.name} failed (exit status {result.returncode}).\nCommand: {shlex.join(command)}\n"
                f"The compiler's last lines:\n{last_lines}\n"
                "A compiler with C++17 is needed (g++ 9 or later); name another one in the environment variable CXX."
            )
        output.chmod(0o755)
        os.replace(output, target)


def build(library: Library, directory: Path | None = None) -> Path:
    """Returns the compiled library, compiling it where no folder has it.

    Args:
        library: What to compile.
        directory: Folder to compile into; None for `cache_directory()`, after a look into the package's `_prebuilt`.
            Where that cannot be written and nobody named it, for a temporary folder.

    Raises:
        OpBuildError: There is no compiler, the compilation failed, or the folder cannot be written.
    """
    compiler = compiler_command()
    version = compiler_version(compiler)
    folders = [PREBUILT_DIRECTORY, cache_directory()] if directory is None else [directory]
    may_be_elsewhere = directory is None and not os.environ.get("TF_OPT_CACHE_DIR")
    if may_be_elsewhere and is_private(temporary_folder()):
        folders.append(temporary_folder())
    for folder in folders:
        if found := _find(library, folder, version):
            return found
    directory = directory or cache_directory()
    if not version:
        raise OpBuildError(
            f"The op must be compiled once, and there is no C++ compiler '{shlex.join(compiler)}'. Install one "
            "(`sudo apt-get install g++`, `dnf install gcc-c++` or `conda install gxx`), or name yours in the "
            "environment variable CXX; or, on a machine that has one and the same tensorflow and openvino, run "
            f"`python -m tf_opt.ops.build --output DIR` and copy DIR to {PREBUILT_DIRECTORY} here."
        )
    try:
        return _compile_into(directory, library, compiler, version)
    except OSError as error:
        reason = error
    if may_be_elsewhere:
        elsewhere = temporary_folder()
        logger.warning(
            "The op cannot be kept in %s: %s. It goes to %s; name another folder in TF_OPT_CACHE_DIR.",
            directory,
            reason,
            elsewhere,
        )
        try:
            return _compile_into(private_folder(), library, compiler, version)
        except OSError as error:
            reason = error
    raise OpBuildError(
        f"The compiled op cannot be written to {directory}: {reason}. Set TF_OPT_CACHE_DIR to a folder that can."
    ) from reason


def _compile_into(directory: Path, library: Library, compiler: Sequence[str], version: str) -> Path:
    """Compiles, unless another process has; raises OSError where the folder cannot be written."""
    target = directory / library.file_name(version)
    directory.mkdir(parents=True, exist_ok=True)
    # One lock a library, so that two processes do not compile the same thing at the same time.
    with _exclusive(directory / f".{library.name}.lock"):
        if not target.exists():
            _note_compiler(directory, version)
            _compile(library, compiler, target)
    return target


def _find(library: Library, directory: Path, version: str) -> Path | None:
    """Returns the compiled library in `directory`; where there is no compiler, that of any compiler."""
    versions = [version]
    try:
        if not version:
            versions += [note.read_text(encoding="utf-8").strip() for note in sorted(directory.glob("*.compiler"))]
        candidates = [directory / library.file_name(candidate) for candidate in versions]
        return next((candidate for candidate in candidates if candidate.exists()), None)
    except OSError:  # A home that belongs to somebody else: nothing that can be used is in it.
        return None


def _note_compiler(directory: Path, version: str) -> None:
    """Writes down which compiler built in `directory`: a machine without one cannot tell the key to look for."""
    note = directory / f"{hashlib.sha256(version.encode()).hexdigest()[:8]}.compiler"
    if not note.exists():
        note.write_text(version + "\n", encoding="utf-8")


def build_all(directory: Path | None = None) -> dict[str, Path]:
    """Compiles the op and every runtime whose package is installed; returns the libraries by name.

    Raises:
        OpBuildError: See `build`.
    """
    libraries = [op_library()]
    if (openvino := openvino_library()) is not None:
        libraries.append(openvino)
    # Side by side: the compiler takes about 15 s for the one and 6 s for the other.
    with ThreadPoolExecutor(len(libraries)) as pool:
        paths = pool.map(lambda library: build(library, directory), libraries)
        return dict(zip((library.name for library in libraries), paths, strict=True))


def library_path() -> Path:
    """Returns the op's library, compiling it where needed.

    Raises:
        OpBuildError: See `build`.
    """
    return build(op_library())


def native_functions() -> ctypes.CDLL:
    """Returns the op library's C functions; loads the op first.

    Raises:
        OpBuildError: See `load`.
    """
    return _load_once()[1]


def load() -> ModuleType:
    """Registers the op with TensorFlow, once in a process, and tells it where its runtimes are.

    Returns:
        TensorFlow's module of generated functions (`tf_opt_engine`).

    Raises:
        OpBuildError: The op could not be compiled or loaded.
    """
    return _load_once()[0]


def _load_once() -> tuple[ModuleType, ctypes.CDLL]:
    global _loaded
    with _lock:
        if _loaded is None:
            from tf_opt.ops import onnxruntime_library, python_runtime  # The latter imports this module.

            with ThreadPoolExecutor(1) as pool:
                openvino = pool.submit(_build_openvino)  # Compiles, where needed, beside the op.
                path, module = _load_op()
                functions = ctypes.CDLL(str(path))
                function, arguments = openvino.result()
                getattr(functions, function)(b"openvino", *arguments)
                python_runtime.register_known_runtimes(functions)
                onnxruntime_library.register(functions, onnxruntime_library.find_library())
            _loaded = (module, functions)
        return _loaded


def _load_op() -> tuple[Path, ModuleType]:
    """Loads the op library; one in the cache that does not load (a full disk, a copy cut short) is compiled anew."""
    import tensorflow as tf

    path = library_path()
    try:
        return path, tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        if path.parent == PREBUILT_DIRECTORY:
            raise OpBuildError(
                f"TensorFlow {tf.__version__} cannot load {path}: {error}. Remove that file and try again; it is "
                "compiled anew."
            ) from error
    path.unlink(missing_ok=True)
    path = build(op_library())
    try:
        return path, tf.load_op_library(str(path))
    except (tf.errors.OpError, OSError) as error:
        raise OpBuildError(
            f"TensorFlow {tf.__version__} cannot load {path}, which was just compiled: {error}. The compiler and the "
            "C++ library that TensorFlow was built with may not fit; name another compiler in CXX."
        ) from error


def _build_openvino() -> tuple[str, tuple[bytes, ...]]:
    """Returns the C function, and its arguments, that tells the op where the runtime "openvino" is, or why it is not.

    An error here must wait until an engine needs this runtime: others work without it.
    """
    reason = (
        "the runtime 'openvino' needs the package openvino, which is not installed. Install it: pip install openvino."
    )
    try:
        library = openvino_library()
        if library is not None:
            paths = (os.fsencode(build(library)), os.fsencode(library.dependency or ""))
            return "TfOptRegisterRuntimeLibrary", paths
    except OpBuildError as error:
        reason = f"the runtime 'openvino' could not be built: {error}"
    return "TfOptRegisterUnavailableRuntime", (reason.encode(),)


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds ahead of time; see `--help`."""
    parser = argparse.ArgumentParser(prog="python -m tf_opt.ops.build", description="Compile tf_opt's TensorFlow op.")
    where = f"folder to compile into (default: {cache_directory()})"
    parser.add_argument("--output", type=Path, default=None, metavar="DIR", help=where)
    options = parser.parse_args(arguments)
    try:
        paths = build_all(options.output)
    except OpBuildError as error:
        print(error, file=sys.stderr)
        return 1
    for path in paths.values():
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
