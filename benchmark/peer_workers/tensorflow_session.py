"""The frozen graph in a plain Session: the original that the others are compared with, and TensorFlow's own options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from peer_workers.protocol import INPUTS, Array, Peer, Points, require_bf16, serve

OUTPUT_TENSORS = ("Identity:0", "Identity_1:0")


def session_config(threads: int, options: Mapping[str, Any]) -> tf.compat.v1.ConfigProto:
    """Returns TensorFlow's default configuration with the given number of threads, and what the options turn on."""
    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    if options.get("callers_thread"):
        config.inter_op_parallelism_threads = -1
    if options.get("xla"):  # On a CPU it also takes the flag that the catalog sets.
        config.graph_options.optimizer_options.global_jit_level = tf.compat.v1.OptimizerOptions.ON_2
    if options.get("bf16"):
        rewriter = config.graph_options.rewrite_options
        rewriter.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    return config


class SessionPeer(Peer):
    """Runs graph.pb, or another GraphDef that a subclass gives."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        if options.get("bf16"):
            require_bf16()
        self.open(
            tf.compat.v1.GraphDef.FromString((folder / "graph.pb").read_bytes()), session_config(threads, options)
        )
        return {"tensorflow": tf.__version__}

    def open(self, graph_def: tf.compat.v1.GraphDef, config: tf.compat.v1.ConfigProto) -> None:
        """Opens a Session for a GraphDef."""
        graph = tf.Graph()
        with graph.as_default():
            tf.import_graph_def(graph_def, name="")
        self._session = tf.compat.v1.Session(graph=graph, config=config)
        self._function = self._session.make_callable(
            [graph.get_tensor_by_name(name) for name in OUTPUT_TENSORS],
            feed_list=[graph.get_tensor_by_name(f"{name}:0") for name in INPUTS],
        )

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        self._feeds = {name: [feed[each] for each in INPUTS] for name, feed in feeds.items()}

    def run(self, feed: str) -> tuple[Any, Any]:
        """See `Peer.run`."""
        hidden, pooled = self._function(*self._feeds[feed])
        return hidden, pooled


if __name__ == "__main__":
    serve(SessionPeer())
