"""Finds out what the inputs of a graph are for, by following them to where their values count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.python.framework import tensor_util

from tf_opt.freeze.cleanup import called_functions
from tf_opt.tensor_info import tensor_name

_PASSES_VALUES_ON: Mapping[str, tuple[int, ...] | None] = {
    "Identity": (0,),
    "IdentityN": None,
    "StopGradient": (0,),
    "Cast": (0,),
    "Reshape": (0,),
    "ExpandDims": (0,),
    "Squeeze": (0,),
    "Transpose": (0,),
    "StridedSlice": (0,),
    "Slice": (0,),
    "Tile": (0,),
    "BroadcastTo": (0,),
    "Pad": (0,),
    "PadV2": (0,),
    "ConcatV2": None,
    "Concat": None,
    "Pack": None,
    "Unpack": (0,),
    "Split": (1,),
    "SplitV": (0,),
    "Select": (1, 2),
    "SelectV2": (1, 2),
    "Minimum": None,
    "Maximum": None,
}
"""Ops whose outputs hold values of these inputs (of all of them for None), in another shape or dtype at most."""

_INDEX_INPUT: Mapping[str, tuple[int, int]] = {"Gather": (0, 1), "GatherV2": (0, 1), "ResourceGather": (0, 1)}
"""Ops that look rows up: position of the table and of the indices."""

_ARGUMENTS_START: Mapping[str, int] = {"If": 1, "StatelessIf": 1, "Case": 1, "StatelessCase": 1}
"""Input position of a function's first argument; 0 at all other ops that call functions."""


@dataclass(frozen=True)
class InputRole:
    """What is known of an input.

    Attributes:
        limit: Values must lie below this, as they index a table of so many rows; None where they index nothing known.
        is_mask: Whether the graph computes 1 - x of it, as attention masks are turned into large negative numbers.
    """

    limit: int | None = None
    is_mask: bool = False


class _Place(NamedTuple):
    """A tensor in the main graph (scope 0) or in one call of a function."""

    scope: int
    tensor: str


def find_roles(graph_def: graph_pb2.GraphDef, inputs: Sequence[str]) -> dict[str, InputRole]:
    """Returns the role of each input, by the name it is given with.

    Args:
        graph_def: Full or light graph; functions that it calls are followed too.
        inputs: Tensor names of placeholders.
    """
    walker = _Walker(graph_def)
    return {name: walker.role(tensor_name(name)) for name in inputs}


class _Scope:
    """The nodes of a graph or function body, by name and by the tensors they read."""

    def __init__(self, nodes: Any, in_function: bool, caller: int, arguments: Mapping[str, str]) -> None:
        self.in_function = in_function
        self.caller = caller
        self.arguments = arguments
        """The caller's tensor behind each argument of the function."""
        self.nodes: dict[str, node_def_pb2.NodeDef] = {node.name: node for node in nodes}
        self.consumers: dict[str, list[tuple[node_def_pb2.NodeDef, int]]] = {}
        for node in nodes:
            for position, reference in enumerate(node.input):
                if not reference.startswith("^"):
                    self.consumers.setdefault(self.tensor(reference), []).append((node, position))

    def tensor(self, reference: str) -> str:
        """Returns a reference without what tells the outputs of one node apart: following too much does no harm."""
        return reference.split(":")[0]


