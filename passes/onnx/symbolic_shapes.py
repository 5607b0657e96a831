"""Which dimensions of a model are certainly equal, and which integer tensors are made of dimensions.

ONNX's own shape inference gives each unknown dimension a name of its own. The passes have to know more: that the
sequence length in a Reshape's target is the one of the tensor that is reshaped. Dimensions are expressions over the
unknown dimensions of the graph's inputs; two that compare equal are equal for every feed.
"""

from __future__ import annotations

import onnx_ir as ir

from tf_opt.passes.onnx.nodes import attribute, axes_of, constant, integers, optional_argument
from tf_opt.passes.onnx.segment_weights import KNOWN_SHAPE, KNOWN_VECTOR
from tf_opt.passes.onnx.shape_rules import SHAPE_RULES, SymbolicShape, SymbolicVector, broadcast_shapes
from tf_opt.passes.tf.symbolic_dims import Dim, product, symbol

_MAXIMUM_ENTRIES = 64
"""Integer constants with more elements are data, not shape arithmetic."""

_SAME_SHAPE = frozenset(
    "Abs Acos Acosh Asin Asinh Atan Atanh BatchNormalization Cast CastLike Ceil Celu Clip Cos Cosh CumSum "
    "DequantizeLinear Dropout Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Hardmax Identity "
    "InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization "
    "MeanVarianceNormalization Mish Neg Not PRelu QuantizeLinear RMSNormalization Reciprocal Relu Round "
    "ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Swish Tan Tanh "
    "ThresholdedRelu Trilu".split()
)
"""Operators whose first output has the shape of their first input."""

_BROADCAST = frozenset(
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or Pow Sub Sum Where Xor".split()
)

_REDUCTIONS = frozenset(
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum "
    "ReduceSumSquare".split()
)


