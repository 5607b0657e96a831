"""Applies a pass to a small graph and checks everything that each pass promises.

`apply_pass` is the one way in which the tests of this folder run a pass: it compares outputs numerically at several
shapes, checks that the border kept its names, dtypes and shapes, that the argument was not changed, that `changed` is
honest, that what the pass ensures holds, and that a second run changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.passes.tf.graph_editor import keep_reachable
from tf_opt.passes.tf.node_defs import constant_value, structure_key
from tf_opt.passes.tf.pass_base import Border, GraphPass
from tf_opt.passes.tf.prune import PASS_THROUGH_OPS
from tf_opt.passes.tf.tensor_types import tensor_infos

DEFAULT_SIZES = ((2, 3), (1, 1), (3, 5))
"""What the unknown dimensions of placeholders are fed with, in turn: the first axis, the second, ..."""

Graph = tuple[GraphDef, Border]


def placeholder(name: str, shape: Sequence[int | None], dtype: Any = tf.float32) -> Any:
    """An input of the graph under construction."""
    return tf.compat.v1.placeholder(dtype, shape, name=name)


def weight(name: str, shape: Sequence[int], dtype: Any = tf.float32) -> Any:
    """The placeholder of a detached weight."""
    tensor = tf.compat.v1.placeholder(dtype, shape, name=name)
    tensor.op._set_attr("_tf_opt_weight", tf.compat.v1.AttrValue(b=True))
    return tensor


def graph_of(build: Callable[[], Any], extra_outputs: Sequence[str] = ()) -> Graph:
    """Builds a graph.

    Args:
        build: Adds nodes to the default graph; returns the tensor or tensors to fetch.
        extra_outputs: Names of further tensors to fetch.
    """
    with tf.Graph().as_default() as graph:
        built = build()
        outputs = [tensor.name for tensor in (built if isinstance(built, (list, tuple)) else [built])]
    graph_def = graph.as_graph_def()
    inputs = tuple(node.name for node in graph_def.node if node.op == "Placeholder" and not is_weight(node))
    return graph_def, Border(inputs, tuple(outputs) + tuple(extra_outputs))


def is_weight(node: NodeDef) -> bool:
    return "_tf_opt_weight" in node.attr


def apply_pass(
    graph_pass: GraphPass,
    graph: Graph,
    *,
    changed: bool | None = None,
    sizes: Sequence[Sequence[int]] = DEFAULT_SIZES,
    atol: float = 1e-4,
) -> GraphDef:
    """Runs a pass, checks all promises (see above) and returns its graph.

    Args:
        graph_pass: The pass.
        graph: Graph and border.
        changed: What the pass has to say; None takes either.
        sizes: Sizes of unknown dimensions, one feed each.
        atol: Absolute tolerance of the outputs; the relative one is 1e-6.
    """
    graph_def, border = graph
    before = graph_def.SerializeToString(deterministic=True)
    result = graph_pass.run(graph_def, border)
    assert graph_def.SerializeToString(deterministic=True) == before, "the pass changed its argument"
    differs = result.graph_def.SerializeToString(deterministic=True) != before
    assert result.changed == differs, (
        f"changed is {result.changed}, but the graphs {'differ' if differs else 'are equal'}"
    )
    assert result.changed == (result.changes > 0)
    if changed is not None:
        assert result.changed == changed
    check_same_behaviour(graph_def, result.graph_def, border, sizes=sizes, atol=atol)
    check_ensured(graph_pass, result.graph_def, border)
    assert not graph_pass.run(result.graph_def, border).changed, "a second run found something to change"
    return result.graph_def


def check_same_behaviour(
    before: GraphDef,
    after: GraphDef,
    border: Border,
    *,
    sizes: Sequence[Sequence[int]] = DEFAULT_SIZES,
    atol: float = 1e-4,
) -> None:
    """Checks that the border is as it was and that both graphs compute the same."""
    old, new = tensor_infos(before), tensor_infos(after)
    for tensor in (*border.outputs, *(f"{name}:0" for name in border.inputs)):
        assert new[tensor].dtype == old[tensor].dtype
        if old[tensor].shape is not None:  # a pass may learn dimensions, never forget or contradict them
            assert new[tensor].shape is not None
            assert len(new[tensor].shape or ()) == len(old[tensor].shape or ())
            for known, now in zip(old[tensor].shape or (), new[tensor].shape or (), strict=True):
                assert known is None or known == now, f"{tensor}: {old[tensor].shape} became {new[tensor].shape}"
    feeds = [random_feed(before, size, seed) for seed, size in enumerate(sizes)]
    kept = {f"{node.name}:0" for node in after.node}
    reduced = [{name: value for name, value in feed.items() if name in kept} for feed in feeds]
    for expected, actual in zip(run(before, border, feeds), run(after, border, reduced), strict=True):
        for tensor, wanted, got in zip(border.outputs, expected, actual, strict=True):
            assert got.shape == wanted.shape, f"{tensor}: shape {wanted.shape} became {got.shape}"
            if wanted.dtype.kind in "fc":
                np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=atol, err_msg=tensor)
            else:
                np.testing.assert_array_equal(got, wanted, err_msg=tensor)


def random_feed(graph_def: GraphDef, sizes: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """Random values for all placeholders, weights among them; unknown dimensions take `sizes` by their axis."""
    random = np.random.default_rng(seed)
    feed: dict[str, Any] = {}
    for node in graph_def.node:
        if node.op != "Placeholder":
            continue
        dims = [dim.size for dim in node.attr["shape"].shape.dim]
        shape = [sizes[axis % len(sizes)] if dim < 0 else dim for axis, dim in enumerate(dims)]
        dtype = tf.as_dtype(node.attr["dtype"].type).as_numpy_dtype
        is_float = np.issubdtype(dtype, np.floating)
        feed[f"{node.name}:0"] = (random.normal(size=shape) if is_float else random.integers(0, 2, shape)).astype(dtype)
    return feed


def run(graph_def: GraphDef, border: Border, feeds: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Runs the graph in a plain Session, once a feed."""
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
        config = tf.compat.v1.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True  # compare passes, not TensorFlow's own
        with tf.compat.v1.Session(graph=graph, config=config) as session:
            return [[np.asarray(value) for value in session.run(list(border.outputs), feed)] for feed in feeds]


