"""Gives an exported model one order and one set of names, whatever order the exporter worked in.

tf2onnx keeps its nodes in sets and numbers what it adds by a counter of the process, so that the same graph comes out
in another order and under other names each time. Caches find engines by the model's bytes, which therefore have to
follow from the graph alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

import onnx

_COUNTER = re.compile(r"__\d+")
"""What tf2onnx puts behind, or into, a name that it makes."""

_PORT = re.compile(r":\d+$")


def make_reproducible(model: onnx.ModelProto, known: Collection[str]) -> None:
    """Changes `model` in place: nodes in the order in which the outputs need them, names without a trace of counters.

    What no output needs is left out. Inputs and outputs of the graph stay as they are.

    Before:
        [sum__81] sum__81:0 = Add(dense:0, const__12)    [dense] dense:0 = MatMul(input_0, weight_0)
    After:
        [dense] dense:0 = MatMul(input_0, weight_0)      [sum__1] sum__1:0 = Add(dense:0, sum__1/input_1)

    Args:
        model: An exported segment.
        known: Names of the nodes of the TensorFlow graph that it was exported from. They stay, numbers included.
    """
    _sort(model.graph)
    _Renaming(model, known).run()


def name_without_counters(name: str, known: Collection[str]) -> str:
    """Returns a node's name as it was before tf2onnx made it unique.

    Args:
        name: Name of a node of an ONNX model, without a port.
        known: Names of the TensorFlow graph's nodes. A number that belongs to one of them stays.
    """
    if name in known:
        return name
    found = list(_COUNTER.finditer(name))
    kept = next((match.end() for match in reversed(found) if name[: match.end()] in known), 0)
    return name[:kept] + _COUNTER.sub("", name[kept:])


def _graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its graphs take from outside included."""
    yield from node.input
    for graph in _graphs(node):
        for inner in graph.node:
            yield from _read(inner)
        yield from (value.name for value in graph.output)


def _sort(graph: onnx.GraphProto) -> None:
    """Brings nodes into the order of a walk from the outputs upwards, and constants into the order of their use."""
    for node in graph.node:
        node.attribute.sort(key=lambda attribute: attribute.name)
        for inner in _graphs(node):
            _sort(inner)
    producers = {name: node for node in graph.node for name in node.output if name}
    seen: set[str] = set()
    done: list[str] = []
    # Without recursion: a graph may be deeper than Python's stack. A name stays here until what it needs is done.
    stack: list[tuple[str, Iterator[str]]] = [("", iter([value.name for value in graph.output]))]
    while stack:
        name, needed = stack[-1]
        for each in needed:
            if each not in seen:
                seen.add(each)
                producer = producers.get(each)
                stack.append((each, iter(()) if producer is None else _read(producer)))
                break
        else:
            done.append(name)
            stack.pop()
    position = {name: index for index, name in enumerate(done) if name}

    def of_node(node: onnx.NodeProto) -> int:
        return min((position[name] for name in node.output if name in position), default=len(done))

    def of_tensor(tensor: onnx.TensorProto | onnx.ValueInfoProto) -> int:
        return position.get(tensor.name, len(done))

    graph.node.sort(key=of_node)
    graph.initializer.sort(key=of_tensor)
    graph.value_info.sort(key=of_tensor)
    del graph.node[sum(of_node(node) < len(done) for node in graph.node) :]
    for tensors in (graph.initializer, graph.value_info):
        del tensors[sum(of_tensor(tensor) < len(done) for tensor in tensors) :]


class _Names:
    """Gives each name of the model its new one, in the order in which they are asked for."""

    def __init__(self, known: Collection[str], kept: Iterable[str]) -> None:
        self._known = known
        self._new: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._taken = {*known, *kept}

    def __call__(self, name: str) -> str:
        """Returns the new name, with the port that the old one has."""
        stem, port = _split(name)
        if stem not in self._new:
            base = name_without_counters(stem, self._known)
            self._new[stem] = stem if base == stem else self._unused(base)
        return self._new[stem] + port

    def constant(self, name: str, reader: str, position: int) -> str:
        """Returns the new name of a constant, which is that of its first reader.

        Which of several equal constants is left, and what the folding of others called it, is a matter of order.
        """
        if name not in self._new:
            wanted = f"{reader}/input_{position}"
            self._new[name] = self._unused(wanted) if wanted in self._taken else wanted
            self._taken.add(wanted)
        return self._new[name]

    def _unused(self, base: str) -> str:
        while True:
            self._counts[base] = self._counts.get(base, 0) + 1
            name = f"{base}__{self._counts[base]}"
            if name not in self._taken:
                return name


def _split(name: str) -> tuple[str, str]:
    """Returns a tensor's name without its port, and the port."""
    port = _PORT.search(name)
    return (name, "") if port is None else (name[: port.start()], port[0])


class _Renaming:
    """One walk through a sorted model that gives everything in it its new name."""

    def __init__(self, model: onnx.ModelProto, known: Collection[str]) -> None:
        self._graph = model.graph
        graphs = list(_all_graphs(model.graph))
        outputs = {value.name for value in model.graph.output}
        self._constants = {tensor.name for graph in graphs for tensor in graph.initializer} - outputs
        others = (name for graph in graphs for name in _names_of(graph) if name not in self._constants)
        stems = {_split(name)[0] for name in others}
        self._names = _Names(known, (stem for stem in stems if name_without_counters(stem, known) == stem))

    def run(self) -> None:
        self._rename(self._graph)
        dimensions = _Names((), ())
        for graph in _all_graphs(self._graph):
            for value in (*graph.input, *graph.output, *graph.value_info):
                for dimension in value.type.tensor_type.shape.dim:
                    if dimension.dim_param:
                        dimension.dim_param = dimensions(dimension.dim_param)

    def _rename(self, graph: onnx.GraphProto) -> None:
        for value in graph.input:
            value.name = self._names(value.name)
        for node in graph.node:
            node.name = node.name and self._names(node.name)
            node.input[:] = [self._tensor(name, node.name, position) for position, name in enumerate(node.input)]
            for inner in _graphs(node):
                inner.name = self._names(inner.name)
                self._rename(inner)
            node.output[:] = [name and self._names(name) for name in node.output]
        for position, value in enumerate(graph.output):
            value.name = self._tensor(value.name, graph.name, position)
        for tensor in graph.initializer:
            tensor.name = self._tensor(tensor.name, graph.name, 0)
        for value in graph.value_info:
            value.name = self._names(value.name)

    def _tensor(self, name: str, reader: str, position: int) -> str:
        if name in self._constants:
            return self._names.constant(name, reader, position)
        return name and self._names(name)


def _all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for inner in _graphs(node):
            yield from _all_graphs(inner)


def _names_of(graph: onnx.GraphProto) -> Iterator[str]:
    yield graph.name
    for node in graph.node:
        yield from (node.name, *node.output)
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