class SymbolicShapes:
    """Symbolic shapes of the values of a model's main graph, as they were when this was made."""

    def __init__(self, model: ir.Model) -> None:
        """Analyses the main graph from its inputs to its outputs."""
        self._shapes: dict[ir.Value, SymbolicShape] = {}
        self._vectors: dict[ir.Value, SymbolicVector] = {}
        for value in model.graph.inputs:
            self._declare(value)
        for node in model.graph:
            self._visit(node)

    def shape(self, value: ir.Value | None) -> SymbolicShape | None:
        """Returns the dimensions of a value; None where its rank is not known."""
        if value is None:
            return None
        if value not in self._shapes and value.producer() is None:
            self._declare(value)
        return self._shapes.get(value)

    def vector(self, value: ir.Value | None) -> SymbolicVector | None:
        """Returns the entries of an integer tensor of rank 0 or 1 that is constant or made of dimensions."""
        if value is None:
            return None
        if value not in self._vectors and value.producer() is None:
            self.shape(value)
        return self._vectors.get(value)

    def rank(self, value: ir.Value | None) -> int | None:
        """Returns the number of dimensions; None where it is not known."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def last(self, value: ir.Value | None) -> int | None:
        """Returns the size of the last dimension where it is a known number."""
        shape = self.shape(value)
        return shape[-1] if shape and isinstance(shape[-1], int) else None

    def set_shape(self, value: ir.Value, shape: SymbolicShape | None) -> None:
        """Notes the shape of a value that a pass added."""
        if shape is not None:
            self._shapes[value] = shape

    def _declare(self, value: ir.Value) -> None:
        """Notes what the model, and whoever loaded it, says of a graph input or an initializer."""
        if (known := value.meta.get(KNOWN_SHAPE)) is not None:
            self._shapes[value] = tuple(known)
        elif value.shape is not None:
            self._shapes[value] = tuple(
                dim if isinstance(dim, int) else self._symbol(value, axis, dim.value)
                for axis, dim in enumerate(value.shape)
            )
        if (known := value.meta.get(KNOWN_VECTOR)) is not None:
            self._vectors[value] = tuple(known)
            return
        entries = constant(value, _MAXIMUM_ENTRIES)
        if entries is not None and entries.dtype.kind in "iu" and entries.ndim <= 1:
            self._vectors[value] = tuple(int(entry) for entry in entries.ravel())

    @staticmethod
    def _symbol(value: ir.Value, axis: int, name: str | None) -> Dim:
        # Dimensions of one name are equal by ONNX's definition.
        return symbol(f"dim {name}" if name else f"{value.name}[{axis}]")

    def unknown(self, node: ir.Node, axis: int, output: int = 0) -> Dim:
        """Returns a new unknown for a dimension of an output of `node`."""
        # Unlike any atom that the analysis of the TensorFlow graph named.
        return symbol(f"onnx {node.outputs[output].name}[{axis}]")

    def _visit(self, node: ir.Node) -> None:
        if node.domain != "":
            self._visit_contributed(node)
            return
        shapes = [self.shape(value) for value in node.inputs]
        if node.op_type in _SAME_SHAPE:
            self.set_shape(node.outputs[0], shapes[0])
        elif node.op_type in _BROADCAST:
            known = [shape for shape in shapes if shape is not None]
            if len(known) == len(shapes):
                self.set_shape(node.outputs[0], broadcast_shapes(known))
        elif node.op_type in _REDUCTIONS:
            self.set_shape(node.outputs[0], self._reduced(node, shapes[0]))
        elif node.op_type == "Constant":
            self._visit_constant(node)
        elif (rule := SHAPE_RULES.get(node.op_type)) is not None:
            rule(self, node, shapes)
        self._visit_vector(node)

    def _visit_contributed(self, node: ir.Node) -> None:
        """Notes the output shape of ONNX Runtime's own operators that the passes write."""
        first, value = self.shape(optional_argument(node, 0)), self.shape(optional_argument(node, 2))
        if node.op_type in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu"):
            self.set_shape(node.outputs[0], first)
        elif node.op_type == "MultiHeadAttention" and first is not None and value is not None and len(value) == 3:
            self.set_shape(node.outputs[0], (*first[:2], value[2]))

    def _visit_constant(self, node: ir.Node) -> None:
        tensor = ir.convenience.get_const_tensor(node.outputs[0])
        if tensor is None:
            return
        self.set_shape(node.outputs[0], tuple(tensor.shape.numpy()))
        entries = constant(node.outputs[0], _MAXIMUM_ENTRIES)
        if entries is not None and entries.dtype.kind in "iu" and entries.ndim <= 1:
            self._vectors[node.outputs[0]] = tuple(int(entry) for entry in entries.ravel())

    def _reduced(self, node: ir.Node, shape: SymbolicShape | None) -> SymbolicShape | None:
        axes = axes_of(node)
        if shape is None:
            return None
        keeps = attribute(node, "keepdims", 1)
        if axes is None:
            if optional_argument(node, 1) is not None:
                return None
            axes = () if attribute(node, "noop_with_empty_axes", 0) else tuple(range(len(shape)))
        chosen = {axis % len(shape) for axis in axes} if shape else set()
        return tuple(1 if axis in chosen else dim for axis, dim in enumerate(shape) if keeps or axis not in chosen)

    def _visit_vector(self, node: ir.Node) -> None:
        """Follows integer vectors through the operators that shape arithmetic is made of."""
        if len(node.outputs) != 1 or node.op_type not in _VECTOR_OPS:
            return
        output = node.outputs[0]
        if node.op_type == "Shape":
            shape = self.shape(node.inputs[0])
            if shape is not None:
                end = node.attributes.get("end")
                self._vectors[output] = shape[attribute(node, "start", 0) : None if end is None else end.as_int()]
            return
        vectors = [self.vector(value) for value in node.inputs]
        if not vectors or vectors[0] is None:
            return
        entries: SymbolicVector | None = None
        if node.op_type in ("Identity", "Squeeze", "Unsqueeze", "Reshape"):
            entries = vectors[0] if (self.rank(output) or 0) <= 1 else None
        elif node.op_type == "Cast":
            is_integer = attribute(node, "to", 0) in (ir.DataType.INT32.value, ir.DataType.INT64.value)
            entries = vectors[0] if is_integer else None
        elif node.op_type == "Concat":
            known = [vector for vector in vectors if vector is not None]
            entries = tuple(entry for vector in known for entry in vector) if len(known) == len(vectors) else None
        elif node.op_type == "Gather":
            chosen = integers(node.inputs[1])
            if chosen is not None and all(-len(vectors[0]) <= index < len(vectors[0]) for index in chosen):
                entries = tuple(vectors[0][index] for index in chosen)
        elif node.op_type == "Slice":
            bounds = [integers(optional_argument(node, index)) for index in (1, 2)]
            steps = integers(node.inputs[4]) if optional_argument(node, 4) is not None else (1,)
            if bounds[0] is not None and bounds[1] is not None and steps is not None and self.rank(node.inputs[0]) == 1:
                entries = vectors[0][bounds[0][0] : bounds[1][0] : steps[0]] if steps[0] > 0 else None
        elif node.op_type == "ReduceProd":
            entries = (product(vectors[0]),)
        elif vectors[1] is not None and len(vectors[0]) == len(vectors[1]):
            pairs = zip(vectors[0], vectors[1], strict=True)
            entries = tuple(left * right if node.op_type == "Mul" else left + right for left, right in pairs)
        if entries is not None and len(entries) <= _MAXIMUM_ENTRIES:
            self._vectors[output] = entries


_VECTOR_OPS = frozenset("Add Cast Concat Gather Identity Mul ReduceProd Reshape Shape Slice Squeeze Unsqueeze".split())
