"""Checks the calibration feeds, and collects what flows into each matrix product when they run.

ONNX Runtime computes the segment with the big constants as inputs: it copies and packs those of a model, which would
take twice their size. Only a sample of rows and each channel's range leave the session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from rich.progress import Progress

from tf_opt.errors import CalibrationError
from tf_opt.quantization.layers import Layer
from tf_opt.quantization.settings import QuantizationSettings

Array: TypeAlias = np.ndarray[Any, Any]
Feed: TypeAlias = Mapping[str, Array]

SAMPLED_ROWS = 512
"""Rows of each tensor that are kept for the search. The mean cosine of MiniLM's embeddings was 0.9967 with 128, 0.9971
with 256, 0.9977 with 512 and 0.9976 with 1024."""

FEWEST_ROWS = 160
"""Below this a note says that there are too few. The worst of 200 sentence embeddings of MiniLM had a cosine to the
original of 0.985 with ranges from 126 tokens, and of 0.994 to 0.996 with those from 178 to 900."""

_FED_ELEMENTS = 4096
"""Constants of at least so many elements are fed, the others are written into the model."""

_AXES_AS_INPUT = 18
"""The opset from which reductions take their axes as an input."""


@dataclass(frozen=True, kw_only=True)
class ActivationSample:
    """What flowed into the layers that read one tensor.

    Attributes:
        rows: Some rows, evenly spread over the feeds, [R, K].
        low: Smallest value of each channel over all rows, [K].
        high: Largest, [K].
    """

    rows: Array = field(repr=False)
    low: Array = field(repr=False)
    high: Array = field(repr=False)


def select_feeds(
    model: ir.Model, calibration: Iterable[Feed], settings: QuantizationSettings
) -> tuple[list[dict[str, Array]], tuple[str, ...]]:
    """Returns the feeds to calibrate with, and what is to be said about them.

    Of a list, feeds are taken evenly spaced; an iterator is read until there are enough.

    Args:
        model: The segment; says names, dtypes and shapes of its inputs.
        calibration: Arrays by graph input name, one mapping a feed.
        settings: How many feeds and rows to use.

    Raises:
        CalibrationError: There is no feed, or one does not fit the inputs.
    """
    if isinstance(calibration, Mapping):
        raise CalibrationError("The calibration data is a single mapping; expected a list of them, one for each feed.")
    if isinstance(calibration, Sequence):
        chosen = [_checked(model, calibration[index]) for index in _spread(len(calibration), settings.maximum_samples)]
        total = sum(map(_row_count, chosen))
        if total > settings.maximum_rows:
            fitting = max(1, len(chosen) * settings.maximum_rows // total)
            chosen = [chosen[index] for index in _spread(len(chosen), fitting)]
    else:
        chosen, total = [], 0
        for feed in calibration:
            chosen.append(_checked(model, feed))
            total += _row_count(chosen[-1])
            if len(chosen) >= settings.maximum_samples or total >= settings.maximum_rows:
                break
    if not chosen:
        raise CalibrationError(
            "There is no calibration feed, so the ranges of int8 are unknown. Give feeds like those that the model "
            "will be served; some dozens of sentences are enough."
        )
    return chosen, _notes(chosen)


def digest_of(feeds: Sequence[Feed]) -> str:
    """Returns a hash of the values of all feeds."""
    digest = hashlib.sha256()
    for feed in feeds:
        digest.update(_digest(feed))
    return digest.hexdigest()


def collect(
    model: ir.Model, groups: Sequence[Sequence[Layer]], feeds: Sequence[Feed], progress: Progress
) -> list[ActivationSample]:
    """Runs the feeds and returns what flowed into each group of layers, in the groups' order.

    Args:
        model: The segment; it is not changed.
        groups: Layers that read the same tensor, each group once.
        feeds: Arrays by graph input name.
        progress: Where the work is shown.

    Raises:
        CalibrationError: ONNX Runtime cannot run the segment, or an activation is not finite.
    """
    import onnxruntime  # Heavy, and only int8 needs it.

    proto, weights = _observed_model(model, groups, rows_per_feed=-(-SAMPLED_ROWS // len(feeds)))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # An arena would keep the memory of the largest activations until the session ends.
    options.enable_cpu_mem_arena = False
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        known = {value.name for value in session.get_inputs()}
        observed: list[list[Array]] = []
        for feed in progress.track(feeds, description="calibrate"):
            fed = {name: array for name, array in feed.items() if name in known}
            observed.append(session.run(None, {**fed, **weights}))
    except Exception as error:  # ONNX Runtime's exceptions share no base below Exception.
        raise CalibrationError(f"ONNX Runtime cannot run the segment to calibrate it: {error}") from error
    samples = []
    for index, group in enumerate(groups):
        seen = (run[_OBSERVED * index : _OBSERVED * (index + 1)] for run in observed)
        rows, low, high, total = zip(*seen, strict=True)
        sample = ActivationSample(rows=np.concatenate(rows), low=np.min(low, axis=0), high=np.max(high, axis=0))
        # The total, because ONNX Runtime's smallest and largest value pass over NaN.
        if not (np.isfinite(total).all() and np.isfinite(sample.low).all() and np.isfinite(sample.high).all()):
            raise CalibrationError(
                f"What flows into {group[0].name} is not finite in the calibration feeds. Feed values that the "
                f"original model handles, or deny the node (denied_nodes=['{group[0].name}'])."
            )
        samples.append(sample)
    return samples


def _spread(count: int, wanted: int) -> list[int]:
    """Returns `wanted` indices below `count`, evenly spaced."""
    if count <= wanted:
        return list(range(count))
    return [index * count // wanted for index in range(wanted)]


def _row_count(feed: Feed) -> int:
    """Returns how many rows a feed brings: an id or an entry of a mask is one each, floating point has a row last."""
    counts = [
        array.size if array.dtype.kind in "iub" else array.size // max(1, array.shape[-1])
        for array in feed.values()
        if array.ndim
    ]
    return max(counts, default=1)


def _checked(model: ir.Model, feed: Feed) -> dict[str, Array]:
    """Returns the feed's arrays, checked against the inputs."""
    if not isinstance(feed, Mapping):
        raise CalibrationError(f"A calibration feed is a {type(feed).__name__}; expected arrays by input name.")
    expected = {str(value.name): value for value in model.graph.inputs}
    missing, unknown = sorted(set(expected) - set(feed)), sorted(set(feed) - set(expected))
    if missing or unknown:
        raise CalibrationError(
            f"A calibration feed has the inputs {sorted(feed)}; the segment has {sorted(expected)}. "
            f"Missing: {missing or 'none'}; unknown: {unknown or 'none'}."
        )
    checked = {}
    for name, value in expected.items():
        array = np.asarray(feed[name])
        dtype = None if value.dtype is None else value.dtype.numpy()
        if dtype is not None and array.dtype != dtype:
            raise CalibrationError(f"The calibration feed for {name} is {array.dtype}; the segment takes {dtype}.")
        if value.shape is not None and not _fits(array.shape, value.shape):
            raise CalibrationError(
                f"The calibration feed for {name} has shape {list(array.shape)}; the segment takes {value.shape}."
            )
        checked[name] = array
    return checked


