"""Exports an extracted segment to ONNX through tf2onnx, with its weights as graph inputs.

tf2onnx copies every constant several times on its way, so that its time grows with the bytes of a model. Here the
weights are placeholders while it works: the time grows with nodes alone. The exported model keeps them as graph inputs
named `weight_<i>`; an engine binds them to the constants that the TensorFlow graph holds anyway. `attach_initializers`
makes a self-contained ONNX model of the two where one is wanted (a dump, a backend that reads files).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import numpy_helper
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import ExportError, ExporterVersionError, InvalidOptionError
from tf_opt.reproducible_model import make_reproducible
from tf_opt.tf2onnx_parts import optimizers, part

DEFAULT_OPSET = 17
"""The newest ONNX opset that every supported engine reads: TensorRT 8.5 and 8.6 stop at 17."""

SUPPORTED_OPSETS = range(13, 19)
"""Opset 13 is the first in which Squeeze, Unsqueeze and ReduceSum take axes as inputs; tf2onnx ends at 18."""

_ONNX_IR_VERSION = 8
"""The format version that belongs to opset 17; readers older than the installed onnx package accept it."""

_NAME_IN_LOG = re.compile(r"(?:Failed to convert node '|[Tt]ensorflow op \[)([^'\]:]+)")
"""How tf2onnx names the node that it failed on, in its log and in its exceptions."""

# tf2onnx keeps converter state (functions, custom handlers) in module globals, so that two conversions at once would
# mix.
_conversion_lock = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class ExportedSegment:
    """A segment as ONNX.

    Attributes:
        model: ModelProto whose graph inputs are `input_<i>` and then `weight_<i>`, and whose outputs are `output_<i>`.
        input_count: Number of `input_<i>`.
        weight_count: Number of `weight_<i>`.
        opset: Version of the default operator set.
    """

    model: onnx.ModelProto
    input_count: int
    weight_count: int
    opset: int


def check_opset(opset: int) -> int:
    """Returns `opset` if segments can be exported with it.

    Raises:
        InvalidOptionError: It is no version that both tf2onnx and the engines know.
    """
    if isinstance(opset, bool) or not isinstance(opset, int) or opset not in SUPPORTED_OPSETS:
        raise InvalidOptionError(
            f"opset is {opset!r}; expected an integer from {SUPPORTED_OPSETS.start} to {SUPPORTED_OPSETS.stop - 1}. "
            f"Leave it out to use {DEFAULT_OPSET}, which every engine reads."
        )
    return opset


@cache
def convertible_ops(opset: int = DEFAULT_OPSET) -> frozenset[str]:
    """Returns the names of the TensorFlow ops that tf2onnx converts to `opset`.

    Raises:
        ExporterVersionError: The installed tf2onnx is one that tf_opt cannot export with.
    """
    part("process_tf_graph")  # Its module registers the handlers.
    versions = part("handlers").get_opsets()[""]
    return frozenset(name for handlers in versions[: opset + 1] for name in handlers)


class _LogCollector(logging.Handler):
    """Collects what tf2onnx logs as errors: it says there, and only there, which node it failed on."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _names(graph_def: graph_pb2.GraphDef, prefix: str, count: int | None) -> list[str]:
    """Returns the node names `<prefix>_0`, `<prefix>_1`, ... of an extracted segment in the order of their numbers."""
    if count is not None:
        return [f"{prefix}_{number}" for number in range(count)]
    pattern = re.compile(rf"{prefix}_(\d+)")
    numbers = sorted(int(match[1]) for node in graph_def.node if (match := pattern.fullmatch(node.name)))
    return [f"{prefix}_{number}" for number in numbers]


def _convert_select(context: Any, node: Any, name: str, arguments: Sequence[Any]) -> None:
    """Converts Select and SelectV2 to Where.

    tf2onnx alone writes condition * x + (1 - condition) * y unless it sees a NaN or an infinity among the constants,
    which turns an infinity in the branch that is not taken (a mask of -inf, say) into NaN.
    """
    node.set_attr("handles_nan", 1)
    part("Select").version_9(context, node)
    del node.attr["handles_nan"]  # No attribute of Where.


def _convert(segment_graph: graph_pb2.GraphDef, inputs: list[str], outputs: list[str], opset: int) -> onnx.ModelProto:
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(segment_graph, name="")
    rename = {f"{name}:0": name for name in inputs + outputs}
    with tf.compat.v1.Session(graph=graph):
        onnx_graph = part("process_tf_graph")(
            graph,
            opset=opset,
            input_names=[f"{name}:0" for name in inputs],
            output_names=[f"{name}:0" for name in outputs],
            tensors_to_rename=rename,
            custom_op_handlers={"Select": (_convert_select, []), "SelectV2": (_convert_select, [])},
        )
    # catch_errors copies the whole graph before each of its optimizers, only to go back where one fails; that is most
    # of its time. An optimizer that fails fails the export instead, and the segment stays TensorFlow.
    known = {node.name for node in segment_graph.node}
    onnx_graph = part("optimize_graph")(onnx_graph, catch_errors=False, optimizers=optimizers(known))
    model: onnx.ModelProto = onnx_graph.make_model("segment")
    return model


