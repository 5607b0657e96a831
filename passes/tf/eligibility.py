"""Decides for each compute node whether it may lie in a segment, and gives the reason where it may not."""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.errors import InvalidOptionError, UnknownOpError
from tf_opt.passes.tf.control_flow import FRAME_OPS, SWITCH_OPS
from tf_opt.passes.tf.graph_view import GraphView
from tf_opt.passes.tf.tensor_types import op_definition
from tf_opt.tensor_info import TensorInfo

SupportCheck: TypeAlias = Callable[[NodeDef, tuple[TensorInfo, ...], tuple[TensorInfo, ...]], "str | None"]
"""Called with a node and its input and output tensors; None where an engine can run it, else the reason why not."""

SOURCE_OPS = frozenset({"Const", "Placeholder", "PlaceholderV2", "NoOp"})
"""Nodes that compute nothing: they are neither counted nor refused."""

FEEDABLE_OPS = frozenset({"PlaceholderWithDefault"})
"""Nodes with inputs whose output is meant to be fed."""

FUNCTION_CALL_OPS = frozenset(
    {
        "Case",
        "For",
        "If",
        "PartitionedCall",
        "RemoteCall",
        "StatefulPartitionedCall",
        "StatelessCase",
        "StatelessIf",
        "StatelessWhile",
        "SymbolicGradient",
        "While",
    }
)
"""Functional control flow and calls: their bodies lie in the function library, out of a segment's sight."""

NOT_NUMERIC_DTYPES = frozenset({"string", "resource", "variant"})


class RefusalCategory(enum.Enum):
    """Why a node stays in TensorFlow; the value is how a report words it."""

    OP_NOT_SUPPORTED = "op not supported"
    DTYPE = "dtype"
    CONTROL_FLOW = "control flow"
    STATEFUL = "stateful op"
    DENIED = "denied by an option"
    NOT_ALLOWED = "not on the list of what is allowed"
    REJECTED_BY_USER = "rejected by the user's filter"
    SEGMENT_TOO_SMALL = "segment too small"
    INPUT_OR_OUTPUT = "fed by the user"
    NO_INPUTS = "depends on constants alone"
    NOT_NEEDED = "no output depends on it"


@dataclass(frozen=True)
class NodeRefusal:
    """Why one node stays in TensorFlow.

    Attributes:
        node: Name of the node.
        op: Its op.
        reason: A sentence for a reader.
        category: The kind of reason.
    """

    node: str
    op: str
    reason: str
    category: RefusalCategory


