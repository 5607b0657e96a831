"""Runs TensorRT engines behind the op: from host tensors, and from TensorFlow's GPU tensors on its own stream."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tf_opt.engines.tensorrt import cuda, profiles, versions
from tf_opt.engines.tensorrt.backend import ORDINAL
from tf_opt.engines.tensorrt.bindings import tensorrt_module
from tf_opt.engines.tensorrt.border import Border, describe_border
from tf_opt.engines.tensorrt.context_pool import ContextPool
from tf_opt.engines.tensorrt.context_slot import CallKey, ContextSlot, Shape
from tf_opt.engines.tensorrt.data_types import convert_input
from tf_opt.engines.tensorrt.device_run import enqueue_on_device, read_host_values
from tf_opt.engines.tensorrt.host_run import GraphPolicy, run_from_host
from tf_opt.engines.tensorrt.logger import captured_messages, shared_logger
from tf_opt.engines.tensorrt.plan_builder import PlanSource
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.errors import EngineRunError

if TYPE_CHECKING:
    import tensorrt as trt

    from tf_opt.ops.python_runtime import Array, DeviceArray, DeviceOutputs, EngineDefinition, Outputs

logger = logging.getLogger(__name__)


def load_engine(definition: EngineDefinition) -> TensorRTEngine:
    """Makes an engine of a stored model and the graph's constants; the op's Python runtime calls it.

    The plan comes from the plan cache. Where there is none for this GPU, this TensorRT and these weights, it is built
    now, which takes as long as it did when the graph was optimized; a warning says so.

    Args:
        definition: What the engine node stores, and where it runs.

    Raises:
        EngineUnavailableError: There is no GPU or no TensorRT.
        EngineBuildError: There was no plan, and TensorRT does not build one here.
        EngineRunError: The plan does not load, or does not fit the node.
    """
    tensorrt_module()
    header = definition.header
    settings = TensorRTSettings.from_dict(header["settings"])
    ranges = profiles.from_plain(header["profiles"])
    ordinal = ORDINAL if definition.device is None else definition.device
    cuda.cuda_driver().activate(ordinal)
    source = PlanSource(
        name=definition.segment_name,
        content=definition.payload,
        weight_array=definition.weights.__getitem__,
        settings=settings,
        ranges=ranges,
        ordinal=ordinal,
        stored=True,
    )
    runtime, engine = _deserialize(source, settings)
    border = describe_border(engine, header["input_dtypes"], header["output_dtypes"], ranges)
    labels = {f"input_{i}": text.split()[0] for i, text in enumerate(header.get("inputs", ()))}
    border = replace(border, profiles=replace(border.profiles, labels=labels))
    # Where TensorRT has other types than TensorFlow, the op copies through the host, where values are checked.
    kind = DeviceTensorRTEngine if border.has_tensorflow_types else TensorRTEngine
    return kind(definition.segment_name, runtime, engine, border, settings, ordinal)


def _deserialize(source: PlanSource, settings: TensorRTSettings) -> tuple[trt.Runtime, trt.ICudaEngine]:
    import tensorrt as trt

    runtime = trt.Runtime(shared_logger())
    if settings.version_compatible:
        runtime.engine_host_code_allowed = True  # The small runtime that such a plan carries is code.
    with captured_messages() as lines:
        plan = source.plan(expected=True)
        engine = runtime.deserialize_cuda_engine(plan)
        # A second time where the first plan was another GPU's, and the one of this GPU is stored but does not load.
        for _ in range(2):
            if engine is not None or source.is_new:
                break
            logger.warning("TensorRT does not load the stored plan of %s; it is built again.", source.name)
            plan = source.rebuild(plan)
            engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineRunError(
            f"TensorRT does not load the plan of {source.name}. It says: {'; '.join(lines) or 'nothing'}"
        )
    if settings.strip_weights:
        source.refit(engine)
    return runtime, engine


class TensorRTEngine:
    """An engine with its execution contexts. May be called from several threads at once."""

    def __init__(
        self,
        name: str,
        runtime: trt.Runtime,
        engine: trt.ICudaEngine,
        border: Border,
        settings: TensorRTSettings,
        ordinal: int,
    ) -> None:
        """Takes over the engine and creates its first context.

        Args:
            name: Of the segment, for messages.
            runtime: That the engine came from; it has to live longer than the engine.
            engine: The engine.
            border: Its inputs and outputs.
            settings: How it is run.
            ordinal: The GPU that it is on.
        """
        self.name = name
        self.border = border
        self.ordinal = ordinal
        self._runtime: trt.Runtime | None = runtime
        self._engine: trt.ICudaEngine | None = engine
        self._closing = threading.Lock()
        # Inputs that hold a shape are read on the host when a run is enqueued, so they are no part of a graph.
        self._graphs = GraphPolicy(allowed=settings.cuda_graphs and not border.host_inputs)
        self._pool = ContextPool(lambda: ContextSlot(engine, border, name), versions.maximum_contexts(settings))

    @property
    def context_count(self) -> int:
        """How many execution contexts there are."""
        return self._pool.count

    def run(self, inputs: Sequence[Array], outputs: Outputs) -> None:
        """Runs once on tensors in host memory; see `PythonEngine.run`.

        Raises:
            UnsupportedShapeError: No profile has these shapes, or a value does not fit the engine's type.
            EngineRunError: TensorRT does not run.
        """
        cuda.cuda_driver().activate(self.ordinal)
        arrays = {
            tensor.name: convert_input(tensor.name, inputs[tensor.index], tensor.dtype) for tensor in self.border.inputs
        }
        shapes = {name: array.shape for name, array in arrays.items()}
        key, profile = self._key("host", shapes, {name: arrays[name] for name in self.border.host_inputs})
        slot = self._pool.acquire(key, profile)
        try:
            run_from_host(slot, self._graphs, key, profile, arrays, outputs)
        finally:
            self._pool.release(slot)

    def close(self) -> None:
        """Frees contexts, engine and runtime, in this order, once running calls have ended."""
        with self._closing:
            if self._engine is None:
                return
            cuda.cuda_driver().activate(self.ordinal)
            self._pool.close()
            self._engine = None
            self._runtime = None

    def _key(self, kind: str, shapes: Mapping[str, Shape], host_values: Mapping[str, Array]) -> tuple[CallKey, int]:
        """Returns what state a call needs of a context, and the profile; raises UnsupportedShapeError for none."""
        values = {name: tuple(array.reshape(-1).tolist()) for name, array in host_values.items()}
        profile = self.border.profiles.choose(shapes, values)
        return (kind, profile, tuple(shapes.values()), tuple(values.values())), profile


class DeviceTensorRTEngine(TensorRTEngine):
    """An engine whose inputs and outputs can be TensorFlow's GPU tensors."""

    def run_on_device(self, inputs: Sequence[DeviceArray], outputs: DeviceOutputs, stream: int) -> None:
        """Enqueues one run on TensorFlow's stream; see `DeviceEngine.run_on_device`.

        Nothing is copied and nothing waited for, but for inputs whose values are a shape: TensorRT reads these on the
        host. Raises as `run` does.
        """
        cuda.cuda_driver().activate(self.ordinal)
        host_values = read_host_values(self.border, inputs, stream)
        shapes = {tensor.name: inputs[tensor.index].shape for tensor in self.border.inputs}
        key, profile = self._key("device", shapes, host_values)
        slot = self._pool.acquire(key, profile)
        try:
            enqueue_on_device(slot, key, profile, inputs, host_values, outputs, stream)
        finally:
            self._pool.release(slot)