class _Walker:
    def __init__(self, graph_def: graph_pb2.GraphDef) -> None:
        self._functions = {function.signature.name: function for function in graph_def.library.function}
        self._scopes = [_Scope(graph_def.node, False, -1, {})]
        self._entered: dict[tuple[int, str, str], int] = {}

    def role(self, name: str) -> InputRole:
        limit: int | None = None
        is_mask = False
        pending = [_Place(0, name.split(":")[0])]
        seen: set[_Place] = set()
        while pending:
            place = pending.pop()
            if place in seen:
                continue
            seen.add(place)
            scope = self._scopes[place.scope]
            for node, position in scope.consumers.get(place.tensor, ()):
                rows = self._rows(node, position, place.scope)
                if rows is not None:
                    limit = rows if limit is None else min(limit, rows)
                if node.op == "Sub" and position == 1 and self._is_one(node.input[0], place.scope):
                    is_mask = True
                if node.op in _PASSES_VALUES_ON:
                    positions = _PASSES_VALUES_ON[node.op]
                    if positions is None or position in positions:
                        pending.append(_Place(place.scope, node.name))
                pending.extend(self._enter(node, position, place.scope))
        return InputRole(limit, is_mask)

    def _rows(self, node: node_def_pb2.NodeDef, position: int, scope: int) -> int | None:
        """Returns the number of values that input `position` may have, where `node` looks it up or spreads it out."""
        if node.op == "OneHot" and position == 0:
            depth = self._constant(node.input[1], scope)
            return None if depth is None else int(_value(depth))
        if node.op not in _INDEX_INPUT or position != _INDEX_INPUT[node.op][1]:
            return None
        table = self._constant(node.input[_INDEX_INPUT[node.op][0]], scope)
        if table is None:
            return None
        axis = 0
        if node.op == "GatherV2":
            constant = self._constant(node.input[2], scope)
            axis = 0 if constant is None else int(_value(constant))
        shape = _shape(table)
        return shape[axis] if -len(shape) <= axis < len(shape) else None

    def _is_one(self, reference: str, scope: int) -> bool:
        constant = self._constant(reference, scope)
        if constant is None or constant.op != "Const" or any(size != 1 for size in _shape(constant)):
            return False
        return bool(_value(constant) == 1)

    def _constant(self, reference: str, scope: int) -> node_def_pb2.NodeDef | None:
        """Returns the Const (or weight placeholder) behind a reference, seen through Identity, Cast and arguments."""
        while True:
            current = self._scopes[scope]
            name = current.tensor(reference)
            if name in current.arguments:
                reference, scope = current.arguments[name], current.caller
                continue
            node = current.nodes.get(name)
            if node is None:
                return None
            if node.op in ("Identity", "Cast", "ReadVariableOp", "Enter"):
                reference = node.input[0]
                continue
            static = node.op == "Placeholder" and bool(node.attr["shape"].shape.dim)
            return node if node.op == "Const" or (static and "_tf_opt_weight" in node.attr) else None

    def _enter(self, node: node_def_pb2.NodeDef, position: int, scope: int) -> list[_Place]:
        """Returns the arguments that input `position` becomes in the functions that `node` calls."""
        places = []
        index = position - _ARGUMENTS_START.get(node.op, 0)
        for function in self._called(node):
            arguments = [argument.name for argument in function.signature.input_arg]
            if not 0 <= index < len(arguments):
                continue
            key = (scope, node.name, function.signature.name)
            if key not in self._entered:
                start = _ARGUMENTS_START.get(node.op, 0)
                data = [reference for reference in node.input if not reference.startswith("^")][start:]
                bound = dict(zip(arguments, data, strict=False))
                self._entered[key] = len(self._scopes)
                self._scopes.append(_Scope(function.node_def, True, scope, bound))
            places.append(_Place(self._entered[key], arguments[index]))
        return places

    def _called(self, node: node_def_pb2.NodeDef) -> list[function_pb2.FunctionDef]:
        return [self._functions[name] for name in called_functions(node, self._functions)]


def _shape(node: node_def_pb2.NodeDef) -> tuple[int, ...]:
    proto = node.attr["value"].tensor.tensor_shape if node.op == "Const" else node.attr["shape"].shape
    return tuple(int(dimension.size) for dimension in proto.dim)


def _value(node: node_def_pb2.NodeDef) -> Any:
    """Returns the single value of a small constant."""
    return np.asarray(tensor_util.MakeNdarray(node.attr["value"].tensor)).reshape(-1)[0]
