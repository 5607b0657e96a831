"""Decides which nodes of a model work in a 16-bit floating type."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from tf_opt.passes.onnx.convert_precision_types import ElementTypes, SharedType, reads_shape_only
from tf_opt.passes.onnx.nodes import Array, constant, is_constant, optional_argument

SIXTEEN_BIT = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

_PRODUCTS = frozenset(
    {"Attention", "Conv", "ConvTranspose", "Einsum", "FusedMatMul", "Gemm", "MatMul", "MultiHeadAttention"}
)
"""Where the time goes, and where hardware multiplies in 16 bits and sums in 32."""

_MASK_OPERAND = {"Attention": {"": 3, "com.microsoft": 5}, "MultiHeadAttention": {"com.microsoft": 5}}
"""Which input of an attention operator is added to its scores, by the operator's domain."""

_ARITHMETIC = frozenset(
    "Abs Add BiasGelu Clip Div Elu FastGelu Gelu HardSigmoid HardSwish LeakyRelu Max Min Mul Neg PRelu QuickGelu Relu "
    "Selu Sigmoid Sub Sum Swish Tanh ThresholdedRelu".split()
)
"""Work on one position at a time, which loses no more than one rounding."""

_MOVES = frozenset(
    "Compress Concat DepthToSpace Expand Flatten Gather GatherElements GatherND Identity MaxPool Pad Reshape "
    "ReverseSequence ScatterElements ScatterND Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze "
    "Where".split()
)
"""Operators that compute no new values, so that they lose nothing in the type that their values have already."""

_NORMALIZED = frozenset(
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization "
    "MeanVarianceNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization "
    "SkipSimplifiedLayerNormalization Softmax".split()
)
"""Operators that are kept in fp32 (of Softmax, those outside of attention), but whose results are of moderate size and
not about to be subtracted from 1, say: what follows may be rounded."""

_BOUNDED = _NORMALIZED | {"Erf", "HardSigmoid", "Sigmoid", "Tanh", "Sign", "Sin", "Cos"}
"""Operators whose results are of moderate size whatever their operands are."""


