"""Symbolic shapes of all tensors, and symbolic values of small integer tensors.

TensorFlow's static shapes say which dimensions are constants; the rules of `shape_rules` say how the unknown ones
depend on each other; the rules of `value_rules` follow the integers that graphs compute from shapes. Where no rule
knows an unknown dimension, it becomes an atom of its own, which is equal to nothing but itself.

    input_ids:0             [input_ids:0[0], input_ids:0[1]]
    Gather(table, ids)      [input_ids:0[0], input_ids:0[1], 768]
    Prod(Shape(x)[0:2])     value input_ids:0[0]*input_ids:0[1]
"""

from __future__ import annotations

import numpy as np
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.governed_nodes import governed_nodes
from tf_opt.passes.tf.graph_view import GraphView, parse_input
from tf_opt.passes.tf.node_defs import constant_value
from tf_opt.passes.tf.node_facts import MAXIMUM_VALUE_ELEMENTS, NodeFacts, SymbolicShape, SymbolicValue, ValueRule
from tf_opt.passes.tf.pass_base import Border
from tf_opt.passes.tf.shape_rules import SHAPE_RULES
from tf_opt.passes.tf.symbolic_dims import Expression, symbol
from tf_opt.passes.tf.tensor_types import tensor_infos
from tf_opt.passes.tf.value_rules import VALUE_RULES
from tf_opt.tensor_info import Shape


class SymbolicShapes:
    """The result of the analysis of one graph.

    Args:
        graph_def: A light graph.
        border: Its inputs and outputs.

    Raises:
        InvalidGraphError: TensorFlow cannot import the graph.
        UnknownOpError: It uses an op that is not registered.
    """

    def __init__(self, graph_def: GraphDef, border: Border) -> None:
        self.view = GraphView(graph_def)
        self.border = border
        self.governed = governed_nodes(self.view)
        self.position = {name: index for index, name in enumerate(self.view.topological_order())}
        self._infos = tensor_infos(graph_def)
        self._outputs: dict[str, int] = {}
        for tensor in self._infos:
            node, _, index = tensor.rpartition(":")
            self._outputs[node] = max(self._outputs.get(node, 0), int(index) + 1)
        self._shapes: dict[str, SymbolicShape | None] = {}
        self._values: dict[str, SymbolicValue] = {}
        self._providers: dict[str, tuple[str, int]] = {}
        for name in self.position:
            self._analyse(self.view.node(name))

    def shape(self, tensor: str) -> SymbolicShape | None:
        """Returns the symbolic shape of a tensor ("x" or "x:0"); None where the rank is unknown."""
        return self._shapes.get(parse_input(tensor).tensor_name)

    def value(self, tensor: str) -> SymbolicValue | None:
        """Returns the symbolic value of a small integer tensor; None where unknown."""
        return self._values.get(parse_input(tensor).tensor_name)

    def static_shape(self, tensor: str) -> Shape:
        """Returns TensorFlow's own static shape of a tensor."""
        return self._infos[parse_input(tensor).tensor_name].shape

    def dtype(self, tensor: str) -> str:
        """Returns the name of a tensor's dtype."""
        return self._infos[parse_input(tensor).tensor_name].dtype

    def provider(self, label: str) -> tuple[str, int] | None:
        """Returns the first tensor, in topological order, one of whose dimensions is the atom `label`, and the axis."""
        return self._providers.get(label)

    def _analyse(self, node: NodeDef) -> None:
        tensors = [f"{node.name}:{index}" for index in range(self._outputs.get(node.name, 0))]
        static = [self._fresh(tensor) for tensor in tensors]
        if node.name in self.governed:
            # A tensor in a frame has a new shape in each iteration; nothing may be derived from one of them.
            self._shapes.update(zip(tensors, static, strict=False))
            return
        inputs = [reference.tensor_name for reference in self.view.data_inputs(node.name)]
        facts = NodeFacts(
            node,
            [self._shapes.get(tensor) for tensor in inputs],
            [self._values.get(tensor) for tensor in inputs],
            list(static),
        )
        rule = SHAPE_RULES.get(node.op)
        derived = (rule(facts) if rule is not None else None) or []
        for index, tensor in enumerate(tensors):
            known = derived[index] if index < len(derived) else None
            facts.output_shapes[index] = self._merge(tensor, static[index], known)
            self._shapes[tensor] = facts.output_shapes[index]
            self._register_providers(tensor, facts.output_shapes[index])
        self._find_values(facts, tensors, VALUE_RULES.get(node.op))

    def _fresh(self, tensor: str) -> SymbolicShape | None:
        shape = self._infos[tensor].shape
        if shape is None:
            return None
        return tuple(symbol(f"{tensor}[{axis}]") if dim is None else dim for axis, dim in enumerate(shape))

    def _merge(self, tensor: str, static: SymbolicShape | None, derived: SymbolicShape | None) -> SymbolicShape | None:
        if static is None or derived is None:
            return static if derived is None else derived
        if len(static) != len(derived):  # a rule that is wrong about the rank is not to be believed
            return static
        return tuple(known if isinstance(known, int) else rule for known, rule in zip(static, derived, strict=False))

    def _register_providers(self, tensor: str, shape: SymbolicShape | None) -> None:
        for axis, dim in enumerate(shape or ()):
            atom = dim.atom if isinstance(dim, Expression) else None
            if atom is not None:
                self._providers.setdefault(atom.label, (tensor, axis))

    def _find_values(self, facts: NodeFacts, tensors: list[str], rule: ValueRule | None) -> None:
        if not tensors or not any(self._infos[tensor].dtype in ("int32", "int64") for tensor in tensors):
            return
        if facts.node.op == "Const":
            if _element_count(facts.node) <= MAXIMUM_VALUE_ELEMENTS:
                self._values[tensors[0]] = np.asarray(constant_value(facts.node)).astype(object)
            return
        if rule is None:
            return
        for tensor, value in zip(tensors, rule(facts) or (), strict=False):
            if value is not None and value.size <= MAXIMUM_VALUE_ELEMENTS and self._fits(tensor, value):
                self._values[tensor] = value

    def _fits(self, tensor: str, value: SymbolicValue) -> bool:
        """Whether the known entries are in the range of the dtype, where integers of Python cannot wrap around."""
        dtype = self._infos[tensor].dtype
        if dtype not in ("int32", "int64"):
            return False
        limits = np.iinfo(dtype)
        return all(limits.min <= entry <= limits.max for entry in value.ravel().tolist() if isinstance(entry, int))


def _element_count(node: NodeDef) -> int:
    count = 1
    for dim in node.attr["value"].tensor.tensor_shape.dim:
        count *= int(dim.size)
    return count
