"""BUILD names every source file once, and nothing that is not there."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_FOLDERS = ("tf_opt", "passes", "tests")
SOURCE_SUFFIXES = (".py", ".cc", ".h")
TEST_RUNNER = "tests/run_pytest.py"  # The main program of every py_test, and so in the srcs of each.

# All that BUILD may be made of. Starlark's grammar is Python's without the rest: what is not listed here would be
# an error to Bazel: import, def, class, an f-string.
STARLARK_NODES = (
    *(ast.Module, ast.Expr, ast.Assign, ast.Name, ast.Load, ast.Store, ast.Constant),
    *(ast.Call, ast.keyword, ast.Attribute, ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice),
    *(ast.ListComp, ast.comprehension, ast.BinOp, ast.Add, ast.Mod, ast.UnaryOp, ast.USub),
)


@dataclass(frozen=True)
class Target:
    rule: str
    attributes: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.attributes["name"])

    @property
    def sources(self) -> list[str]:
        return [*self.attributes.get("srcs", ()), *self.attributes.get("hdrs", ())]

    @property
    def files(self) -> list[str]:
        """All files of the repository that the target names; labels of targets are none."""
        named = [*self.sources, *self.attributes.get("data", ())]
        return [name for name in named if not name.startswith((":", "//", "@"))]


@dataclass(frozen=True)
class BuildFile:
    targets: list[Target] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> BuildFile:
        """Runs a BUILD file. Each rule that it loads or calls is a recorder, and there are no Python builtins."""
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if not isinstance(node, STARLARK_NODES):
                raise SyntaxError(f"line {getattr(node, 'lineno', '?')}: {type(node).__name__} is not Starlark")
        build = cls()
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        scope: dict[str, Any] = {"__builtins__": {}, "load": lambda *_: None, "True": True, "False": False}
        for rule in called - {"load"}:
            scope[rule] = build._recorder(rule)
        exec(compile(tree, "BUILD", "exec"), scope)
        return build

    def _recorder(self, rule: str) -> Any:
        def record(**attributes: Any) -> None:
            if "name" in attributes:
                self.targets.append(Target(rule, attributes))

        return record

    def of_rule(self, rule: str) -> list[Target]:
        return [target for target in self.targets if target.rule == rule]


def source_files() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for folder in SOURCE_FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SOURCE_SUFFIXES and "__pycache__" not in path.parts and "_prebuilt" not in path.parts
    }


def imported_modules(text: str) -> set[str]:
    """The modules that a file imports; of `from a import b` both "a" and "a.b"."""
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return modules


def listing(title: str, names: set[str]) -> str:
    return "\n".join([title, *(f'    "{name}",' for name in sorted(names))])


@pytest.fixture(scope="module")
def build() -> BuildFile:
    return BuildFile.parse((ROOT / "BUILD").read_text())


def test_every_source_file_is_in_a_target(build: BuildFile) -> None:
    missing = source_files() - {name for target in build.targets for name in target.sources}
    assert not missing, listing("BUILD lacks these files:", missing)


def test_no_source_file_is_in_two_targets(build: BuildFile) -> None:
    count = Counter(name for target in build.targets for name in set(target.files) if name in set(target.sources))
    repeated = {name for name, times in count.items() if times > 1} - {TEST_RUNNER}
    assert not repeated, listing("BUILD has these files in several targets:", repeated)


def test_no_target_names_a_missing_file(build: BuildFile) -> None:
    missing = {name for target in build.targets for name in target.files if not (ROOT / name).is_file()}
    assert not missing, listing("BUILD names these files, which do not exist:", missing)


def test_every_label_of_this_file_is_a_target(build: BuildFile) -> None:
    names = [target.name for target in build.targets]
    assert len(names) == len(set(names)), [name for name, times in Counter(names).items() if times > 1]
    used = {
        label[1:]
        for target in build.targets
        for attribute in ("srcs", "deps", "data", "hdrs")
        for label in target.attributes.get(attribute, ())
        if label.startswith(":")
    }
    assert not used - set(names), listing("BUILD uses these targets, which it does not have:", used - set(names))


def test_every_test_file_is_a_test(build: BuildFile) -> None:
    tests = {name for name in source_files() if Path(name).name.startswith("test_")}
    run = {name for target in build.of_rule("py_test") for name in target.sources} - {TEST_RUNNER}
    assert run == tests
    # Run as a program a test file only defines functions, and would always pass.
    assert all(target.attributes["main"] == TEST_RUNNER for target in build.of_rule("py_test"))


def test_rooms_do_not_depend_on_each_other(build: BuildFile) -> None:
    deps = {target.name: set(target.attributes.get("deps", ())) for target in build.targets}
    assert ":engines" not in deps["passes"]
    assert ":passes" not in deps["engines"]


@pytest.mark.parametrize(
    ("room", "others"),
    [
        ("passes", ["tf_opt.engines", "tf_opt.ops"]),
        ("tf_opt/engines", ["tf_opt.passes"]),
        ("tf_opt/ops", ["tf_opt.passes", "tf_opt.engines"]),
    ],
)
def test_rooms_do_not_import_each_other(room: str, others: list[str]) -> None:
    paths = [ROOT / name for name in source_files() if name.startswith(f"{room}/") and name.endswith(".py")]
    assert paths
    imported = [(path.name, module) for path in paths for module in imported_modules(path.read_text())]
    assert [pair for pair in imported if pair[1].startswith(tuple(others))] == []


@pytest.mark.parametrize("text", ["import os", "def f():\n    pass", 'x = f"{1}"', "lambda: 1", "x = open('BUILD')"])
def test_what_is_not_starlark_is_refused(text: str) -> None:
    with pytest.raises((SyntaxError, TypeError)):
        BuildFile.parse(text)


def test_imports_are_found_wherever_they_are() -> None:
    text = "import a.b\nfrom c import d\ndef f():\n    from e.f import g\n"
    assert imported_modules(text) == {"a.b", "c", "c.d", "e.f", "e.f.g"}


def test_parser_follows_lists_and_comprehensions() -> None:
    build = BuildFile.parse('A = ["x.py"]\n[py_test(name = s[:-3], srcs = [s] + ["y.py"]) for s in A]\n')
    assert build.targets == [Target("py_test", {"name": "x", "srcs": ["x.py", "y.py"]})]
