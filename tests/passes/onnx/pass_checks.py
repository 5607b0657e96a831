"""Applies an ONNX pass to a small model and checks everything that each pass promises.

`apply_pass` is the one way in which the tests of this folder run a pass: it compares outputs numerically at several
shapes with ONNX Runtime, checks that inputs and outputs kept their names, dtypes and shapes, that the returned count is
honest, that big constants were not read, that the model is valid, and that a second run changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from tf_opt.passes.onnx.pass_base import OnnxPass, border_of
from tf_opt.passes.onnx.segment_weights import MINIMUM_WEIGHT_ELEMENTS

DEFAULT_SIZES = ({"B": 2, "S": 3}, {"B": 1, "S": 1}, {"B": 3, "S": 7})
"""What the named dimensions of graph inputs are, in turn; a name that is not listed takes 4."""

Feed = dict[str, np.ndarray[Any, Any]]


def model_of(text: str, opset: int = 17, **initializers: Any) -> ir.Model:
    """Parses a model from ONNX's textual form.

    Args:
        text: A graph, such as "g (float[B, 8] x) => (float[B, 8] y) { y = Relu(x) }".
        opset: Version of the default operator set; com.microsoft is imported as well.
        initializers: Constants that the graph reads by these names.
    """
    imports = f'["" : {opset}, "com.microsoft" : 1]'
    proto = onnx.parser.parse_model(f"<ir_version: 10, opset_import: {imports}> {text}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in initializers.items())
    return ir.serde.deserialize_model(proto)


class WatchedTensor(ir.LazyTensor):
    """Counts how often a constant's values are read."""

    def __init__(self, tensor: ir.TensorProtocol) -> None:
        """Stands for `tensor`."""
        self.reads = 0

        def read() -> ir.TensorProtocol:
            self.reads += 1
            return tensor

        super().__init__(read, dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def watch_weights(model: ir.Model) -> dict[str, WatchedTensor]:
    """Replaces the values of big initializers by ones that count readings; returns these by name."""
    watched = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and value.const_value.size >= MINIMUM_WEIGHT_ELEMENTS:
            watched[name] = value.const_value = WatchedTensor(value.const_value)
    return watched


def apply_pass(
    onnx_pass: OnnxPass,
    model: ir.Model,
    *,
    changes: int | None = None,
    sizes: Sequence[Mapping[str, int]] = DEFAULT_SIZES,
    feeds: Sequence[Feed] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-4,
    may_read_weights: bool = False,
    is_idempotent: bool = True,
) -> ir.Model:
    """Runs a pass on a copy of `model`, checks all promises (see above) and returns the changed copy.

    Args:
        onnx_pass: The pass.
        model: The model; it is left as it is.
        changes: What the pass has to return; None takes any number.
        sizes: Sizes of the named dimensions, one random feed each.
        feeds: What to feed instead of random values.
        atol: Absolute tolerance of the outputs.
        rtol: Relative tolerance of the outputs.
        may_read_weights: Whether the pass may read constants of 512 elements or more.
        is_idempotent: Whether a second run has to find nothing.
    """
    result = model.clone()
    watched = watch_weights(result)
    border = border_of(result)
    text = canonical_text(result)
    count = onnx_pass.run(result)
    assert may_read_weights or not [name for name, tensor in watched.items() if tensor.reads], "the pass read weights"
    assert border_of(result) == border
    differs = canonical_text(result) != text
    assert (count > 0) == differs, f"the pass returned {count}, but the model {'differs' if differs else 'is equal'}"
    if changes is not None:
        assert count == changes
    check_same_outputs(model, result, sizes=sizes, feeds=feeds, atol=atol, rtol=rtol)
    if is_idempotent:
        assert onnx_pass.run(result) == 0, "a second run found something to change"
    return result


def canonical_text(model: ir.Model) -> str:
    """Nodes, shapes and initializers as text, by which two models can be compared; no values of big constants."""
    lines = [f"{domain} {version}" for domain, version in sorted(model.opset_imports.items())]
    for name, value in sorted(model.graph.initializers.items()):
        tensor = value.const_value
        assert tensor is not None
        values = tensor.numpy().tolist() if tensor.size < MINIMUM_WEIGHT_ELEMENTS else "..."
        lines.append(f"{name} {tensor.dtype} {tensor.shape} {values}")
    for node in model.graph:
        attributes = sorted((name, str(attribute)) for name, attribute in node.attributes.items())
        inputs = [value and value.name for value in node.inputs]
        outputs = [f"{value.name}: {value.dtype} {value.shape}" for value in node.outputs]
        lines.append(f"{outputs} = {node.domain}::{node.op_type} {inputs} {attributes}")
    lines.append(str([value.name for value in model.graph.outputs]))
    return "\n".join(lines)


def check_same_outputs(
    before: ir.Model,
    after: ir.Model,
    *,
    sizes: Sequence[Mapping[str, int]] = DEFAULT_SIZES,
    feeds: Sequence[Feed] | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-4,
) -> None:
    """Checks that both models are valid and compute the same, infinities and NaNs included."""
    original, changed = session_of(before), session_of(after)
    for feed in random_feeds(before, sizes) if feeds is None else feeds:
        expected, actual = original.run(None, feed), changed.run(None, feed)
        for value, wanted, got in zip(before.graph.outputs, expected, actual, strict=True):
            assert got.dtype == wanted.dtype, f"{value.name}: {wanted.dtype} became {got.dtype}"
            assert got.shape == wanted.shape, f"{value.name}: shape {wanted.shape} became {got.shape}"
            if wanted.dtype.kind == "f":
                np.testing.assert_allclose(got, wanted, rtol=rtol, atol=atol, err_msg=str(value.name))
            else:
                np.testing.assert_array_equal(got, wanted, err_msg=str(value.name))


def session_of(model: ir.Model, optimize: bool = False) -> Any:
    """Returns an ONNX Runtime session, by default with none of its own rewrites."""
    proto = ir.serde.serialize_model(model)
    has_contrib = any(node.domain == "com.microsoft" for node in model.graph)
    if not has_contrib:
        onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def random_feeds(model: ir.Model, sizes: Sequence[Mapping[str, int]] = DEFAULT_SIZES) -> list[Feed]:
    """Returns random inputs, one feed for each entry of `sizes`: normal numbers, integers and booleans 0 or 1."""
    feeds = []
    for seed, size in enumerate(sizes):
        random = np.random.default_rng(seed)
        feed: Feed = {}
        for value in model.graph.inputs:
            assert value.shape is not None
            assert value.dtype is not None
            shape = [dim if isinstance(dim, int) else size.get(str(dim.value), 4) for dim in value.shape]
            dtype = value.dtype.numpy()
            drawn = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
            feed[str(value.name)] = drawn.astype(dtype)
        feeds.append(feed)
    return feeds


def ops(model: ir.Model) -> Counter[str]:
    """How many nodes of each operator there are."""
    return Counter(node.op_type for node in model.graph)


def only(model: ir.Model, op_type: str) -> ir.Node:
    """The only node of an operator."""
    (found,) = [node for node in model.graph if node.op_type == op_type]
    return found