def _fits(sizes: tuple[int, ...], shape: ir.Shape) -> bool:
    return len(sizes) == len(shape) and all(
        not isinstance(wanted, int) or size == wanted for size, wanted in zip(sizes, shape, strict=True)
    )


def _digest(feed: Feed) -> bytes:
    digest = hashlib.sha256()
    for name in sorted(feed):
        array = np.ascontiguousarray(feed[name])
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.digest()


def _notes(feeds: Sequence[Feed]) -> tuple[str, ...]:
    notes = []
    rows = sum(map(_row_count, feeds))
    if rows < FEWEST_ROWS:
        notes.append(
            f"Only {rows} rows (tokens) in {len(feeds)} feeds were given for calibration; ranges of int8 found on "
            f"fewer than {FEWEST_ROWS} are too narrow for what comes later. Give more feeds."
        )
    if len(feeds) > 1 and len({_digest(feed) for feed in feeds}) == 1:
        notes.append(
            f"All {len(feeds)} calibration feeds are equal, so they tell no more than one. Give different ones."
        )
    changing = [array for feed in feeds for array in feed.values() if array.dtype.kind == "f" and array.size > 1]
    if changing and all((array == array.flat[0]).all() for array in changing):
        notes.append(
            "Every input is filled with one number in all calibration feeds; ranges of int8 found on them mean "
            "nothing. Give feeds like those that the model will be served."
        )
    return tuple(notes)


