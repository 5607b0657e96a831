"""Errors of a graph that runs, in a line: TensorFlow's messages come with stack traces of graphs and of Python."""

from __future__ import annotations

import re

import tensorflow as tf

from tf_opt.errors import OriginalGraphError, TfOptError, UnknownOpError

_FRAME = re.compile(r"Graph execution error:|Detected at node |Node: |Traceback \(most|File \"|\[\[|Errors may have")
_NODE = re.compile(r"\{\{node ([^}]+)\}\}")
_MAXIMUM_LENGTH = 500


def brief_message(error: tf.errors.OpError) -> str:
    """Returns the reason that an error gives, and the node where it names one, without a full stop at the end."""
    message = str(error.message)
    # What is indented is code that a stack trace quotes; the reason itself starts a line.
    lines = [line.rstrip() for line in message.split("Original stack trace")[0].splitlines()]
    reasons = dict.fromkeys(line for line in lines if line[:1].strip() and not _FRAME.match(line))
    reason = "; ".join(list(reasons)[:2]) or type(error).__name__
    if len(reason) > _MAXIMUM_LENGTH:
        reason = f"{reason[:_MAXIMUM_LENGTH]} …"
    node = _NODE.search(message)
    reason = _NODE.sub(r"\1", reason).rstrip(". ")
    return f"{reason} (node {node[1]!r})" if node and node[1] not in reason else reason


def original_graph_error(error: tf.errors.OpError, number: int) -> TfOptError:
    """Returns what is raised where the graph that is to be optimized fails.

    Args:
        error: What TensorFlow raised.
        number: Of the feed, counted from 0.
    """
    if "No OpKernel was registered" in str(error):
        return UnknownOpError(
            f"The graph has an op that no kernel of this TensorFlow runs: {brief_message(error)}. Load the library "
            "that brings the kernel, or place the node on a device that has one."
        )
    return OriginalGraphError(
        f"The original graph fails on feed {number} (counted from 0): {brief_message(error)}. Correct the feed, or the "
        "graph."
    )
