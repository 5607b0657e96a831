"""The form of a model that every step of tf_opt takes and returns: a GraphDef without variables, and its border."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.message import EncodeError
from tensorflow.core.framework import graph_pb2

from tf_opt.errors import FreezeError, InvalidFeedError, UnknownOutputError, did_you_mean
from tf_opt.files import write_bytes
from tf_opt.tensor_info import TensorInfo, tensor_name
from tf_opt.weights import detach_weights


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphBorder:
    """The tensors by which a user feeds and fetches a graph.

    Attributes:
        inputs: The placeholders to feed, in the model's order.
        outputs: The tensors to fetch, in the model's order.
        assertions: How many of the model's own checks (tf.debugging.assert_less and the like) freezing took out.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    assertions: int = 0

    @property
    def input_names(self) -> tuple[str, ...]:
        """Tensor names of the inputs, such as "input_ids:0"."""
        return tuple(info.name for info in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Tensor names of the outputs, such as "Identity:0"."""
        return tuple(info.name for info in self.outputs)


# Compared by identity: nobody wants to compare weights byte by byte, and a graph can be the key of a cache.
@dataclass(frozen=True, kw_only=True, eq=False)
class FrozenGraph(GraphBorder):
    """A GraphDef that holds its weights as constants, and the tensors by which a user feeds and fetches it.

    Attributes:
        graph_def: The graph. Treat it as read-only: whatever takes a FrozenGraph may share it.
    """

    graph_def: graph_pb2.GraphDef = field(repr=False)  # Text of all the weights would take minutes.

    @property
    def size_bytes(self) -> int:
        """Bytes of the weights as they lie in memory, plus the serialized size of everything else.

        It is within some bytes a weight of the serialized size, which would cost a serialization to know.
        """
        light, weights = detach_weights(self.graph_def)
        return int(light.ByteSize()) + weights.size_bytes

    def input(self, name: str) -> TensorInfo:
        """Returns the input known as `name`: a key ("input_ids"), node or tensor name.

        Raises:
            InvalidFeedError: There is no such input; the message lists those there are.
        """
        found = find_tensor(self.inputs, name)
        if found is None:
            raise InvalidFeedError(_unknown("input", name, self.inputs))
        return found

    def output(self, name: str) -> TensorInfo:
        """Returns the output known as `name`: a key ("pooler_output"), node or tensor name.

        Raises:
            UnknownOutputError: There is no such output; the message lists those there are.
        """
        found = find_tensor(self.outputs, name)
        if found is None:
            raise UnknownOutputError(_unknown("output", name, self.outputs))
        return found

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the GraphDef: as text where `path` ends in .pbtxt, in protobuf's binary form otherwise.

        The file appears under its name only once it is complete, so that a reader never sees half of it.

        Raises:
            FreezeError: The graph is above protobuf's limit of 2 GB.
            OutputWriteError: The disk is full, or something else keeps it from being written.
        """
        target = Path(path)
        try:
            if target.suffix == ".pbtxt":
                content = text_format.MessageToString(self.graph_def).encode()
            else:
                content = self.graph_def.SerializeToString()
        except (EncodeError, ValueError) as error:
            raise FreezeError(
                f"The graph of about {self.size_bytes / 1e9:.1f} GB cannot be written to {target}: a protobuf message "
                "ends at 2 GB. Write it as a SavedModel, or store the weights as float16."
            ) from error
        write_bytes(target, content)
        return target


def find_tensor(tensors: Sequence[TensorInfo], name: str) -> TensorInfo | None:
    """Returns the entry of `tensors` with this key or, where no key matches, this node or tensor name."""
    for info in tensors:
        if info.key == name:
            return info
    for info in tensors:
        if info.name == tensor_name(name):
            return info
    return None


def _unknown(kind: str, name: str, tensors: Sequence[TensorInfo]) -> str:
    known = ", ".join(repr(info.key) for info in tensors) or "none"
    candidates = [candidate for info in tensors for candidate in (info.key, info.name)]
    return f"The graph has no {kind} {name!r}.{did_you_mean(name, candidates)} Its {kind}s: {known}."
