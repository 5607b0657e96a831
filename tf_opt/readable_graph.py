"""Prints a GraphDef as a listing that can be read: one line a node, in an order in which it could run.

    graph {  # 9 nodes, 1 engine, constants of 5.1 KiB
      # engine 0: tf_opt_segment_0 [4 nodes, fp32, 1.6 KiB]
      %x : float32[?, 16] = Placeholder()
      %first : float32[16, 48] = Const {3.0 KiB}
      %axis : int32[] = 1
      %tf_opt_segment_0 : float32[?, 4] = tf_opt::openvino #0(%x; weights %first) [4 nodes, fp32, 1.6 KiB]
      %halves : (float32[?, 2], float32[?, 2]) = Split(%axis, %tf_opt_segment_0) {num_split=2}
      %y : float32[?, 2] = AddV2(%halves, %halves:1) after %checked
      return %y
    }

A name without a number is a node's first output. Attributes are shown where they differ from the op's default;
dtypes are not, since those of the outputs are. Functions of the graph follow as blocks of the same kind, so that an
editor folds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, graph_pb2, node_def_pb2, tensor_shape_pb2
from tensorflow.python.framework import function_def_to_graph, tensor_util

from tf_opt.engine_nodes import EngineFacts, data_input_count, engine_facts
from tf_opt.errors import InvalidGraphError, OpBuildError, UnknownOpError
from tf_opt.graph_checks import normalize_outputs, sink_outputs
from tf_opt.ops.build import load as load_op
from tf_opt.optimizer_inputs import check_graph_def
from tf_opt.passes.tf.extract import shape_proto
from tf_opt.passes.tf.graph_view import GraphView, InputRef, parse_input
from tf_opt.passes.tf.splice import ENGINE_OP, NO_FALLBACK
from tf_opt.passes.tf.tensor_types import op_definition, tensor_infos
from tf_opt.sizes import size_text
from tf_opt.tensor_info import Shape, TensorInfo, node_name
from tf_opt.weights import WeightStore, detach_weights, is_weight

_LONGEST_LIST = 8
"""Names, types and attribute lists are cut after so many entries."""

_LARGEST_VALUE = 8
"""Constants of at most this many elements show their values."""

_LONGEST_TEXT = 60
"""Strings and values are cut after so many characters."""


def format_graph(
    graph_def: graph_pb2.GraphDef, outputs: Sequence[str] | str | None = None, assets: Path | None = None
) -> str:
    """Returns a graph as readable text; see the top of this module for what it looks like.

    Args:
        graph_def: Any GraphDef, full or light, with engine nodes or without; it is not changed.
        outputs: Node or tensor names that the listing ends with; None takes the compute tensors that nothing consumes.
        assets: The folder of the engines' files, where the graph is that of a SavedModel.

    Returns:
        The listing, with a line break at its end. Where TensorFlow cannot infer dtypes and shapes, because it does not
        know an op for example, they are left out and the first line says why.

    Raises:
        InvalidGraphError: No GraphDef, two nodes have one name, an input names no node, or there is a cycle that is no
            while loop.
        UnknownOutputError: An output is no tensor of the graph.
    """
    light, weights = detach_weights(check_graph_def(graph_def))
    view = GraphView(light)
    view.topological_order()  # Refuses cycles; the order of the lines is another one.
    fetched = sink_outputs(light) if outputs is None else normalize_outputs(light, outputs)
    types, note = _types(light)
    functions = {function.signature.name: function for function in light.library.function}
    shapes = _argument_shapes(light, functions, types)
    lines = [f"# {note}"] if note else []
    lines += _Listing(view, types, weights, assets).block(
        "graph", [f"%{_short(parse_input(name))}" for name in fetched], fetched
    )
    with tf.Graph().as_default():
        # TensorFlow unfolds a function only where it knows those that it calls, as that of a SavedModel does.
        tf.graph_util.import_graph_def(graph_pb2.GraphDef(library=light.library), name="")
        for name, function in functions.items():
            if name != NO_FALLBACK:
                lines += ["", *_function_block(function, light, shapes.get(name), assets)]
    return "\n".join(lines) + "\n"


class _Listing:
    """The lines of one graph or function body."""

    def __init__(
        self, view: GraphView, types: Mapping[str, TensorInfo], weights: WeightStore, assets: Path | None
    ) -> None:
        self._view = view
        self._types = types
        self._weights = weights
        self._engines = {node.name: engine_facts(node, assets) for node in view if node.op == ENGINE_OP}

    def block(self, title: str, returned: Sequence[str], roots: Iterable[str]) -> list[str]:
        """Returns the whole block.

        Args:
            title: What stands in front of the brace.
            returned: What stands behind "return".
            roots: Tensors whose nodes are listed first, each behind what it needs.
        """
        facts = [f"{len(self._view):,} node{'' if len(self._view) == 1 else 's'}"]
        if self._engines:
            facts.append(f"{len(self._engines)} engine{'' if len(self._engines) == 1 else 's'}")
        if constants := sum(map(self._constant_bytes, self._view)):
            facts.append(f"constants of {size_text(constants)}")
        lines = [f"{title} {{  # {', '.join(facts)}"]
        for number, (name, facts_of_engine) in enumerate(self._engines.items()):
            lines.append(f"  # engine {number}: {name} {_facts_text(facts_of_engine)}")
        lines += [f"  {self._line(self._view.node(name))}" for name in self._order(roots)]
        return [*lines, f"  return {_cut(returned)}".rstrip(), "}"]

    def _order(self, roots: Iterable[str]) -> list[str]:
        """Returns all nodes, each behind its inputs and near them: placeholders first, a constant before its reader."""
        placeholders = [node.name for node in self._view if "Placeholder" in node.op and not is_weight(node)]
        order: dict[str, None] = {}
        for root in (*placeholders, *map(node_name, roots), *self._view.names):
            stack = [(root, False)]
            while stack:
                name, is_ready = stack.pop()
                if is_ready:
                    order[name] = None
                elif name not in order:
                    stack.append((name, True))
                    needed = [each for each in self._view.predecessors(name) if not self._view.is_back_edge(each)]
                    stack.extend((each, False) for each in reversed(needed) if each not in order)
        return list(order)

    def _line(self, node: node_def_pb2.NodeDef) -> str:
        inputs = [reference for reference in self._view.inputs(node.name) if not reference.is_control]
        waits = [f"%{name}" for name in self._view.control_inputs(node.name)]
        kind = self._types_of(node)
        text = f"%{node.name}{f' : {kind}' if kind else ''} = {self._expression(node, inputs)}"
        if waits:
            text += f" after {_cut(waits)}"
        return text

    def _types_of(self, node: node_def_pb2.NodeDef) -> str:
        """Returns the dtypes and shapes of all outputs."""
        found: list[str] = []
        while (info := self._types.get(f"{node.name}:{len(found)}")) is not None:
            found.append(f"{info.dtype}{_shape_text(info.shape)}")
        return found[0] if len(found) == 1 else f"({_cut(found)})" if found else ""

    def _expression(self, node: node_def_pb2.NodeDef, inputs: Sequence[InputRef]) -> str:
        if node.op == "Const":
            return _constant_text(node)
        if is_weight(node):
            size = self._constant_bytes(node)
            return f"Const {{{size_text(size)}}}" if size else "Weight()"
        names = [f"%{_short(reference)}" for reference in inputs]
        if node.op != ENGINE_OP:
            return f"{node.op}({_cut(names)}){_attributes_text(node)}"
        count = len(node.attr["InT"].list.type)
        read = names[count : data_input_count(node)]
        weights = f"; weights {_cut(read)}" if read else ""
        facts = self._engines[node.name]
        title = f"tf_opt::{facts.runtime} #{list(self._engines).index(node.name)}"
        return f"{title}({_cut(names[:count])}{weights}) {_facts_text(facts)}"

    def _constant_bytes(self, node: node_def_pb2.NodeDef) -> int:
        if node.name in self._weights and is_weight(node):
            return self._weights.size_of(node.name)
        return int(node.attr["value"].tensor.ByteSize()) if node.op == "Const" else 0


def _function_block(
    function: function_pb2.FunctionDef,
    light: graph_pb2.GraphDef,
    shapes: Sequence[Shape] | None,
    assets: Path | None,
) -> list[str]:
    """Returns a function of the library as a block."""
    protos = None if shapes is None else [shape_proto(shape) for shape in shapes]
    body, flat_names = function_def_to_graph.function_def_to_graph_def(function, input_shapes=protos)
    body.library.CopyFrom(light.library)
    light_body, weights = detach_weights(body)
    types, _ = _types(light_body)
    returned = [f"{name} = %{_short(parse_input(flat_names[source]))}" for name, source in function.ret.items()]
    roots = [flat_names[source] for source in function.ret.values()]
    return _Listing(GraphView(light_body), types, weights, assets).block(
        f"function @{function.signature.name}", returned, roots
    )


def _types(light: graph_pb2.GraphDef) -> tuple[dict[str, TensorInfo], str]:
    """Returns dtypes and shapes by tensor name; or none, and why."""
    try:
        if any(node.op == ENGINE_OP for node in light.node):
            load_op()
        return tensor_infos(light), ""
    except (UnknownOpError, InvalidGraphError, OpBuildError) as error:
        return {}, f"without dtypes and shapes: {' '.join(str(error).split())}"


def _argument_shapes(
    light: graph_pb2.GraphDef, functions: Mapping[str, function_pb2.FunctionDef], types: Mapping[str, TensorInfo]
) -> dict[str, list[Shape]]:
    """Returns the shapes that functions get from a node of the graph that hands all of its inputs on to them."""
    shapes: dict[str, list[Shape]] = {}
    for node in light.node:
        for key in ("fallback", "f"):
            name = node.attr[key].func.name if key in node.attr else ""
            inputs = [parse_input(text) for text in node.input]
            names = [reference.tensor_name for reference in inputs if not reference.is_control]
            fits = name in functions and len(functions[name].signature.input_arg) == len(names)
            if fits and all(each in types for each in names):
                shapes.setdefault(name, [types[each].shape for each in names])
    return shapes


def _facts_text(facts: EngineFacts) -> str:
    """Returns "[446 nodes, fp32, 0.4 MiB]": what the engine stands for, computes in, and occupies."""
    count = [] if facts.nodes is None else [f"{facts.nodes:,} nodes"]
    precision = "unreadable" if facts.problem else facts.precision
    return f"[{', '.join([*count, *([precision] if precision else []), size_text(facts.stored_bytes)])}]"


def _constant_text(node: node_def_pb2.NodeDef) -> str:
    tensor = node.attr["value"].tensor
    shape = tf.TensorShape(tensor.tensor_shape)
    if (shape.num_elements() or 0) > _LARGEST_VALUE:
        return f"Const {{{size_text(tensor.ByteSize())}}}"
    value = tensor_util.MakeNdarray(tensor)
    if not value.size:
        return "Const {empty}"
    if value.dtype.hasobject:
        return _shorten(str(value.tolist()))
    # Seven digits are all that a float32 has.
    return _shorten(np.array2string(value, separator=", ", formatter={"float_kind": lambda each: f"{each:.7g}"}))


def _attributes_text(node: node_def_pb2.NodeDef) -> str:
    """Returns the attributes that say more than dtypes and defaults do."""
    definition = op_definition(node.op)
    defined = {} if definition is None else {each.name: each for each in definition.attr}
    hidden = {"dtype", "shape"} if "Placeholder" in node.op else set()
    shown = []
    for key in sorted(node.attr):
        known = defined.get(key)
        kind = "" if known is None else known.type
        if key.startswith("_") or key in hidden or kind in ("type", "list(type)"):
            continue
        if known is not None and known.HasField("default_value") and known.default_value == node.attr[key]:
            continue
        if kind.startswith("int") and key in ("N", "num_args"):
            continue  # The inputs can be counted.
        shown.append(f"{key}={_attribute_text(node.attr[key])}")
    if node.device:
        shown.append(f"device={node.device}")
    return f" {{{', '.join(shown)}}}" if shown else ""


def _attribute_text(value: attr_value_pb2.AttrValue) -> str:
    kind = value.WhichOneof("value")
    if kind == "list":
        entries = value.list
        texts = [*(_bytes_text(each) for each in entries.s), *map(str, entries.i), *(f"{each:g}" for each in entries.f)]
        texts += [*map(str, entries.b), *(tf.as_dtype(each).name for each in entries.type)]
        texts += [*map(_shape_proto_text, entries.shape), *(f"@{each.name}" for each in entries.func)]
        return f"[{_cut(texts)}]"
    if kind == "s":
        return _bytes_text(value.s)
    if kind == "type":
        return str(tf.as_dtype(value.type).name)
    if kind == "shape":
        return _shape_proto_text(value.shape)
    if kind == "func":
        return f"@{value.func.name}"
    if kind == "tensor":
        return f"{tf.as_dtype(value.tensor.dtype).name}{_shape_proto_text(value.tensor.tensor_shape)}"
    return f"{value.f:g}" if kind == "f" else str(getattr(value, kind)) if kind else "?"


def _bytes_text(value: bytes) -> str:
    return _shorten(repr(value.decode(errors="replace")))


def _shape_proto_text(shape: tensor_shape_pb2.TensorShapeProto) -> str:
    known = tf.TensorShape(shape)
    return _shape_text(None if known.rank is None else tuple(known.as_list()))


def _shape_text(shape: Shape) -> str:
    return "[...]" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def _short(reference: InputRef) -> str:
    return reference.node if reference.output_index == 0 else f"{reference.node}:{reference.output_index}"


def _cut(texts: Sequence[Any]) -> str:
    shown = ", ".join(texts[:_LONGEST_LIST])
    return shown if len(texts) <= _LONGEST_LIST else f"{shown}, … {len(texts) - _LONGEST_LIST} more"


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[: _LONGEST_TEXT - 1]}…"