def export_segment(
    segment_graph: graph_pb2.GraphDef,
    opset: int = DEFAULT_OPSET,
    input_count: int | None = None,
    weight_count: int | None = None,
    output_count: int | None = None,
) -> ExportedSegment:
    """Converts an extracted segment to ONNX, its weights being graph inputs.

    Args:
        segment_graph: What `extract_segment` returns: Placeholders `input_<i>` and `weight_<i>`, Identity nodes
            `output_<i>`, and the compute nodes between them.
        opset: Version of ONNX's default operator set.
        input_count: Number of `input_<i>`; None counts the nodes of such names, which a node inside may have too.
        weight_count: Number of `weight_<i>`; likewise.
        output_count: Number of `output_<i>`; likewise.

    Raises:
        ExportError: tf2onnx does not convert a node. `nodes` of the error holds the names that it blamed, as far as it
            named any.
        ExporterVersionError: The installed tf2onnx is one that tf_opt cannot export with.
    """
    check_opset(opset)
    counts = {"input": input_count, "weight": weight_count, "output": output_count}
    inputs, weights, outputs = (_names(segment_graph, prefix, count) for prefix, count in counts.items())
    collector = _LogCollector()
    logger = logging.getLogger("tf2onnx")
    with _conversion_lock:
        level, propagate = logger.level, logger.propagate
        logger.addHandler(collector)
        logger.propagate = False  # Its errors travel in the exception below; printed as well, they would be said twice.
        logger.setLevel(logging.ERROR)
        try:
            model = _convert(segment_graph, inputs + weights, outputs, opset)
        except ExporterVersionError:
            raise
        except Exception as error:
            text = "\n".join([*collector.messages, str(error)])
            known = {node.name for node in segment_graph.node}
            nodes = tuple(dict.fromkeys(name for name in _NAME_IN_LOG.findall(text) if name in known))
            raise ExportError(f"tf2onnx could not convert the segment to opset {opset}: {text}", nodes=nodes) from error
        finally:
            logger.removeHandler(collector)
            logger.setLevel(level)
            logger.propagate = propagate
    _refuse_leftovers(model, opset)
    _declare_interface(model, inputs + weights, outputs, segment_graph)
    make_reproducible(model, {node.name for node in segment_graph.node})
    model.ir_version = _ONNX_IR_VERSION
    return ExportedSegment(model=model, input_count=len(inputs), weight_count=len(weights), opset=opset)


def _refuse_leftovers(model: onnx.ModelProto, opset: int) -> None:
    """Raises where tf2onnx left TensorFlow nodes in the model: it logs them, and returns the model all the same."""
    leftovers = [node for node in model.graph.node if not node.domain and not onnx.defs.has(node.op_type, opset)]
    if leftovers:
        listed = ", ".join(f"{node.name} ({node.op_type})" for node in leftovers)
        raise ExportError(
            f"tf2onnx has no conversion to opset {opset} for: {listed}", nodes=tuple(node.name for node in leftovers)
        )


def _declare_interface(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str], segment_graph: graph_pb2.GraphDef
) -> None:
    """Brings the graph's inputs and outputs into the order of their numbers, and declares inputs that nothing uses.

    The engine op hands tensors over by position. tf2onnx sorts inputs by its own order and may drop one whose only use
    (its shape, say) was folded away.
    """
    graph = model.graph
    declared = {value.name: value for value in graph.input}
    dtypes = {node.name: node for node in segment_graph.node}
    ordered = []
    for name in inputs:
        value = declared.get(name)
        if value is None:
            node = dtypes[name]
            dtype = tf.as_dtype(node.attr["dtype"].type)
            shape = tf.TensorShape(node.attr["shape"].shape)
            value = onnx.helper.make_tensor_value_info(
                name,
                onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype.as_numpy_dtype)),
                None if shape.rank is None else shape.as_list(),
            )
        ordered.append(value)
    produced = {value.name: value for value in graph.output}
    missing = [name for name in outputs if name not in produced]
    if missing:
        raise ExportError(f"tf2onnx lost the outputs {missing} of the segment; it returned {sorted(produced)}.")
    ordered_outputs = [produced[name] for name in outputs]
    del graph.input[:]
    graph.input.extend(ordered)
    del graph.output[:]
    graph.output.extend(ordered_outputs)


def attach_initializers(model: onnx.ModelProto, weights: Mapping[str, np.ndarray[Any, Any]]) -> onnx.ModelProto:
    """Returns a copy of `model` in which the graph inputs named in `weights` are initializers.

    The result is limited to protobuf's 2 GB when it is serialized; save it with external data above that.

    Args:
        model: An exported segment's model.
        weights: Arrays by graph input name (`weight_<i>`), dtype and shape as declared.

    Raises:
        ExportError: A name is no graph input of the model.
    """
    unknown = sorted(set(weights) - {value.name for value in model.graph.input})
    if unknown:
        raise ExportError(f"{unknown} are no inputs of the model, so no weights can be attached to them.")
    attached = onnx.ModelProto()
    attached.CopyFrom(model)
    remaining = [value for value in attached.graph.input if value.name not in weights]
    del attached.graph.input[:]
    attached.graph.input.extend(remaining)
    attached.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return attached
