"""Keeps the weights of engine nodes that run on a GPU in host memory, where these nodes read them.

TensorFlow would place such constants on the GPU and copy them back to the host in every run.
"""

from __future__ import annotations

from collections import defaultdict

from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.ops.held_tensors import HOST_KERNEL_LABEL

ENGINE_OP = "TfOptEngine"


def keep_weights_on_host(graph_def: GraphDef) -> None:
    """Labels, in place, each constant that is one of `engine_weights`.

    Args:
        graph_def: A graph with engine nodes.
    """
    wanted = engine_weights(graph_def)
    for node in graph_def.node:
        if node.op == "Const" and node.name in wanted:
            node.attr["_kernel"].s = HOST_KERNEL_LABEL


def engine_weights(graph_def: GraphDef) -> set[str]:
    """Returns the names of nodes that only engine nodes read, of which at least one may be placed on a GPU.

    What other nodes read too is not among them: kept in host memory, they would get a copy of it in every run.

    Args:
        graph_def: A graph with engine nodes.
    """
    readers = defaultdict(list)
    for node in graph_def.node:
        for reference in node.input:
            if not reference.startswith("^"):
                readers[reference.partition(":")[0]].append(node)
    return {
        name
        for name, found in readers.items()
        if all(reader.op == ENGINE_OP for reader in found) and any("CPU" not in reader.device for reader in found)
    }
