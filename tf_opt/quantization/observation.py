"""Runs a segment to see values inside it: a copy of it whose outputs are small results computed of these values.

ONNX Runtime computes it with the big constants as inputs: it copies and packs those of a model, which would take twice
their size. Nodes that observe stand right behind what they read and are run as soon as they can be, so that a tensor's
memory is free as soon as it has been seen: otherwise all of them would be alive together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from rich.progress import Progress

from tf_opt.errors import CalibrationError

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = Mapping[str, Array]

_FED_ELEMENTS = 4096
"""Constants of at least so many elements are fed, the others are written into the model."""

_AXES_AS_INPUT = 18
"""The opset from which reductions take their axes as an input; ReduceSum does from 13 on."""


class Observation:
    """A copy of a segment to which nodes are added that observe it."""

    def __init__(self, model: ir.Model) -> None:
        """Copies a segment; it and its constants are not changed.

        Args:
            model: The segment.
        """
        self._model = model.clone()
        self._graph = self._model.graph
        self._nodes = list(self._graph)
        self._opset = self._model.opset_imports.get("", 1)
        self._outputs: list[ir.Value] = []
        self._values = {value.name: value for value in self._graph.inputs}
        self._values |= {value.name: value for node in self._nodes for value in node.outputs}
        # Each node's place, and the last node that stands there; new nodes share the place of what they read.
        self._places = {id(node): place for place, node in enumerate(self._nodes)}
        self._last = list(self._nodes)

    def value(self, original: ir.Value) -> ir.Value:
        """Returns the copy of a value that the segment computes or takes."""
        return self._values[original.name]

    def constant(self, array: Array, name: str) -> ir.Value:
        """Adds a constant."""
        tensor = ir.tensor(array, name=name)
        shape = ir.Shape(array.shape)
        made = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        self._graph.register_initializer(made)
        return made

    def add(
        self, op: str, inputs: Sequence[ir.Value], name: str, attributes: Any = (), near: ir.Value | None = None
    ) -> ir.Value:
        """Adds a node right behind the last of what it reads, and returns its output.

        Args:
            op: Operator of ONNX.
            inputs: What it reads.
            name: Name of its output.
            attributes: Its attributes, as a mapping or as `ir.Attr` objects.
            near: What it is to stand behind, where it reads nothing that changes.
        """
        if isinstance(attributes, Mapping):
            node = ir.node(op, inputs, attributes, name=f"{name}_node")
        else:
            node = ir.Node("", op, inputs, attributes, name=f"{name}_node")
        node.outputs[0].name = name
        behind = [*inputs] if near is None else [*inputs, near]
        producers = [producer for value in behind if (producer := value.producer()) is not None]
        place = max((self._places[id(producer)] for producer in producers), default=0)
        if producers:
            self._graph.insert_after(self._last[place], node)
            self._last[place] = node
        else:
            self._graph.insert_before(self._nodes[0], node)
        self._places[id(node)] = place
        return node.outputs[0]

    def reduce(self, op: str, value: ir.Value, axes: Sequence[int] | None, name: str) -> ir.Value:
        """Adds a reduction over axes, or over all where they are None; the axes are gone in the result."""
        if axes is None:
            return self.add(op, [value], name, {"keepdims": 0})
        if self._opset >= _AXES_AS_INPUT or op == "ReduceSum":
            given = self.constant(np.asarray(axes, np.int64), f"{name}_axes")
            return self.add(op, [value, given], name, {"keepdims": 0})
        return self.add(op, [value], name, {"keepdims": 0, "axes": tuple(axes)})

    def show(self, value: ir.Value, shape: Sequence[int | None], dtype: ir.DataType = ir.DataType.FLOAT) -> None:
        """Makes a value the next output."""
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(shape)
        self._outputs.append(value)

    def run(self, feeds: Sequence[Feed], progress: Progress, description: str) -> list[list[Array]]:
        """Runs the feeds and returns for each what is shown, in order.

        Raises:
            CalibrationError: ONNX Runtime cannot run the segment.
        """
        import onnxruntime  # Heavy, and only int8 needs it.

        model, weights = self._finished()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # An arena would keep the memory of the largest activations until the session ends.
        options.enable_cpu_mem_arena = False
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        try:
            session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            known = {value.name for value in session.get_inputs()}
            observed = []
            for feed in progress.track(feeds, description=description):
                fed = {name: array for name, array in feed.items() if name in known}
                observed.append(session.run(None, {**fed, **weights}))
        except Exception as error:  # ONNX Runtime's exceptions share no base below Exception.
            raise CalibrationError(f"ONNX Runtime cannot run the segment to calibrate it: {error}") from error
        return observed

    def _finished(self) -> tuple[bytes, dict[str, Array]]:
        """Returns the model with what is shown as its outputs, and its weights by name."""
        from onnx_ir.passes.common import RemoveUnusedNodesPass

        graph = self._graph
        graph.outputs.clear()
        graph.outputs.extend(self._outputs)
        RemoveUnusedNodesPass()(self._model)
        weights: dict[str, Array] = {}
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            # Data in a file beside the model would be looked for in the working directory.
            if tensor is None or (tensor.size < _FED_ELEMENTS and not isinstance(tensor, ir.ExternalTensor)):
                continue
            weights[name] = np.ascontiguousarray(tensor.numpy())
            del graph.initializers[name]
            value.const_value = None
            graph.inputs.append(value)
        return ir.serde.serialize_model(self._model).SerializeToString(), weights


def is_finite(arrays: Iterable[Array]) -> bool:
    """Whether all numbers of all arrays are."""
    return all(bool(np.isfinite(array).all()) for array in arrays)
