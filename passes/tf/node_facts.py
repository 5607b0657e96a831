"""What the rules of the symbolic analysis are given: one node, with what is known of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.symbolic_dims import Dim

SymbolicShape: TypeAlias = tuple[Dim, ...]
SymbolicValue: TypeAlias = np.ndarray[Any, Any]
"""An object array of ints and Expressions."""

MAXIMUM_VALUE_ELEMENTS = 128
"""Integer tensors with more elements are data, not shape arithmetic."""


class NodeFacts:
    """What a rule may ask about a node.

    Attributes:
        node: The node.
        input_shapes: Symbolic shapes of its data inputs; None where the rank is unknown.
        input_values: Symbolic values of its data inputs; None where unknown.
        output_shapes: For value rules: symbolic shapes of its outputs. For shape rules: the static ones.
    """

    def __init__(
        self,
        node: NodeDef,
        input_shapes: list[SymbolicShape | None],
        input_values: list[SymbolicValue | None],
        output_shapes: list[SymbolicShape | None],
    ) -> None:
        self.node = node
        self.input_shapes = input_shapes
        self.input_values = input_values
        self.output_shapes = output_shapes

    def integer(self, key: str, default: int = 0) -> int:
        """Returns an int attribute."""
        return int(self.node.attr[key].i) if key in self.node.attr else default

    def boolean(self, key: str) -> bool:
        """Returns a bool attribute; False where it is missing."""
        return bool(self.node.attr[key].b) if key in self.node.attr else False

    def text(self, key: str) -> str:
        """Returns a string attribute; empty where it is missing."""
        return self.node.attr[key].s.decode() if key in self.node.attr else ""

    def integers(self, key: str) -> list[int]:
        """Returns a list of ints."""
        return [int(value) for value in self.node.attr[key].list.i] if key in self.node.attr else []

    def constant_input(self, position: int) -> list[int] | None:
        """Returns an integer input, flattened, where every entry is a known int."""
        value = self.input_values[position] if position < len(self.input_values) else None
        if value is None:
            return None
        entries = value.ravel().tolist()
        return entries if all(isinstance(entry, int) for entry in entries) else None


def as_value(entries: Any, shape: tuple[int, ...] | None = None) -> SymbolicValue:
    """Returns an object array of ints and Expressions; numpy would otherwise make numpy integers of them."""
    listed = entries.ravel().tolist() if isinstance(entries, np.ndarray) else list(entries)
    array = np.empty(len(listed), dtype=object)
    array[:] = listed
    return array if shape is None else array.reshape(shape)


Shapes: TypeAlias = list[SymbolicShape | None] | None
"""What a shape rule returns: one shape an output, None where unknown."""

Values: TypeAlias = list[SymbolicValue | None] | None
"""What a value rule returns: one value an output, None where unknown."""

ShapeRule: TypeAlias = Callable[[NodeFacts], Shapes]
ValueRule: TypeAlias = Callable[[NodeFacts], Values]
