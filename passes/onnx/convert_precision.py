"""Writes a 16-bit floating type into the model, so that every engine reads the same one."""

from __future__ import annotations

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import ClassVar, Literal

import onnx_ir as ir

from tf_opt.errors import InvalidOptionError
from tf_opt.passes.onnx.convert_precision_plan import PrecisionPlan
from tf_opt.passes.onnx.convert_precision_types import ElementTypes, SharedType, reads_shape_only
from tf_opt.passes.onnx.nodes import add_constant, attribute, bypass, constant, remove_unread
from tf_opt.passes.onnx.pass_base import OnnxPass

_TYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


class ConvertPrecision(OnnxPass):
    """Lets matrix products, convolutions, attention and what lies between them work in fp16 or bf16.

    The element types are those of the ONNX graph itself, with a Cast wherever the type changes. Layer normalization,
    reductions, exponentials, error functions, and the sums that lead into them or follow them stay fp32: a value is
    rounded only where an operator in 16 bits reads it. The Softmax between two products is in 16 bits with them, as
    engines fuse the three only if they have one type, unless its mask may exceed the type's range. Of a row whose mask
    hides everything with a large finite number, 16 bits keep no differences between scores.

    Also fp32 stay nodes whose constants exceed the type's range, or fall below it, nodes behind such large numbers,
    nodes next to DequantizeLinear, nodes whose operator does not allow the type at the model's opset, and the bodies of
    If, Loop and Scan. Graph inputs and outputs keep their types.

    Big constants get a Cast, which engines fold when they load; their values are not read, so that one beyond fp16's
    65504 becomes infinite. Small constants are converted.

    Before:
        y = LayerNormalization(Add(Add(MatMul(x, weight), bias), x), gamma, beta)
    After:
        s = Add(MatMul(Cast<fp16>(x), Cast<fp16>(weight)), Cast<fp16>(bias))
        y = LayerNormalization(Add(Cast<fp32>(s), x), gamma, beta)

    Attributes:
        precision: "fp16" or "bf16".
        keep: Names of nodes that stay fp32, with the wildcards of `fnmatch`.
    """

    name: ClassVar[str] = "convert_precision"

    def __init__(self, precision: Literal["fp16", "bf16"], keep: Collection[str] = ()) -> None:
        """Keeps the settings; see the class.

        Raises:
            InvalidOptionError: The precision is neither "fp16" nor "bf16", or `keep` is one string.
        """
        if precision not in _TYPES:
            raise InvalidOptionError(f"precision is {precision!r}; expected 'fp16' or 'bf16'.")
        if isinstance(keep, str):
            raise InvalidOptionError(f"keep is the string {keep!r}; expected a collection of names: [{keep!r}].")
        self.precision = precision
        self.keep = tuple(keep)

    def run(self, model: ir.Model) -> int:
        """Changes `model` in place and returns the number of nodes whose work moved to 16 bits; Casts do not count."""
        types = ElementTypes(model)
        target = _TYPES[self.precision]
        plan = PrecisionPlan(model, types, target, self._is_kept)
        if plan.nodes:
            _Conversion(model, types, target, self.precision, plan.nodes).run()
        return len(plan.nodes)

    def _is_kept(self, node: ir.Node) -> bool:
        return any(fnmatchcase(node.name or "", pattern) for pattern in self.keep)


