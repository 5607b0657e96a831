"""Type stubs of the `tensorrt` module, generated from NVIDIA's compiled Python bindings alone.

No TensorRT library and no GPU are needed: the bindings only want libnvinfer and libnvonnxparser to resolve a few C
entry points, and empty libraries of these names satisfy the dynamic linker. Nothing calls them while pybind11-stubgen
reads the signatures out of the docstrings. What comes out, kept in the user's cache by version::

    <folder>/tensorrt/__init__.pyi    the stub
    <folder>/tensorrt/py.typed
    <folder>/enums.json               the numbers of all enum members, {"DataType": {"FLOAT": 0, ...}, ...}

    python tests/simulators/tensorrt/generate_stubs.py 10.16.1.11 [FOLDER]
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import importlib
import importlib.util
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

VERSIONS = ("10.0.1", "10.16.1.11", "11.4.0.106")
"""The versions that the backend is checked against: the oldest and the newest 10, and the newest 11."""

BINDINGS = "tensorrt_bindings.tensorrt"

# Enums that are defaults of arguments: pybind11-stubgen has to be told in which class each lies.
_ENUM_PLACES = {
    "Severity": f"{BINDINGS}.ILogger",
    "DataType": BINDINGS,
    "EngineStat": BINDINGS,
    "ExecutionContextAllocationStrategy": BINDINGS,
    "PluginFieldType": BINDINGS,
}

# C++ names that are left in docstrings because their class is bound under another name, or later.
_CPP_NAMES = {"IBuilder": "Builder", "IRuntime": "Runtime", "IRefitter": "Refitter", "IParserError": "ParserError"}

# What pybind11 converts on the way in (py::implicitly_convertible), which signatures do not say.
_ACCEPTED = {
    "Dims": "Dims | collections.abc.Sequence[int]",
    "Weights": "Weights | numpy.ndarray[typing.Any, typing.Any]",
    "FallbackString": "FallbackString | str | bytes",
}

# What C++ answers with a null pointer on failure, which pybind11 hands over as None.
_NULLABLE = {
    ("Builder", "build_serialized_network"),
    ("Builder", "build_engine_with_config"),
    ("Runtime", "deserialize_cuda_engine"),
    ("ICudaEngine", "create_execution_context"),
    ("ICudaEngine", "create_execution_context_without_device_memory"),
    ("ICudaEngine", "serialize"),
    ("ICudaEngine", "serialize_with_config"),
    ("IBuilderConfig", "create_timing_cache"),
    ("IBuilderConfig", "get_timing_cache"),
    ("ITimingCache", "serialize"),
    ("INetworkDefinition", "get_input"),
    ("INetworkDefinition", "get_output"),
    ("IExecutionContext", "get_output_allocator"),
}


class StubsUnavailableError(Exception):
    """Stubs cannot be made here."""


class NoWheelForThisPythonError(StubsUnavailableError):
    """The registry has the bindings, but none for this version of Python: 10.0 ended before 3.13 began."""


def stubs(version: str) -> Path:
    """Returns the folder with the stubs of a version, made on the first call.

    Args:
        version: A release of the bindings, such as "10.16.1.11".

    Raises:
        StubsUnavailableError: The wheel cannot be fetched for this Python, or a tool is missing.
    """
    # Imported here: this file also runs as a script, where the repository's root is not on the path.
    from tf_opt.ops import cache_directory

    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    python = f"py{sys.version_info[0]}{sys.version_info[1]}"
    folder = cache_directory() / "tensorrt_stubs" / f"{version}-{python}-{source}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "lock"):
        if not (folder / "enums.json").is_file():
            generate(version, folder)
    return folder


def generate(version: str, folder: Path) -> None:
    """Writes the stubs of a version into a folder, which is replaced.

    Args:
        version: A release of the bindings.
        folder: Where the stubs go.

    Raises:
        StubsUnavailableError: The wheel cannot be fetched for this Python, or a tool is missing.
    """
    if importlib.util.find_spec("pybind11_stubgen") is None:
        raise StubsUnavailableError("pybind11-stubgen is not installed; install it with: pip install pybind11-stubgen")
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        site = _unpacked_bindings(version, work)
        libraries = _empty_libraries(site / "tensorrt_bindings" / "tensorrt.so", work / "libraries")
        environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": str(site)}
        checked([sys.executable, __file__, "--read", str(work / "read")], environment)
        made = work / "made"
        (made / "tensorrt").mkdir(parents=True)
        text = _tidy(
            (work / "read/tensorrt_bindings/tensorrt.pyi").read_text(),
            (work / "read/tensorrt_bindings/__init__.pyi").read_text(),
        )
        (made / "tensorrt/__init__.pyi").write_text(text)
        (made / "tensorrt/py.typed").touch()
        shutil.copy(work / "read/enums.json", made)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(made, folder)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a lock file, so that two processes do not make the same thing at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def checked(command: Sequence[str], environment: dict[str, str] | None = None, seconds: float = 300) -> str:
    """Returns what a command prints; raises StubsUnavailableError with its error output where it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=seconds)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise StubsUnavailableError(f"{' '.join(command)}: {error}") from error
    if result.returncode:
        raise StubsUnavailableError(f"{' '.join(command)} failed:\n{result.stderr.strip()[-2000:]}")
    return result.stdout