def _observed_model(
    model: ir.Model, groups: Sequence[Sequence[Layer]], rows_per_feed: int
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """Returns a model whose outputs are rows and ranges of what each group reads, and its weights by name."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    copy = model.clone()
    graph = copy.graph
    nodes = list(graph)
    opset = copy.opset_imports.get("", 1)
    outputs = []
    for index, group in enumerate(groups):
        # Positions are those of the original, to which nothing has been added yet in the list.
        activation = nodes[group[0].position].inputs[0]
        if activation is None:
            raise ValueError(f"The layer {group[0].name!r} reads nothing.")
        outputs += _observe(graph, activation, group[0].shape[0], f"observed_{index}", rows_per_feed, opset)
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    RemoveUnusedNodesPass()(copy)
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
    return ir.serde.serialize_model(copy), weights


def _observe(
    graph: ir.Graph, value: ir.Value, channels: int, name: str, rows_per_feed: int, opset: int
) -> list[ir.Value]:
    """Adds nodes that compute some rows, and smallest, largest and sum of each channel of `value`."""

    def constant(suffix: str, numbers: Sequence[int]) -> ir.Value:
        tensor = ir.tensor(np.asarray(numbers, np.int64), name=f"{name}_{suffix}")
        shape = ir.Shape([len(numbers)])
        made = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
        graph.register_initializer(made)
        return made

    def add(op: str, inputs: Sequence[ir.Value], suffix: str, **attributes: Any) -> ir.Value:
        node = ir.node(op, inputs, attributes, name=f"{name}_{suffix}_node")
        node.outputs[0].name = f"{name}_{suffix}"
        graph.append(node)
        return node.outputs[0]

    flat = add("Reshape", [value, constant("shape", [-1, channels])], "flat")
    count = add("Shape", [flat], "count", start=0, end=1)
    # An odd step: with an even one, every sequence of a usual length would be sampled at the same few positions.
    half = add("Div", [count, constant("wanted", [2 * rows_per_feed])], "half")
    even = add("Mul", [half, constant("two", [2])], "even")
    step = add("Add", [even, constant("one", [1])], "step")
    start, axis, end = constant("start", [0]), constant("axis", [0]), constant("end", [np.iinfo(np.int64).max])
    rows = add("Slice", [flat, start, end, axis, step], "rows")
    if opset >= _AXES_AS_INPUT:
        extremes = [add(op, [flat, axis], suffix, keepdims=0) for op, suffix in _EXTREMES]
    else:
        extremes = [add(op, [flat], suffix, keepdims=0, axes=[0]) for op, suffix in _EXTREMES]
    # ReduceSum has taken its axes as an input from opset 13 on, before the others.
    extremes.append(add("ReduceSum", [flat, axis], "total", keepdims=0))
    for output, dims in ((rows, 2), *((extreme, 1) for extreme in extremes)):
        output.type = ir.TensorType(ir.DataType.FLOAT)
        output.shape = ir.Shape([None] * (dims - 1) + [channels])
    return [rows, *extremes]


_EXTREMES = (("ReduceMin", "low"), ("ReduceMax", "high"))
_OBSERVED = 4  # Outputs for each group: rows, the two extremes and the sum.