class _Conversion:
    """Changes types and adds the Casts, at most one for each value."""

    def __init__(
        self,
        model: ir.Model,
        types: ElementTypes,
        target: ir.DataType,
        suffix: str,
        nodes: dict[ir.Node, SharedType],
    ) -> None:
        self._graph = model.graph
        self._types = types
        self._target = target
        self._suffix = suffix
        self._nodes = nodes
        self._producers: dict[ir.Value, ir.Node] = {
            node.outputs[index]: node for node, shared in nodes.items() for index in shared.outputs
        }
        self._narrow_copies: dict[ir.Value, ir.Value] = {}
        self._wide_copies: dict[ir.Value, ir.Value] = {}
        self._names = {value.name for value in (*model.graph.inputs, *model.graph.initializers.values())}
        self._names.update(value.name for node in model.graph.all_nodes() for value in node.outputs)

    def run(self) -> None:
        """Does it all."""
        for value in self._producers:
            # Not value.dtype, which changes a type object that copies of the model share.
            value.type = ir.TensorType(self._target)
        for node in list(self._graph):
            shared = self._nodes.get(node)
            if shared is not None:
                self._narrow_inputs(node, shared)
        for value in self._producers:
            self._widen_readings(value)
        remove_unread([value for value in self._narrow_copies if value.producer() is not None])
        for value in self._narrow_copies:
            if value.is_initializer() and not value.uses() and not value.is_graph_output() and value.name is not None:
                del self._graph.initializers[value.name]

    def _narrow_inputs(self, node: ir.Node, shared: SharedType) -> None:
        for index in shared.inputs:
            value = node.inputs[index]
            if value is not None and value not in self._producers:
                node.replace_input_with(index, self._narrow(value, node))
        if node.op_type == "Attention" and node.domain == "" and "softmax_precision" not in node.attributes:
            # Where it is left out, the Softmax inside is computed in the type of the query.
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(ir.DataType.FLOAT))

    def _narrow(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        """Returns a value in fp32 in 16 bits; `reader` is the first node that wants it so."""
        if value not in self._narrow_copies:
            self._narrow_copies[value] = self._narrow_copy(value, reader)
        return self._narrow_copies[value]

    def _narrow_copy(self, value: ir.Value, reader: ir.Node) -> ir.Value:
        node = value.producer()
        if node is not None and node.op_type == "Cast" and node.domain == "":
            source = node.inputs[0]
            if source is not None and self._types.of(source) is self._target:
                return source  # It was widened, which loses nothing.
        array = constant(value)
        if array is not None:
            return add_constant(
                self._graph, array.astype(self._target.numpy()), self._unique(value, self._suffix), self._target
            )
        equal = [reader for reader, _ in value.uses() if self._casts_to_target(reader)]
        cast = self._cast(value, self._target, self._suffix)
        if node is not None:
            self._graph.insert_after(node, cast)
        else:
            # Readers of a Cast that the model has already may stand in front of `reader`.
            self._graph.insert_before(self._graph[0] if equal else reader, cast)
        for reading in equal:
            bypass(reading, cast.outputs[0])
        return cast.outputs[0]

    def _widen_readings(self, value: ir.Value) -> None:
        """Lets everything that needs fp32 read a Cast of a value that is in 16 bits now."""
        for node, index in value.uses():
            shared = self._nodes.get(node)
            if reads_shape_only(node) or (shared is not None and index in shared.inputs):
                continue
            if self._casts_to_target(node) and bypass(node, value):
                continue
            node.replace_input_with(index, self._widen(value))
        if value.is_graph_output():
            self._widen_output(value)

    def _widen(self, value: ir.Value) -> ir.Value:
        if value not in self._wide_copies:
            cast = self._cast(value, ir.DataType.FLOAT, "fp32")
            self._graph.insert_after(self._producers[value], cast)
            self._wide_copies[value] = cast.outputs[0]
        return self._wide_copies[value]

    def _widen_output(self, value: ir.Value) -> None:
        """Puts the value's Cast, under the value's name, in its place among the graph outputs."""
        wide = self._widen(value)
        name = value.name
        value.name = self._unique(value, self._suffix)
        wide.name = name
        for graph in (self._graph, *self._graph.subgraphs()):
            for index, output in enumerate(graph.outputs):
                if output is value:
                    graph.outputs[index] = wide

    def _cast(self, value: ir.Value, dtype: ir.DataType, suffix: str) -> ir.Node:
        name = self._unique(value, suffix)
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", int(dtype))], name=name)
        node.outputs[0].name = name
        node.outputs[0].type = ir.TensorType(dtype)
        node.outputs[0].shape = None if value.shape is None else value.shape.copy()
        return node

    def _casts_to_target(self, node: ir.Node) -> bool:
        if node.op_type != "Cast" or node.domain != "" or node.graph is not self._graph:
            return False
        return attribute(node, "to", 0) == int(self._target)

    def _unique(self, value: ir.Value, suffix: str) -> str:
        """Returns a name for a copy of `value` that no other value has."""
        name, count = f"{value.name}/{suffix}", 0
        while name in self._names:
            count += 1
            name = f"{value.name}/{suffix}_{count}"
        self._names.add(name)
        return name
