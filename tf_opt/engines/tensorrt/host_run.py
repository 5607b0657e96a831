"""One call with tensors in host memory: through pinned memory, on the slot's own stream."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tf_opt.engines.tensorrt import cuda
from tf_opt.engines.tensorrt.buffers import Layout, aligned_empty, array_over, byte_size
from tf_opt.engines.tensorrt.context_slot import CallKey, ContextSlot
from tf_opt.engines.tensorrt.staging import Staging, make_staging
from tf_opt.errors import CudaError, TfOptError

if TYPE_CHECKING:
    from tf_opt.ops.python_runtime import Array, Outputs

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class GraphPolicy:
    """Which calls of an engine become CUDA graphs.

    Attributes:
        allowed: Whether any do.
        refused: Calls that could not be captured once; they are not tried again.
    """

    allowed: bool
    refused: set[CallKey] = field(default_factory=set)


def run_from_host(
    slot: ContextSlot,
    graphs: GraphPolicy,
    key: CallKey,
    profile: int,
    arrays: Mapping[str, Array],
    outputs: Outputs,
) -> None:
    """Copies inputs to the GPU, runs, and copies outputs back.

    Args:
        slot: Used by nobody else meanwhile.
        graphs: What is known of the engine's CUDA graphs.
        key: Equal for calls with equal profile and shapes.
        profile: Index of the profile to use.
        arrays: Every input, in the engine's type.
        outputs: Where the outputs go.
    """
    driver, stream = cuda.cuda_driver(), slot.stream
    slot.begin(stream)
    try:
        if slot.graph_key == key and slot.staging is not None:
            _fill(slot.staging, arrays)
            slot.launch()
        else:
            _run_plainly_or_capture(slot, graphs, key, profile, arrays)
        dynamic = _enqueue_dynamic_outputs(slot, stream)
        driver.synchronize_stream(stream)
    except BaseException:
        # What was enqueued before the failure still reads and writes the slot's memory.
        with contextlib.suppress(CudaError):
            driver.synchronize_stream(stream)
        raise
    slot.finished()
    views = {**slot.staging.outputs.views, **dynamic} if slot.staging is not None else dynamic
    for tensor in slot.border.outputs:
        view = views[tensor.name]
        np.copyto(outputs.allocate(tensor.index, view.shape, tensor.tensorflow_dtype), view)


def _run_plainly_or_capture(
    slot: ContextSlot, graphs: GraphPolicy, key: CallKey, profile: int, arrays: Mapping[str, Array]
) -> None:
    shapes = {name: array.shape for name, array in arrays.items()}
    # A run with the same shapes has to come before a capture: TensorRT puts off part of its work until then.
    ran_before = slot.key == key
    host_values = {name: aligned_empty(shapes[name], arrays[name].dtype) for name in slot.border.host_inputs}
    for name, array in host_values.items():
        np.copyto(array, arrays[name])
    slot.host_values = host_values  # TensorRT reads them until the run is enqueued.
    host_inputs = {name: array.ctypes.data for name, array in host_values.items()}
    slot.prepare(key, profile, shapes, host_inputs, slot.stream)
    if slot.staging is None or slot.staging.key != key:
        slot.staging = None
        slot.staging = make_staging(slot, key, shapes)
    staging = slot.staging
    slot.set_addresses({**staging.inputs.addresses, **staging.outputs.addresses})
    _fill(staging, arrays)
    if graphs.allowed and ran_before and not slot.has_dynamic_outputs and key not in graphs.refused:
        try:
            slot.capture(key, lambda: _enqueue(slot, staging))
        except TfOptError as error:
            logger.info("A CUDA graph of %s cannot be captured, its runs are enqueued one by one: %s", slot.name, error)
            graphs.refused.add(key)
        else:
            slot.launch()
            return
    _enqueue(slot, staging)


def _fill(staging: Staging, arrays: Mapping[str, Array]) -> None:
    for name, view in staging.inputs.views.items():
        np.copyto(view, arrays[name])


def _enqueue(slot: ContextSlot, staging: Staging) -> None:
    driver, stream = cuda.cuda_driver(), slot.stream
    if staging.inputs.size:
        driver.copy_to_device(staging.inputs.device, staging.inputs.pinned, staging.inputs.size, stream)
    slot.execute(stream)
    if staging.outputs.size:
        driver.copy_to_host(staging.outputs.pinned, staging.outputs.device, staging.outputs.size, stream)


def _enqueue_dynamic_outputs(slot: ContextSlot, stream: int) -> dict[str, Array]:
    """Returns the outputs whose size depends on values, in host memory that is filled once the stream is done."""
    if not slot.allocators:
        return {}
    driver = cuda.cuda_driver()
    tensors = [tensor for tensor in slot.border.outputs if tensor.name in slot.allocators]
    places = {tensor.name: slot.dynamic_output(tensor.name, stream) for tensor in tensors}
    layout = Layout.of((each.name, byte_size(places[each.name][1], each.dtype)) for each in tensors)
    pinned = slot.pinned_dynamic.ensure(layout.size)
    views = {}
    for tensor in tensors:
        source, shape = places[tensor.name]
        size, target = byte_size(shape, tensor.dtype), pinned + layout.offsets[tensor.name]
        if size:
            driver.copy_to_host(target, source, size, stream)
        views[tensor.name] = array_over(target, shape, tensor.dtype)
    return views