def _unpacked_bindings(version: str, work: Path) -> Path:
    """Downloads the bindings' wheel, which is a megabyte, and unpacks it without installing."""
    # 11 has no bindings for CUDA 12 in all its releases, 10.0 none for CUDA 13; the signatures are the same.
    cuda = 12 if version.startswith("10.0.") else 13
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wanted = f"tensorrt-cu{cuda}-bindings=={version}"
    try:
        checked([*pip, "download", "--no-deps", "--only-binary=:all:", "--dest", str(work), wanted])
    except StubsUnavailableError as error:
        if re.search(r"from versions: \d", str(error)):
            raise NoWheelForThisPythonError(str(error)) from error
        raise
    (wheel,) = work.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(work / "site")
    return work / "site"


def _empty_libraries(bindings: Path, folder: Path) -> Path:
    """Compiles libraries without content under the names that the bindings are linked against."""
    folder.mkdir()
    dynamic = checked(["readelf", "--dynamic", "--wide", str(bindings)])
    needed = re.findall(r"\(NEEDED\).*\[(lib(?:nvinfer|nvonnxparser)[^]]*)\]", dynamic)
    undefined = checked(["nm", "--dynamic", "--undefined-only", str(bindings)])
    entries = r"\bU ((?:createInfer|createNvOnnx|getNvOnnx|getPlugin|getBuilderPlugin|initLibNvInfer|getInferLib)\w*)"
    functions = sorted(set(re.findall(entries, undefined)))
    source = folder / "entries.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in functions))
    nothing = folder / "nothing.c"
    nothing.touch()
    for name in needed:
        content = source if name.startswith("libnvinfer.so") else nothing
        soname = f"-Wl,-soname,{name}"
        checked(["g++", "-shared", "-fPIC", soname, "-o", str(folder / name), "-x", "c", str(content)])
    return folder


def _read(folder: Path) -> None:
    """Runs pybind11-stubgen on the bindings and writes down the enums' numbers; in a process of its own."""
    from pybind11_stubgen import main
    from pybind11_stubgen.parser.mixins import parse

    reader = parse.ExtractSignaturesFromPybind11Docstrings
    plain = reader.parse_annotation_str

    def named(self: object, text: str) -> object:
        cpp = r"\bnv(?:infer1|onnxparser)::(?:v_\d+_\d+::)?(\w+)"
        return plain(self, re.sub(cpp, lambda match: f"{BINDINGS}.{_CPP_NAMES.get(match[1], match[1])}", text))

    reader.parse_annotation_str = named
    places = [word for name, at in _ENUM_PLACES.items() for word in ("--enum-class-locations", f"{name}:{at}")]
    main(["tensorrt_bindings", "--output-dir", str(folder), "--ignore-all-errors", *places])
    numbers: dict[str, dict[str, int]] = {}

    def collect(owner: object, prefix: str) -> None:
        for name, value in sorted(vars(owner).items()):
            if isinstance(value, type) and not name.startswith("_"):
                if isinstance(members := getattr(value, "__members__", None), dict):
                    numbers[prefix + name] = {member: int(number) for member, number in members.items()}
                elif not prefix:
                    collect(value, f"{name}.")

    collect(importlib.import_module(BINDINGS), "")
    (folder / "enums.json").write_text(json.dumps(numbers, indent=1, sort_keys=True))