def ops(graph_def: GraphDef) -> Counter[str]:
    """How many nodes of each op there are."""
    return Counter(node.op for node in graph_def.node)


def node_of(graph_def: GraphDef, name: str) -> NodeDef:
    """The node called `name`."""
    (found,) = [node for node in graph_def.node if node.name == name]
    return found


def only(graph_def: GraphDef, op: str) -> NodeDef:
    """The only node of an op."""
    (found,) = [node for node in graph_def.node if node.op == op]
    return found


def constant(graph_def: GraphDef, reference: str) -> Any:
    """The value of the Const that an input reference names, as nested lists."""
    value = constant_value(node_of(graph_def, reference.split(":")[0]))
    assert value is not None, f"{reference} is no Const"
    return value.tolist()


def _is_pruned(graph_def: GraphDef, border: Border) -> bool:
    return len(keep_reachable(graph_def, graph_def.node, border).node) == len(graph_def.node)


def _has_no_pass_through(graph_def: GraphDef, border: Border) -> bool:
    return not [
        node.name
        for node in graph_def.node
        if node.op in PASS_THROUGH_OPS
        and node.name not in border.nodes
        and not any(reference.startswith("^") for reference in node.input)
        and not _is_in_control_flow(graph_def)
    ]


def _is_in_control_flow(graph_def: GraphDef) -> bool:
    return any(node.op in ("Switch", "Merge", "Enter") for node in graph_def.node)


def _has_no_duplicates(graph_def: GraphDef, border: Border) -> bool:
    keys = [
        structure_key(node)
        for node in graph_def.node
        if node.name not in border.nodes and not any(i.startswith("^") for i in node.input) and node.op == "Const"
    ]
    return len(set(keys)) == len(keys) or _is_in_control_flow(graph_def)


def _has_folded_shapes(graph_def: GraphDef, border: Border) -> bool:
    """Whether no Prod, ConcatV2 or GatherV2 of integers is left above a Reshape target."""
    targets = {node.input[1].split(":")[0] for node in graph_def.node if node.op == "Reshape"}
    return not any(node.name in targets and node.op in ("ConcatV2", "GatherV2", "Prod") for node in graph_def.node)


PROPERTIES: dict[str, Callable[[GraphDef, Border], bool]] = {
    "pruned": _is_pruned,
    "no_pass_through": _has_no_pass_through,
    "no_erfc": lambda graph_def, border: _is_in_control_flow(graph_def) or "Erfc" not in ops(graph_def),
    "no_duplicates": _has_no_duplicates,
    "shape_arithmetic_folded": _has_folded_shapes,
}
"""What each name in `requires` and `ensures` means."""


def check_ensured(graph_pass: GraphPass, graph_def: GraphDef, border: Border) -> None:
    """Checks every property that a pass claims to ensure."""
    for claim in sorted(graph_pass.ensures):
        assert PROPERTIES[claim](graph_def, border), f"{graph_pass.name} does not ensure {claim}"
