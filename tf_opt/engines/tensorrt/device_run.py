"""One call with TensorFlow's GPU tensors: enqueued on TensorFlow's stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tf_opt.engines.tensorrt import cuda
from tf_opt.engines.tensorrt.border import Border
from tf_opt.engines.tensorrt.buffers import ALIGNMENT, Layout, aligned_empty, byte_size
from tf_opt.engines.tensorrt.context_slot import CallKey, ContextSlot, Shape

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array, DeviceArray, DeviceOutputs


def read_host_values(border: Border, inputs: Sequence[DeviceArray], stream: int) -> dict[str, Array]:
    """Returns the inputs whose values are a shape, which TensorRT reads on the host; waits for the stream for them."""
    driver, values = cuda.cuda_driver(), {}
    for tensor in border.inputs:
        if tensor.on_host:
            given = inputs[tensor.index]
            values[tensor.name] = aligned_empty(given.shape, tensor.dtype)
            if values[tensor.name].nbytes:
                driver.copy_to_host(values[tensor.name].ctypes.data, given.address, values[tensor.name].nbytes, stream)
    if values:
        driver.synchronize_stream(stream)
    return values


def enqueue_on_device(
    slot: ContextSlot,
    key: CallKey,
    profile: int,
    inputs: Sequence[DeviceArray],
    host_values: Mapping[str, Array],
    outputs: DeviceOutputs,
    stream: int,
) -> None:
    """Enqueues one run and returns without waiting for it.

    Args:
        slot: Used by nobody else until this returns; what it has enqueued by then goes on.
        key: Equal for calls with equal profile and shapes.
        profile: Index of the profile to use.
        inputs: The op's inputs in GPU memory.
        host_values: What `read_host_values` returned.
        outputs: Gives TensorFlow's memory.
        stream: TensorFlow's.
    """
    slot.begin(stream)
    try:
        shapes = {tensor.name: inputs[tensor.index].shape for tensor in slot.border.inputs}
        slot.prepare(key, profile, shapes, {name: each.ctypes.data for name, each in host_values.items()}, stream)
        _enqueue(slot, inputs, outputs, stream)
    finally:
        slot.end(stream)


def _enqueue(slot: ContextSlot, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
    driver, border = cuda.cuda_driver(), slot.border
    sizes: dict[str, int] = {}
    given: dict[str, int] = {}
    for tensor in border.inputs:
        if not tensor.on_host:
            array = inputs[tensor.index]
            given[tensor.name], sizes[tensor.name] = array.address, byte_size(array.shape, tensor.dtype)
    input_names = list(given)
    for tensor in border.outputs:
        if tensor.name not in slot.allocators:
            shape: Shape = slot.output_shapes[tensor.name]
            given[tensor.name] = outputs.allocate(tensor.index, shape, tensor.dtype)
            sizes[tensor.name] = byte_size(shape, tensor.dtype)
    # Parts of larger tensors may begin anywhere, and empty ones have no address: these take a place of the slot's own.
    unfit = [name for name, address in given.items() if sizes[name] == 0 or address % ALIGNMENT]
    addresses = dict(given)
    if unfit:
        layout = Layout.of((name, sizes[name]) for name in unfit)
        base = slot.room(slot.scratch, layout.size)
        addresses.update((name, base + layout.offsets[name]) for name in unfit)
    slot.set_addresses(addresses)
    moved = [name for name in unfit if sizes[name]]
    for name in moved:
        if name in input_names:
            driver.copy_on_device(addresses[name], given[name], sizes[name], stream)
    slot.execute(stream)
    for name in moved:
        if name not in input_names:
            driver.copy_on_device(given[name], addresses[name], sizes[name], stream)
    for tensor in border.outputs:
        if tensor.name in slot.allocators:
            source, shape = slot.dynamic_output(tensor.name, stream)
            target = outputs.allocate(tensor.index, shape, tensor.dtype)
            if size := byte_size(shape, tensor.dtype):
                driver.copy_on_device(target, source, size, stream)
