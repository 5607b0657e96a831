"""Tells whether tensors of two graphs are computed in the same way, whatever their nodes are called."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.python.framework import tensor_util

from tf_opt.light_graph import LightGraph
from tf_opt.tensor_info import node_name, tensor_name
from tf_opt.weights import is_weight


def output_digests(model: LightGraph, weight_digest: Callable[[str], str]) -> tuple[str, ...] | None:
    """Returns a digest of how each output is computed of the inputs, which are known by their keys.

    Args:
        model: The graph.
        weight_digest: Gives a digest of the weight of that name.

    Returns:
        One digest an output, in order; None where the graph has a cycle (a loop of TensorFlow 1).
    """
    inputs = {info.name: info for info in model.inputs}
    digester = _Digester(model.graph_def.library)

    def leaf(node: node_def_pb2.NodeDef) -> str | None:
        if is_weight(node):
            return f"weight {weight_digest(node.name)}"
        if f"{node.name}:0" in inputs:
            info = inputs[f"{node.name}:0"]
            return f"input {info.key} {info.dtype} {info.shape}"
        return None

    known = digester.nodes(model.graph_def.node, {}, leaf)
    if known is None:
        return None
    return tuple(f"{known[node_name(info.name)]}:{tensor_name(info.name).partition(':')[2]}" for info in model.outputs)


class _Digester:
    def __init__(self, library: function_pb2.FunctionDefLibrary) -> None:
        self._functions = {function.signature.name: function for function in library.function}
        self._known: dict[str, str] = {}

    def nodes(
        self,
        nodes: Iterable[node_def_pb2.NodeDef],
        arguments: Mapping[str, str],
        leaf: Callable[[node_def_pb2.NodeDef], str | None] = lambda node: None,
    ) -> dict[str, str] | None:
        """Returns the digest of each node, or None where they form a cycle."""
        by_name = {node.name: node for node in nodes}
        readers: dict[str, list[str]] = defaultdict(list)
        missing = {}
        for node in by_name.values():
            sources = {node_name(reference) for reference in node.input} & by_name.keys()
            missing[node.name] = len(sources)
            for source in sources:
                readers[source].append(node.name)
        known = dict(arguments)
        pending = [name for name, count in missing.items() if not count]
        while pending:
            name = pending.pop()
            node = by_name[name]
            known[name] = _hash(leaf(node) or self._content(node, known))
            for reader in readers[name]:
                missing[reader] -= 1
                if not missing[reader]:
                    pending.append(reader)
        return known if by_name.keys() <= known.keys() else None

    def _content(self, node: node_def_pb2.NodeDef, known: Mapping[str, str]) -> str:
        data = [f"{known[node_name(r)]}:{r.partition(':')[2] or 0}" for r in node.input if not r.startswith("^")]
        control = sorted(known[node_name(reference)] for reference in node.input if reference.startswith("^"))
        attributes = [
            f"{name}={self._attribute(node.attr[name])}" for name in sorted(node.attr) if not name.startswith("_")
        ]
        return "\n".join(
            [self._function(node.op) if node.op in self._functions else node.op, *data, *control, *attributes]
        )

    def _attribute(self, value: Any) -> str:
        kind = value.WhichOneof("value")
        functions = [value.func] if kind == "func" else list(value.list.func) if kind == "list" else []
        if functions:
            return " ".join(self._function(function.name) for function in functions)
        if kind == "tensor":  # The same value may be stored in several ways.
            array = tensor_util.MakeNdarray(value.tensor)
            content = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
            return f"{array.dtype} {array.shape} {hashlib.sha256(content).hexdigest()}"
        return hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()

    def _function(self, name: str) -> str:
        if name not in self._known:
            self._known[name] = name  # A recursive function meets itself, and is then known by its name.
            function = self._functions.get(name)
            if function is not None:
                arguments = {argument.name: f"argument {i}" for i, argument in enumerate(function.signature.input_arg)}
                known = self.nodes(function.node_def, arguments)
                if known is not None:
                    outputs = [function.ret[argument.name] for argument in function.signature.output_arg]
                    results = [f"{known[node_name(tensor)]}:{tensor.partition(':')[2]}" for tensor in outputs]
                    everything = sorted(known[node.name] for node in function.node_def)
                    self._known[name] = _hash("\n".join([*results, *everything]))
        return self._known[name]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
