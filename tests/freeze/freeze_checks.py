"""What tests of freezing share: values, readings of a frozen graph, and its comparison with the function."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tf_opt.frozen_graph import FrozenGraph
from tf_opt.session import GraphRunner


def ops(frozen: FrozenGraph) -> list[str]:
    """Op of each node outside of functions, in order."""
    return [node.op for node in frozen.graph_def.node]


def all_ops(frozen: FrozenGraph) -> set[str]:
    """Ops of all nodes, those of functions included."""
    inner = {node.op for function in frozen.graph_def.library.function for node in function.node_def}
    return inner | set(ops(frozen))


def assert_same(frozen: FrozenGraph, function: Any, *feeds: dict[str, Any]) -> None:
    """Checks that the frozen graph returns in a plain Session what the function does, in the order of its outputs."""
    with GraphRunner(frozen) as runner:
        for feed in feeds:
            expected = tf.nest.flatten(function(*feed.values()))
            for value, want in zip(runner.run(feed).values(), expected, strict=True):
                np.testing.assert_allclose(value, want.numpy(), rtol=1e-6, atol=1e-6)


def array(*shape: int) -> np.ndarray[Any, Any]:
    """Random float32 numbers, the same ones for the same shape."""
    return np.random.default_rng(sum(shape)).normal(size=shape).astype("float32")