class _Tidy(ast.NodeTransformer):
    """Makes one module of correct Python out of what pybind11-stubgen wrote."""

    def __init__(self) -> None:
        self.owner = ""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        # The module has an attribute `bool`, a DataType.
        return _expression("builtins.bool") if node.id == "bool" else node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self.owner = self.owner, node.name
        self.generic_visit(node)
        self.owner = outer
        node.body = [part for part in node.body if not _is_docstring(part)]
        if node.name == "Dims":  # Iterates by __getitem__ and IndexError.
            node.body.append(_statement("def __iter__(self) -> collections.abc.Iterator[int]: ..."))
        if node.name == "IHostMemory":  # py::buffer_protocol.
            node.body.append(_statement("def __buffer__(self, flags: int, /) -> memoryview: ..."))
        node.body = node.body or [_statement("...")]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [_statement("...")]
        arguments = node.args.posonlyargs + node.args.args
        for argument in arguments:
            if isinstance(argument.annotation, ast.Name):
                argument.annotation = _expression(_ACCEPTED.get(argument.annotation.id, argument.annotation.id))
        if arguments and arguments[0].arg == "self":
            arguments[0].annotation = None
        for argument, default in zip(reversed(arguments), reversed(node.args.defaults), strict=False):
            if isinstance(default, ast.Constant) and default.value is None and argument.annotation is not None:
                argument.annotation = ast.BinOp(argument.annotation, ast.BitOr(), ast.Constant(None))
        if (self.owner, node.name) in _NULLABLE and node.returns is not None:
            node.returns = ast.BinOp(node.returns, ast.BitOr(), ast.Constant(None))
        self.generic_visit(node)
        return node


def _tidy(core: str, package: str) -> str:
    core = core.replace(f"{BINDINGS}.", "")
    tree = ast.parse("\n".join(map(_valid_line, core.split("\n"))))
    defined = {getattr(node, "name", None) for node in tree.body}
    helpers = [node for node in ast.parse(package).body if isinstance(node, ast.FunctionDef)]
    tree.body += [node for node in helpers if node.name in ("nptype", "volume") and node.name not in defined]
    tree.body = [node for node in tree.body if not _is_docstring(node)]
    tree.body.append(_statement("__version__: str"))
    tidied = _Tidy().visit(tree)
    for node in tidied.body:
        # The annotation of `bool` keeps the name that the transformer took for the builtin type.
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "builtins.bool":
            node.target = ast.Name("bool", ast.Store())
    text = ast.unparse(ast.fix_missing_locations(tidied))
    modules = ("builtins", "collections.abc", "numpy", "typing", "typing_extensions")
    imports = "".join(f"import {name}\n" for name in modules if f"import {name}\n" not in text)
    future = "from __future__ import annotations\n"
    return f"# mypy: ignore-errors\n{future}{imports}{text.replace(future, '')}\n"


def _valid_line(line: str) -> str:
    """Corrects what pybind11 allows and Python's grammar does not."""
    if not line.lstrip().startswith("def "):
        return line
    # A parameter named like a keyword, such as `in`.
    line = re.sub(
        rf"(?<=[(,] )({'|'.join(keyword.kwlist)})(?=:)|(?<=\()({'|'.join(keyword.kwlist)})(?=:)", r"\g<0>_", line
    )
    # Signatures that it could not read end in `...` where an annotation belongs.
    line = line.replace("-> ...:", "-> typing.Any:")
    try:
        ast.parse(line.strip() + (" ..." if line.rstrip().endswith(":") else ""))
    except SyntaxError:  # An argument without a default behind one with.
        head, _, tail = line.partition(" = ")
        line = head + " = " + re.sub(r"(\w+: [\w.\[\]]+)(?=[,)])", r"\1 = ...", tail)
    return line


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _statement(text: str) -> ast.stmt:
    return ast.parse(text).body[0]


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        _read(Path(sys.argv[2]))
    else:
        generate(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else f"tensorrt_stubs_{sys.argv[1]}"))
