"""What is known of a tensor of a graph: its name, dtype and (partly unknown) shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Shape: TypeAlias = tuple[int | None, ...] | None
"""A static shape: None for an unknown dimension; None as a whole where even the rank is unknown."""


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Name, dtype and static shape of one tensor.

    Attributes:
        name: Tensor name with its output index, such as "input_ids:0".
        dtype: TensorFlow's name of the dtype, such as "float32", "int32", "bool", "string", "resource".
        shape: One entry a dimension, None where it is unknown; None as a whole where the rank is unknown.
        key: The name a user knows the tensor by (a Keras input or output name, a signature key); equal to the
            node's name where there is no other.
    """

    name: str
    dtype: str
    shape: Shape = None
    key: str = ""

    def __post_init__(self) -> None:
        if not self.key:
            object.__setattr__(self, "key", node_name(self.name))

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name} {self.dtype} <unknown rank>"
        return f"{self.name} {self.dtype} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"


def tensor_name(name: str) -> str:
    """Returns `name` with an output index: "a" and "a:0" both become "a:0". A leading "^" is not allowed."""
    return name if ":" in name else f"{name}:0"


def node_name(name: str) -> str:
    """Returns the node of a tensor or input reference: "a:1", "a" and "^a" all become "a"."""
    return name.removeprefix("^").split(":")[0]