def is_compute_node(node: NodeDef) -> bool:
    """Whether a node counts: everything but constants, placeholders (weights too) and NoOp."""
    return node.op not in SOURCE_OPS


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Returns a test for a match with any of the fnmatch patterns."""
    expression = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns) or r"(?!)")
    return lambda text: expression.match(text) is not None


class NodeRules:
    """What a user allows and denies.

    Args:
        supported_list: Ops that may be in a segment; None allows all. Patterns of `fnmatch` ("Conv*") are allowed here
            and in the following.
        denied_ops: Ops that may not; stronger than `supported_list`.
        supported_nodes: Node names that may be in a segment; None allows all.
        denied_nodes: Node names that may not; stronger than `supported_nodes`.
        node_filter: Called with a NodeDef that nothing else refuses; returns whether it may be in a segment.

    Raises:
        InvalidOptionError: A list is a single string, which would be taken for a list of letters.
    """

    def __init__(
        self,
        *,
        supported_list: Collection[str] | None = None,
        denied_ops: Collection[str] = (),
        supported_nodes: Collection[str] | None = None,
        denied_nodes: Collection[str] = (),
        node_filter: Callable[[NodeDef], bool] | None = None,
    ) -> None:
        lists = {
            "supported_list": supported_list,
            "denied_ops": denied_ops,
            "supported_nodes": supported_nodes,
            "denied_nodes": denied_nodes,
        }
        for option, value in lists.items():
            if isinstance(value, str):
                raise InvalidOptionError(f"{option}={value!r} is a string; expected a list of names: [{value!r}].")
        self._allow_op = None if supported_list is None else _matcher(supported_list)
        self._deny_op = _matcher(denied_ops)
        self._allow_node = None if supported_nodes is None else _matcher(supported_nodes)
        self._deny_node = _matcher(denied_nodes)
        self._user_filter = node_filter

    def by_name(self, node: NodeDef) -> tuple[RefusalCategory, str] | None:
        """Returns why the lists of ops and names refuse a node, or None where they do not."""
        if self._deny_op(node.op):
            return RefusalCategory.DENIED, f"denied_ops names the op {node.op}"
        if self._deny_node(node.name):
            return RefusalCategory.DENIED, f"denied_nodes matches {node.name!r}"
        if self._allow_op is not None and not self._allow_op(node.op):
            return RefusalCategory.NOT_ALLOWED, f"supported_list does not name the op {node.op}"
        if self._allow_node is not None and not self._allow_node(node.name):
            return RefusalCategory.NOT_ALLOWED, f"supported_nodes does not match {node.name!r}"
        return None

    def by_user(self, node: NodeDef) -> tuple[RefusalCategory, str] | None:
        """Asks the user's filter.

        Raises:
            InvalidOptionError: The filter raised; the message names the node.
        """
        if self._user_filter is None:
            return None
        try:
            accepted = bool(self._user_filter(node))
        except Exception as error:
            raise InvalidOptionError(
                f"node_filter raised {type(error).__name__} for node {node.name!r} ({node.op}): {error}. It is called "
                "with a NodeDef and must return True or False; catch in it what it cannot judge."
            ) from error
        return None if accepted else (RefusalCategory.REJECTED_BY_USER, "node_filter returned False")


def refuse_nodes(
    view: GraphView,
    *,
    fed: Collection[str],
    needed: Collection[str],
    infos: Mapping[str, TensorInfo],
    outputs_of: Mapping[str, tuple[TensorInfo, ...]],
    is_supported: SupportCheck,
    rules: NodeRules,
) -> dict[str, NodeRefusal]:
    """Judges every compute node by itself; whether a segment of some size comes out is decided later.

    Args:
        view: The graph.
        fed: Names of the nodes that the user feeds.
        needed: Names of the nodes that some output depends on.
        infos: Every tensor by name.
        outputs_of: The outputs of each node, in order.
        is_supported: The engine's judgement; only asked for nodes that nothing else refuses, except the user's filter.
        rules: The user's lists and filter.

    Returns:
        The refusals by node name, in the order of the GraphDef.

    Raises:
        UnknownOpError: A node has an op that is not registered.
        InvalidOptionError: The user's filter raised.
    """
    refusals: dict[str, NodeRefusal] = {}
    for node in view:
        if not is_compute_node(node):
            continue
        inputs = tuple(infos[reference.tensor_name] for reference in view.data_inputs(node.name))
        outputs = outputs_of.get(node.name, ())
        refused = _by_nature(node, inputs, outputs, fed, needed) or _pivot(view, node) or rules.by_name(node)
        if refused is None:
            reason = is_supported(node, inputs, outputs)
            refused = rules.by_user(node) if reason is None else (RefusalCategory.OP_NOT_SUPPORTED, reason)
        if refused is not None:
            category, reason = refused
            refusals[node.name] = NodeRefusal(node.name, node.op, reason, category)
    return refusals


def _pivot(view: GraphView, node: NodeDef) -> tuple[RefusalCategory, str] | None:
    """Refuses the pivot of a loop body or branch: the Identity of a Switch on which the constants there wait.

    A weight of the body stays a node and waits for the pivot. With the pivot in a segment, that segment could not read
    the weight, and the body would fall into two.
    """
    if node.op == "Identity" and view.control_consumers(node.name) and view.input_node(node.name, 0).op in SWITCH_OPS:
        return RefusalCategory.CONTROL_FLOW, "it is what the constants of a loop body or branch wait for"
    return None


def _by_nature(
    node: NodeDef,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
    fed: Collection[str],
    needed: Collection[str],
) -> tuple[RefusalCategory, str] | None:
    """Returns why no engine whatever may hold the node, or None."""
    if node.name in fed or node.op in FEEDABLE_OPS:
        return RefusalCategory.INPUT_OR_OUTPUT, "its value is fed by the user"
    if node.name not in needed:
        return RefusalCategory.NOT_NEEDED, "no output of the graph depends on it; prune the graph"
    if node.op in FRAME_OPS:
        return RefusalCategory.CONTROL_FLOW, f"{node.op} decides what runs, which TensorFlow has to do"
    if node.op in FUNCTION_CALL_OPS:
        return RefusalCategory.CONTROL_FLOW, f"{node.op} calls functions, whose nodes TensorFlow runs"
    definition = op_definition(node.op)
    if definition is None:
        # A function of the graph's own library, called by its name; everything else was refused as unknown on import.
        if not outputs and not inputs:
            raise UnknownOpError(f"Node {node.name!r} has the op {node.op!r}, which is not registered in this process.")
        return RefusalCategory.CONTROL_FLOW, f"{node.op} is a function; inline functions before segmenting"
    if definition.is_stateful:
        return RefusalCategory.STATEFUL, f"{node.op} has state or an effect, and must run exactly as TensorFlow runs it"
    for role, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            if tensor.dtype in NOT_NUMERIC_DTYPES:
                return RefusalCategory.DTYPE, f"{role} {tensor.name} is a {tensor.dtype}, which engines do not take"
            if tensor.dtype.endswith("_ref"):
                return RefusalCategory.DTYPE, f"{role} {tensor.name} is a reference ({tensor.dtype}) that may change"
    if not outputs:
        return RefusalCategory.OP_NOT_SUPPORTED, f"{node.op} has no output that an engine could give"
    return None
