"""Compares a simulated module with the stubs of the real bindings: the simulator may have less, but nothing else."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.simulators.tensorrt.bindings_base import Enumeration, Missing

# Methods that pybind11 calls on classes that programs derive from, without exporting them, and their arguments.
_CALLBACKS = {
    "IOutputAllocator": {
        "reallocate_output": ("tensor_name", "memory", "size", "alignment"),
        "reallocate_output_async": ("tensor_name", "memory", "size", "alignment", "stream"),
        "notify_shape": ("tensor_name", "shape"),
    }
}

# How a simulated object is made: the real ones come from other objects and have no constructor.
_WITHOUT_CONSTRUCTOR = frozenset(
    "IBuilderConfig ICudaEngine IExecutionContext INetworkDefinition IOptimizationProfile ISerializationConfig ITensor "
    "ITimingCache ParserError IHostMemory".split()
)


@dataclass(frozen=True)
class _Form:
    """One overload: names of its arguments, and how many of them are required."""

    names: tuple[str, ...]
    required: int


def differences(module: Any, folder: Path) -> list[str]:
    """Returns what a simulated module has that the real bindings do not have, or have otherwise.

    Args:
        module: The simulated module.
        folder: What `generate_stubs.stubs` returned for the same version.
    """
    tree = ast.parse((folder / "tensorrt/__init__.pyi").read_text())
    numbers = json.loads((folder / "enums.json").read_text())
    real_classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    real_names = set(real_classes) | {ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign)}
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") and name != "__version__":
            continue
        if name not in real_names:
            found.append(f"{name}: the bindings have no such name")
        elif isinstance(value, type) and issubclass(value, Enumeration):
            found += _enum_differences(name, value, numbers)
        elif isinstance(value, type):
            found += _class_differences(name, value, real_classes)
            if (severity := getattr(value, "Severity", None)) is not None:
                found += _enum_differences(f"{name}.Severity", severity, numbers)
    return found


def callbacks(name: str, folder: Path) -> dict[str, tuple[str, ...]]:
    """Returns the methods that the bindings call on a class which programs derive from, with their arguments.

    Args:
        name: The class that programs derive from.
        folder: What `generate_stubs.stubs` returned for a version.
    """
    tree = ast.parse((folder / "tensorrt/__init__.pyi").read_text())
    (real,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    exported = {
        node.name: _real_form(node, []).names
        for node in real.body
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and not node.name.startswith("_")
    }
    return exported | _CALLBACKS.get(name, {})


def _enum_differences(name: str, enum: type[Enumeration], numbers: dict[str, dict[str, int]]) -> list[str]:
    mine = {member: int(number) for member, number in enum.__members__.items()}
    return [] if mine == numbers.get(name) else [f"{name}: {mine}, really {numbers.get(name)}"]


def _class_differences(name: str, cls: type, real_classes: dict[str, ast.ClassDef]) -> list[str]:
    real = real_classes[name]
    known = [name, *(base.id for base in real.bases if isinstance(base, ast.Name))]
    members: dict[str, list[_Form | None]] = {}
    settable = set()
    for node in (node for owner in known for node in real_classes[owner].body):
        if isinstance(node, ast.FunctionDef):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            settable |= {node.name} if f"{node.name}.setter" in decorators else set()
            is_property = any(one == "property" or one.endswith(".setter") for one in decorators)
            members.setdefault(node.name, []).append(None if is_property else _real_form(node, decorators))
        elif isinstance(node, ast.AnnAssign):
            members.setdefault(ast.unparse(node.target), []).append(None)
            settable.add(ast.unparse(node.target))
        elif isinstance(node, ast.ClassDef):
            members.setdefault(node.name, []).append(None)
    found = []
    for member, value in _own_members(cls).items():
        constructor = member == "__init__" and name not in _WITHOUT_CONSTRUCTOR
        if member in _CALLBACKS.get(name, ()) or (member.startswith("_") and not constructor):
            continue
        if member not in members:
            found.append(f"{name}.{member}: the bindings have no such name")
        elif isinstance(value, property):
            if None not in members[member]:
                found.append(f"{name}.{member}: a method in the bindings, a property here")
            elif value.fset is not None and member not in settable:
                found.append(f"{name}.{member}: cannot be set in the bindings")
        elif inspect.isfunction(value):
            found += _signature_differences(f"{name}.{member}", value, members[member])
    return found


def _own_members(cls: type) -> dict[str, Any]:
    """Returns what a class has of its own making, without what this version lacks."""
    plain = {name for base in (object, bytearray, Exception) for name in dir(base)} - {"__init__"}
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base not in (object, bytearray):
            members.update(vars(base))
    shared = {"library"}
    return {
        name: value
        for name, value in members.items()
        if name not in shared and name not in plain and not isinstance(value, Missing)
    }


def _real_form(node: ast.FunctionDef, decorators: list[str]) -> _Form:
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    skipped = 0 if "staticmethod" in decorators else 1
    return _Form(tuple(names[skipped:]), len(names) - skipped - len(node.args.defaults))


def _signature_differences(name: str, function: Any, forms: list[_Form | None]) -> list[str]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    names = tuple(parameter.name for parameter in parameters)
    required = sum(parameter.default is inspect.Parameter.empty for parameter in parameters)
    real = [form for form in forms if form is not None]
    if not real:
        return [f"{name}: an attribute in the bindings, a method here"]
    found = []
    # Each way to call the simulated method is one way to call the real one, positionally and by name.
    for count in range(required, len(names) + 1):
        if not any(form.names[:count] == names[:count] and form.required <= count for form in real):
            found.append(f"{name}({', '.join(names[:count])}): really {[form.names for form in real]}")
    return found
