"""Evaluates what depends on constants alone, through TensorFlow's own optimizer."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.protobuf.config_pb2 import ConfigProto
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig
from tensorflow.python.framework import errors_impl
from tensorflow.python.grappler import cluster as grappler_cluster
from tensorflow.python.grappler import tf_optimizer

from tf_opt.errors import PassError
from tf_opt.passes.tf.node_defs import structure_key
from tf_opt.passes.tf.pass_base import Border, GraphPass, PassResult
from tf_opt.weights import is_weight

# Everything that Grappler turns on by default and that could rename, fuse, re-layout or reorder nodes.
_OFF = (
    "layout_optimizer",
    "shape_optimization",
    "remapping",
    "common_subgraph_elimination",
    "arithmetic_optimization",
    "dependency_optimization",
    "loop_optimization",
    "function_optimization",
    "debug_stripper",
    "scoped_allocator_optimization",
    "implementation_selector",
    "pin_to_host_optimization",
    "auto_mixed_precision",
    "auto_mixed_precision_onednn_bfloat16",
    "use_plugin_optimizers",
)

_CLUSTER_LOCK = threading.Lock()  # a process can have one Grappler cluster at a time


class FoldConstants(GraphPass):
    """Runs Grappler with constant folding and nothing else.

    Weights are Placeholders here, so nothing that depends on them is evaluated, and no large constant comes to be:
    Grappler itself refuses to write a constant of more than 100 kB that is larger than what it was computed from.

    Before:
        Mul(x, Sqrt(Const 16.0))
    After:
        Mul(x, Const 4.0)
    """

    name: ClassVar[str] = "fold_constants"

    def run(self, graph_def: GraphDef, border: Border) -> PassResult:
        """See `GraphPass.run`.

        Raises:
            PassError: Grappler refused the graph, or lost a node of the border.
        """
        meta_graph = MetaGraphDef(graph_def=_without_feeds_of_weights(graph_def))
        # Grappler takes what stands in this collection for what is fetched.
        fetched = meta_graph.collection_def["train_op"].node_list.value
        fetched.extend(sorted(border.nodes))
        optimized = _optimize(meta_graph)
        old = {node.name: node for node in graph_def.node}
        result = GraphDef(versions=graph_def.versions, library=optimized.library)
        changes = 0
        for node in optimized.node:
            before = old.get(node.name)
            # Grappler encodes constants anew and notes types even where it folds nothing.
            if before is not None and is_weight(before):
                node.op = before.op
                node.attr.clear()
                node.attr.MergeFrom(before.attr)
            if before is not None and structure_key(node) == structure_key(before):
                result.node.add().CopyFrom(before)
            else:
                result.node.add().CopyFrom(node)
                changes += 1
        changes += len(old.keys() - {node.name for node in result.node})
        return PassResult(result, changed=True, changes=changes) if changes else PassResult(graph_def, changed=False)


def _without_feeds_of_weights(graph_def: GraphDef) -> GraphDef:
    """Returns a copy in which the weights are nodes that Grappler neither evaluates nor feeds.

    For each Placeholder it makes a tensor of zeros to feed, which for the weights of a model takes as much memory as
    the weights themselves.
    """
    result = GraphDef()
    result.CopyFrom(graph_def)
    for node in result.node:
        if is_weight(node):
            node.op = "ImmutableConst"
            node.attr["memory_region_name"].s = b""  # The attribute is required; nothing is run.
    return result


def _optimize(meta_graph: MetaGraphDef) -> Any:
    config = ConfigProto()
    config.device_count["CPU"] = 1
    config.device_count["GPU"] = 0
    rewrites = config.graph_options.rewrite_options
    for optimizer in _OFF:
        setattr(rewrites, optimizer, RewriterConfig.OFF)
    rewrites.constant_folding = RewriterConfig.ON
    rewrites.memory_optimization = RewriterConfig.NO_MEM_OPT
    rewrites.disable_model_pruning = True  # pruning would take away placeholders that nothing reads
    rewrites.meta_optimizer_iterations = RewriterConfig.ONE
    rewrites.min_graph_nodes = -1  # by default graphs of fewer than 4 nodes are skipped
    rewrites.fail_on_optimizer_errors = True
    with _CLUSTER_LOCK:
        cluster = grappler_cluster.Cluster()
        try:
            return tf_optimizer.OptimizeGraph(config, meta_graph, verbose=False, cluster=cluster)
        except (errors_impl.OpError, ValueError, RuntimeError) as error:
            raise PassError(
                f"Grappler could not fold the constants of the graph: {error} Check that the graph can be imported, "
                "or leave out the pass 'fold_constants'."
            ) from error
        finally:
            cluster.Shutdown()
