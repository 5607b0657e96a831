"""Where a slot's tensors lie between TensorFlow's host memory and the GPU: one block each way, so one copy each way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tf_opt.engines.tensorrt.border import BorderTensor
from tf_opt.engines.tensorrt.buffers import Layout, array_over, byte_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tf_opt.engines.tensorrt.context_slot import ContextSlot
    from tf_opt.ops.python_runtime import Array


@dataclass(frozen=True, kw_only=True)
class Block:
    """Tensors in one block of pinned memory, and the same in one block of GPU memory.

    Attributes:
        pinned: Address of the block in host memory.
        device: Address of the block in GPU memory.
        size: Of either; 0 where there are no tensors.
        views: Each tensor in host memory, by name.
        addresses: Each tensor in GPU memory, by name.
    """

    pinned: int
    device: int
    size: int
    views: Mapping[str, Array]
    addresses: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Staging:
    """Both blocks of a call, valid as long as calls with the same key use the slot.

    Attributes:
        key: Of the calls.
        inputs: What goes to the GPU.
        outputs: What comes back; outputs whose size depends on values are not among them.
    """

    key: Any
    inputs: Block
    outputs: Block


def make_staging(slot: ContextSlot, key: Any, shapes: Mapping[str, tuple[int, ...]]) -> Staging:
    """Returns the staging of a call; the slot's buffers grow where they have to, which moves them.

    Args:
        slot: Prepared for the call.
        key: Of the call.
        shapes: Of every input.
    """
    inputs = [tensor for tensor in slot.border.inputs if not tensor.on_host]
    outputs = [tensor for tensor in slot.border.outputs if tensor.name not in slot.allocators]
    return Staging(
        key=key,
        inputs=_block(slot, inputs, shapes, slot.pinned_inputs, slot.inputs),
        outputs=_block(slot, outputs, slot.output_shapes, slot.pinned_outputs, slot.outputs),
    )


def _block(
    slot: ContextSlot, tensors: Sequence[BorderTensor], shapes: Mapping[str, tuple[int, ...]], pinned: Any, device: Any
) -> Block:
    layout = Layout.of((tensor.name, byte_size(shapes[tensor.name], tensor.dtype)) for tensor in tensors)
    if layout.size == 0:
        return Block(pinned=0, device=0, size=0, views={}, addresses={})
    host, gpu = pinned.ensure(layout.size), slot.room(device, layout.size)
    views, addresses = {}, {}
    for tensor in tensors:
        offset = layout.offsets[tensor.name]
        views[tensor.name] = array_over(host + offset, shapes[tensor.name], tensor.dtype)
        addresses[tensor.name] = gpu + offset
    return Block(pinned=host, device=gpu, size=layout.size, views=views, addresses=addresses)