class PrecisionPlan:
    """Which nodes of the main graph are to work in 16 bits.

    Products always do. What lies between them follows where this saves a Cast and rounds nothing that a node in fp32
    reads as well: sums that a layer normalization reads (the residual stream of a transformer) stay fp32, so that their
    many small contributions are not lost one by one. A Softmax follows where it stands between two products.

    Attributes:
        nodes: The nodes that change, each with its inputs and outputs that do.
    """

    def __init__(
        self, model: ir.Model, types: ElementTypes, target: ir.DataType, is_kept: Callable[[ir.Node], bool]
    ) -> None:
        """Decides.

        Args:
            model: The model; it is only read.
            types: Its element types.
            target: The 16-bit type.
            is_kept: Whether the user wants a node in fp32.
        """
        self._types = types
        self._range = _Range(target)
        self._large: set[ir.Value] = set()
        self._sensitive: set[ir.Value] = set()
        self._quantized: set[ir.Value] = set()
        self._moderate: set[ir.Value] = set()
        self._candidates: dict[ir.Node, SharedType] = {}
        for node in model.graph:
            shared = types.shared(node, target)
            is_exact = self._note_values(node, shared)
            if shared is not None and is_exact and not is_kept(node) and self._is_candidate(node, shared):
                self._candidates[node] = shared
        self.nodes: dict[ir.Node, SharedType] = {}
        self._grow()
        self._retreat()

    def _note_values(self, node: ir.Node, shared: SharedType | None) -> bool:
        """Notes what is special about the outputs of a node; returns whether its constants fit the 16-bit type."""
        read = [value for value in node.inputs if value is not None]
        kind = node.op_type
        constants = [(value, constant(value)) for value in read if self._types.is_float(value)]
        overflows = any(array is not None and self._range.overflows(array) for _, array in constants)
        vanishes = any(array is not None and self._range.vanishes(array) for _, array in constants)
        typed = read if shared is None or kind not in _PRODUCTS else [node.inputs[index] for index in shared.inputs]
        if overflows or any(self._at_source(value) in self._large for value in typed if value is not None):
            if kind not in _BOUNDED:
                self._large.update(value for value in node.outputs if self._types.is_float(value))
            return False
        self._note_moderate(node, constants)
        passes_on = kind in _ARITHMETIC or kind in _MOVES or self._is_float_cast(node)
        if passes_on:
            if any(self._at_source(value) in self._sensitive for value in read):
                self._sensitive.update(node.outputs)
        elif kind not in _PRODUCTS and kind not in _NORMALIZED and kind != "Cast" and kind != "Constant":
            self._sensitive.update(value for value in node.outputs if self._types.is_float(value))
        if kind == "DequantizeLinear" or (
            kind in _MOVES and any(self._at_source(value) in self._quantized for value in read)
        ):
            self._quantized.update(node.outputs)
        return not vanishes

    def _note_moderate(self, node: ir.Node, constants: Sequence[tuple[ir.Value, Array | None]]) -> None:
        """Notes outputs that are sums of products, masks made of integers, and numbers that fit the 16-bit type."""
        kind = node.op_type
        is_known = kind in _PRODUCTS or kind in _BOUNDED or (kind == "Cast" and not constants)
        passes_on = kind in _ARITHMETIC or kind in _MOVES or kind == "Cast"
        if is_known or (
            passes_on
            and all(array is not None or self._at_source(value) in self._moderate for value, array in constants)
        ):
            self._moderate.update(node.outputs)

    def _may_overflow(self, value: ir.Value) -> bool:
        return self._types.is_float(value) and self._at_source(value) not in self._moderate

    def _is_candidate(self, node: ir.Node, shared: SharedType) -> bool:
        kind = node.op_type
        read = [self._at_source(value) for index in shared.inputs if (value := node.inputs[index]) is not None]
        if any(value in self._quantized for value in read):
            return False  # Engines look for DequantizeLinear directly in front of the operator that becomes integer.
        # A mask of unknown size may become infinite, and a row of nothing but that has no Softmax.
        if kind in _MASK_OPERAND:
            mask = optional_argument(node, _MASK_OPERAND[kind][node.domain])
            return mask is None or constant(mask) is not None or not self._may_overflow(mask)
        if kind == "Softmax":
            return not any(self._may_overflow(value) for value in read)
        if kind in _PRODUCTS or kind in _MOVES:
            return True
        # Behind an exponential, a mean or an error function, sums such as 1 + Erf(x) cancel what 16 bits still hold.
        return kind in _ARITHMETIC and not any(value in self._sensitive for value in read)

    def _grow(self) -> None:
        """Takes the products, and all candidates that are connected with one through candidates."""
        pending = [node for node in self._candidates if self._is_product(node) or self._touches_16_bit(node)]
        while pending:
            node = pending.pop()
            if node in self.nodes:
                continue
            self.nodes[node] = self._candidates[node]
            pending.extend(near for near in self._neighbours(node) if near in self._candidates)

    def _retreat(self) -> None:
        """Gives nodes back to fp32 that would round what need not be rounded, until all that is left pays."""
        while True:
            before = len(self.nodes)
            for order in (tuple(self.nodes), tuple(reversed(self.nodes))):
                for node in order:
                    if node in self.nodes and not self._pays(node):
                        del self.nodes[node]
            if len(self.nodes) == before:
                return

    def _pays(self, node: ir.Node) -> bool:
        """Whether a node is better off in 16 bits, all others being as they are."""
        if self._is_product(node) or self._is_bias(node):
            return True
        shared = self.nodes[node]
        varying = [
            value for index in shared.inputs if (value := node.inputs[index]) is not None and not self._is_fixed(value)
        ]
        narrow_inputs = sum(self._originates_narrow(value) for value in varying)
        wide_inputs = len(varying) - narrow_inputs
        readings = [reading for index in shared.outputs for reading in self._readings(node.outputs[index])]
        narrow_readings = sum(is_narrow for _, is_narrow in readings)
        wide_readings = len(readings) - narrow_readings
        if node.op_type == "Softmax":
            return narrow_inputs > 0 and wide_readings == 0
        if node.op_type in _MOVES:
            return (narrow_inputs > 0 and wide_inputs == 0) or wide_readings == 0
        if narrow_inputs == 0:
            return False
        return wide_readings == 0 or (wide_inputs == 0 and (narrow_readings > 0 or narrow_inputs > 1))

    def _is_product(self, node: ir.Node) -> bool:
        return node.op_type in _PRODUCTS

    def _is_bias(self, node: ir.Node) -> bool:
        """Whether a node adds a constant to a product in 16 bits: engines make one kernel of both."""
        if node.op_type != "Add":
            return False
        for index in (0, 1):
            source, other = node.inputs[index], node.inputs[1 - index]
            product = None if source is None else self._at_source(source).producer()
            if product is not None and self._is_product(product) and other is not None and self._is_fixed(other):
                return product in self.nodes or self._types.of(product.outputs[0]) in SIXTEEN_BIT
        return False

    def _touches_16_bit(self, node: ir.Node) -> bool:
        """Whether the model has 16-bit values next to a node already."""
        shared = self._candidates[node]
        read = [value for index in shared.inputs if (value := node.inputs[index]) is not None]
        return any(self._is_narrow(value) and not self._is_fixed(value) for value in read) or any(
            is_narrow for index in shared.outputs for _, is_narrow in self._readings(node.outputs[index])
        )

    def _neighbours(self, node: ir.Node) -> Iterator[ir.Node]:
        shared = self._candidates[node]
        for index in shared.inputs:
            value = node.inputs[index]
            source = None if value is None else self._at_source(value).producer()
            if source is not None:
                yield source
        for index in shared.outputs:
            for reader, _ in self._readings(node.outputs[index]):
                if reader is not None:
                    yield reader

    def _is_narrow(self, value: ir.Value) -> bool:
        """Whether a value is computed in 16 bits, or comes from one that is."""
        source = self._at_source(value)
        node = source.producer()
        if node is not None and node in self.nodes:
            return source.index() in self.nodes[node].outputs
        return self._types.of(source) in SIXTEEN_BIT

    def _originates_narrow(self, value: ir.Value) -> bool:
        """Whether a value comes from work in 16 bits, not from fp32 by way of a move that rounds it."""
        seen, pending = set[ir.Value](), [value]
        while pending:
            source = self._at_source(pending.pop())
            if source in seen or not self._is_narrow(source):
                continue
            seen.add(source)
            node = source.producer()
            if node is None or node.op_type not in _MOVES or node not in self.nodes:
                return True
            pending.extend(moved for index in self.nodes[node].inputs if (moved := node.inputs[index]) is not None)
        return False

    def _readings(self, value: ir.Value) -> Iterator[tuple[ir.Node | None, bool]]:
        """Yields who reads a value, None for a graph output, and whether it is read in 16 bits."""
        is_narrow_value = self._types.of(value) in SIXTEEN_BIT
        if value.is_graph_output():
            yield None, is_narrow_value
        for node, index in value.uses():
            if reads_shape_only(node):
                continue
            if self._is_float_cast(node):
                yield from self._readings(node.outputs[0])
                continue
            shared = self.nodes.get(node)
            yield node, is_narrow_value or (shared is not None and index in shared.inputs)

    def _at_source(self, value: ir.Value) -> ir.Value:
        """Looks through Casts between floating types."""
        node = value.producer()
        while node is not None and self._is_float_cast(node) and node.inputs[0] is not None:
            value = node.inputs[0]
            node = value.producer()
        return value

    def _is_float_cast(self, node: ir.Node) -> bool:
        if node.op_type != "Cast" or node.domain != "":
            return False
        real = (ir.DataType.FLOAT, *SIXTEEN_BIT)
        return self._types.of(node.inputs[0]) in real and self._types.of(node.outputs[0]) in real

    def _is_fixed(self, value: ir.Value) -> bool:
        """Whether a value is a constant, in whatever type."""
        return is_constant(self._at_source(value))


class _Range:
    """What numbers a 16-bit type holds."""

    def __init__(self, target: ir.DataType) -> None:
        self._dtype = target.numpy()
        # The smallest normal number: 2^-14 of fp16 (IEEE 754 binary16), 2^-126 of bf16, whose exponent is fp32's.
        self._smallest = 2.0**-14 if target is ir.DataType.FLOAT16 else 2.0**-126

    def overflows(self, array: Array) -> bool:
        """Whether a finite entry would become infinite."""
        with np.errstate(over="ignore"):
            rounded = array.astype(self._dtype).astype(np.float32)
        return bool(np.any(np.isinf(rounded) & np.isfinite(array)))

    def vanishes(self, array: Array) -> bool:
        """Whether a single number, such as the epsilon of a sum, would lose digits or become 0."""
        return array.size == 1 and 0 < abs(float(array.reshape(()))) < self._smallest
