"""Gives a session the weights of a graph without copying them through protobufs.

Between a GraphDef and a running session the value of a Const node is copied about ten times, and each step of
TensorFlow's graph optimizer (Grappler) copies it again. In a session made here the big weights are Const nodes that
refer to one tensor in memory (see `ops/held_constant.cc`). To Grappler they are constants like any other, except that
it cannot read their values. A weight whose value it would read has to stay an ordinary Const:

    W ──► MatMul ◄── x      nothing is computed of W before the graph runs      held
    W ──► Transpose         is evaluated once                                   ordinary
    W ──► Conv2D ──► Mul    the factor is multiplied into W                     ordinary

So the session runs the same nodes as one over ordinary constants, and is as fast.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from tf_opt.feeds import Array
from tf_opt.ops.held_tensors import HeldTensor, refer
from tf_opt.tensor_info import node_name
from tf_opt.weights import WeightStore, add_constant, is_weight

MINIMUM_HELD_BYTES = 64 * 1024
"""Smaller weights cost nothing as ordinary constants."""

_PRODUCTS = frozenset(
    "MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Gather GatherV2 GatherNd TfOptEngine".split()
)
"""Ops whose constant operand Grappler never combines with another constant."""

_CONVOLUTIONS = frozenset("Conv2D Conv3D DepthwiseConv2dNative".split())
"""Ops into whose weights Grappler multiplies constant factors that stand before or behind them."""

_FACTORS = frozenset("Mul MulNoNan Div DivNoNan RealDiv".split())

_FORWARDING = frozenset("Cast ExpandDims Identity Pad PadV2 Reshape Squeeze Transpose".split())
"""Ops through which a factor may be moved to a convolution."""

_FUNCTIONAL = frozenset("Case For If StatelessCase StatelessIf StatelessWhile While".split())
"""Ops whose branches are optimized by a step of Grappler that reads every constant, and that does nothing else."""

_SAMPLE = 1024
"""Elements by which constants are told apart before all of their elements are compared."""


@dataclass(frozen=True, kw_only=True)
class SessionGraph:
    """What a session is made of.

    Attributes:
        graph_def: The graph with its constants.
        config: The configuration under which a session runs it as a default session would.
    """

    graph_def: GraphDef
    config: ConfigProto


class HeldWeights:
    """The weights of an optimization, once in memory, for the sessions of all its trials."""

    def __init__(self) -> None:
        """Holds nothing yet."""
        self._constants: dict[int, tuple[NodeDef, HeldTensor | NodeDef]] = {}
        """By the identity of a Const node, which is kept so that no other gets its identity: its tensor, or the Const
        node to use in its place where all elements are equal."""

    def close(self) -> None:
        """Lets go of everything. Sessions that are open keep what they use."""
        self._constants.clear()

    def session_graph(self, light: GraphDef, weights: WeightStore, outputs: Collection[str]) -> SessionGraph:
        """Returns what a session is made of in which `light` runs with its weights.

        Weights that neither a node nor `outputs` reads are left out. What earlier graphs held and this one does not is
        let go.

        Args:
            light: Light graph; it is not changed.
            weights: Its constants.
            outputs: Names of the tensors that will be fetched.

        Raises:
            InvalidGraphError: A weight placeholder has no constant.
            MemoryError: The weights do not fit into memory.
        """
        config = ConfigProto()
        rewrites = config.graph_options.rewrite_options
        # This optimizer of Grappler's looks for tensors to recompute or to swap out. It makes nothing faster, takes as
        # long as all others together on a BERT, and holds two more copies of the weights meanwhile.
        rewrites.memory_optimization = RewriterConfig.NO_MEM_OPT
        view = _ConstantView(light)
        read = {node_name(name) for name in outputs} | view.readers.keys()
        unevaluated = view.unevaluated(weights) if can_hold(light) else {}
        chosen = {name: source for name, source in unevaluated.items() if name in read}
        # It writes every constant out in full.
        rewrites.disable_tfg_optimizer = bool(chosen)
        self._hold_only({name: weights.node(name) for name in chosen.values()}, weights)
        graph_def = GraphDef(versions=light.versions, library=light.library)
        for node in light.node:
            if node.name in chosen:
                constant = weights.node(chosen[node.name])
                _add_reference(graph_def, node, constant, self._constants[id(constant)][1])
            elif not is_weight(node):
                graph_def.node.append(node)
            elif node.name in read:
                add_constant(graph_def, node, weights)
        return SessionGraph(graph_def=graph_def, config=config)

    def _hold_only(self, wanted: dict[str, NodeDef], weights: WeightStore) -> None:
        identities = {id(constant) for constant in wanted.values()}
        self._constants = {key: entry for key, entry in self._constants.items() if key in identities}
        alike: defaultdict[object, list[HeldTensor]] = defaultdict(list)
        for constant, tensor in self._constants.values():
            if isinstance(tensor, HeldTensor):
                alike[_sample(constant, tensor.bytes)].append(tensor)
        for name, constant in wanted.items():
            if id(constant) not in self._constants:
                self._constants[id(constant)] = (constant, _tensor(constant, weights.array(name), alike))


def can_hold(light: GraphDef) -> bool:
    """Tells whether a session in this process can run `light` over held weights as it would over ordinary ones."""
    nodes = [*light.node, *(node for function in light.library.function for node in function.node_def)]
    if any(node.op in _FUNCTIONAL for node in nodes):
        return False
    # XLA compiles the values of constants in.
    if "auto_jit" in os.environ.get("TF_XLA_FLAGS", ""):
        return False
    # Other devices keep constants in memory of their own.
    return all(device.device_type == "CPU" for device in tf.config.list_physical_devices())


def _tensor(constant: NodeDef, array: Array, alike: defaultdict[object, list[HeldTensor]]) -> HeldTensor | NodeDef:
    """Returns the tensor of a constant: a new one, or that of an equal one.

    Grappler merges what is computed of equal constants, and drops additions of zeros and multiplications by ones. For
    the first, equal constants have to be one tensor; for the second, one of equal elements an ordinary constant.
    """
    if (array.reshape(-1)[:_SAMPLE] == array.flat[0]).all() and (array == array.flat[0]).all():
        node = NodeDef()
        node.attr["dtype"].CopyFrom(constant.attr["dtype"])
        value = tf.make_tensor_proto(array.reshape(-1)[:1], shape=array.shape)
        node.attr["value"].tensor.CopyFrom(value)
        return node
    values = array.reshape(-1).view(np.uint8)
    same = alike[_sample(constant, values)]
    for tensor in same:
        if np.array_equal(tensor.bytes, values):
            return tensor
    tensor = HeldTensor(constant.attr["dtype"].type, array.shape)
    tensor.bytes[:] = values
    same.append(tensor)
    return tensor


def _sample(constant: NodeDef, values: Array) -> object:
    """Returns what constants of equal type, shape and bytes have in common, and few others."""
    shape = tuple(dimension.size for dimension in constant.attr["value"].tensor.tensor_shape.dim)
    return constant.attr["dtype"].type, shape, values[:: max(1, values.size // _SAMPLE)].tobytes()


def _add_reference(graph_def: GraphDef, node: NodeDef, constant: NodeDef, source: HeldTensor | NodeDef) -> None:
    """Adds a Const in place of `node` that is as `constant`, with the value of `source`."""
    added = graph_def.node.add(name=node.name, op="Const", device=node.device)
    added.input.extend(reference for reference in node.input if reference.startswith("^"))
    added.attr["dtype"].CopyFrom(constant.attr["dtype"])
    if isinstance(source, HeldTensor):
        added.attr["value"].tensor.tensor_shape.CopyFrom(constant.attr["value"].tensor.tensor_shape)
        refer(added, source)
    else:
        added.attr["value"].CopyFrom(source.attr["value"])


class _ConstantView:
    """What a graph computes of its constants.

    Attributes:
        readers: Nodes that read a node's outputs, by its name, with the position of the input.
    """

    def __init__(self, light: GraphDef) -> None:
        self._nodes = {node.name: node for node in light.node}
        self.readers: dict[str, list[tuple[NodeDef, int]]] = defaultdict(list)
        for node in light.node:
            for position, reference in enumerate(node.input):
                self.readers[node_name(reference)].append((node, position))
        self._constant = self._find_constant()

    def _find_constant(self) -> set[str]:
        """Returns the nodes whose outputs depend on constants alone."""
        found = {node.name for node in self._nodes.values() if node.op == "Const" or is_weight(node)}
        missing = {
            name: sum(not reference.startswith("^") for reference in node.input) for name, node in self._nodes.items()
        }
        pending = list(found)
        while pending:
            for reader, position in self.readers.get(pending.pop(), ()):
                if reader.name in found or reader.input[position].startswith("^"):
                    continue
                missing[reader.name] -= 1
                if missing[reader.name] == 0:
                    found.add(reader.name)
                    pending.append(reader.name)
        return found

    def unevaluated(self, weights: WeightStore) -> dict[str, str]:
        """Returns the big weights of which Grappler computes nothing.

        Returns:
            Names of weight placeholders, and of nodes that hand one on unchanged; each with the name of the weight.
        """
        chosen: dict[str, str] = {}
        for name, node in self._nodes.items():
            if is_weight(node) and name in weights and weights.size_of(name) >= MINIMUM_HELD_BYTES:
                copies = list(self._copies(node))
                if all(self._is_unevaluated(*reader) for copy in copies for reader in self.readers.get(copy, ())):
                    chosen.update(dict.fromkeys(copies, name))
        return chosen

    def _copies(self, weight: NodeDef) -> Iterator[str]:
        """Yields a weight's name, and those of the Identity nodes that stand for it, as freezing leaves them."""
        pending = [weight.name]
        while pending:
            name = pending.pop()
            yield name
            pending.extend(reader.name for reader, _ in self.readers.get(name, ()) if _is_copy(reader))

    def _is_unevaluated(self, reader: NodeDef, position: int) -> bool:
        if reader.input[position].startswith("^") or _is_copy(reader):
            return True
        if reader.name in self._constant:
            return False
        if reader.op in _CONVOLUTIONS:
            return position == 1 and not self._has_factor_before(reader) and not self._has_factor_behind(reader)
        return reader.op in _PRODUCTS

    def _has_factor_behind(self, node: NodeDef) -> bool:
        return any(self._is_factor(reader) for reader, _ in self.readers.get(node.name, ()))

    def _has_factor_before(self, node: NodeDef) -> bool:
        while True:
            before = self._nodes.get(node_name(node.input[0]))
            if before is None or before.op not in _FORWARDING:
                return before is not None and self._is_factor(before)
            node = before

    def _is_factor(self, node: NodeDef) -> bool:
        return node.op in _FACTORS and any(node_name(reference) in self._constant for reference in node.input)


def _is_copy(node: NodeDef) -> bool:
    return node.op == "Identity" and len(node.input) == 1
