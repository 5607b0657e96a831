"""How the shapes of a node's outputs follow from its inputs, op by op.

A rule returns one shape an output, None where it does not know one. TensorFlow's static shapes are merged in by the
caller, so a rule only has to say how unknown dimensions depend on each other, and may assume that the graph is valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tf_opt.passes.tf.node_facts import NodeFacts, ShapeRule, Shapes, SymbolicShape
from tf_opt.passes.tf.symbolic_dims import Dim, broadcast, divide_exactly, is_nonnegative, label_of, product, window

SHAPE_RULES: dict[str, ShapeRule] = {}
"""The rule of each op that has one."""


def _rule(*ops: str) -> Callable[[ShapeRule], ShapeRule]:
    def register(rule: ShapeRule) -> ShapeRule:
        SHAPE_RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


def _axis(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def broadcast_shapes(shapes: Iterable[SymbolicShape]) -> SymbolicShape:
    """Returns the shape that broadcasting gives, by numpy's rules."""
    listed = list(shapes)
    rank = max((len(shape) for shape in listed), default=0)
    padded = [(1,) * (rank - len(shape)) + tuple(shape) for shape in listed]
    return tuple(broadcast(*dims) for dims in zip(*padded, strict=False))


SAME_SHAPE_OPS = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BiasAdd BiasAddV1 Cast Ceil CheckNumerics ClipByValue Cos Cosh "
    "Cumprod Cumsum Digamma Elu Erf Erfc Erfinv Exp Expm1 FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars Floor "
    "Identity Inv Invert IsFinite IsInf IsNan LeakyRelu Lgamma Log Log1p LogSoftmax LogicalNot Neg OnesLike "
    "PlaceholderWithDefault PreventGradient QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 Reciprocal Relu Relu6 "
    "ReverseV2 Rint Round Rsqrt Selu Sigmoid Sign Sin Sinh Snapshot Softmax Softplus Softsign Sqrt Square StopGradient "
    "Tan Tanh ZerosLike FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN"
).split()
BROADCAST_OPS = (
    "Add AddV2 Atan2 BitwiseAnd BitwiseOr BitwiseXor Div DivNoNan Equal FloorDiv FloorMod Greater GreaterEqual Less "
    "LessEqual LogicalAnd LogicalOr Maximum Minimum Mod Mul MulNoNan NotEqual Pow RealDiv SelectV2 SquaredDifference "
    "Sub TruncateDiv TruncateMod Xdivy Xlogy"
).split()


@_rule(*SAME_SHAPE_OPS)
def _same_shape(facts: NodeFacts) -> Shapes:
    return [facts.input_shapes[0]]


@_rule(*BROADCAST_OPS)
def _broadcast(facts: NodeFacts) -> Shapes:
    shapes = [shape for shape in facts.input_shapes if shape is not None]
    return [broadcast_shapes(shapes)] if len(shapes) == len(facts.input_shapes) else None


@_rule("IdentityN", "ShapeN")
def _identity_n(facts: NodeFacts) -> Shapes:
    return list(facts.input_shapes) if facts.node.op == "IdentityN" else None


@_rule("AddN", "Select")
def _like_last(facts: NodeFacts) -> Shapes:
    return [facts.input_shapes[-1]]


@_rule("MatMul")
def _matmul(facts: NodeFacts) -> Shapes:
    left, right = facts.input_shapes
    if left is None or right is None or len(left) != 2 or len(right) != 2:
        return None
    rows = left[1] if facts.boolean("transpose_a") else left[0]
    columns = right[0] if facts.boolean("transpose_b") else right[1]
    return [(rows, columns)]


@_rule("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(facts: NodeFacts) -> Shapes:
    left, right = facts.input_shapes
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    rows = left[-1] if facts.boolean("adj_x") else left[-2]
    columns = right[-2] if facts.boolean("adj_y") else right[-1]
    return [broadcast_shapes([left[:-2], right[:-2]]) + (rows, columns)]


@_rule("Einsum")
def _einsum(facts: NodeFacts) -> Shapes:
    left, arrow, right = facts.text("equation").replace(" ", "").partition("->")
    operands = left.split(",")
    if not arrow or "." in left or len(operands) != len(facts.input_shapes):
        return None
    sizes: dict[str, Dim] = {}
    for labels, shape in zip(operands, facts.input_shapes, strict=False):
        if shape is None or len(shape) != len(labels):
            return None
        for label, dim in zip(labels, shape, strict=False):
            if not isinstance(sizes.get(label), int):
                sizes[label] = dim if label not in sizes or isinstance(dim, int) else sizes[label]
    return [tuple(sizes[label] for label in right)]


@_rule("Transpose")
def _transpose(facts: NodeFacts) -> Shapes:
    shape, order = facts.input_shapes[0], facts.constant_input(1)
    return None if shape is None or order is None else [tuple(shape[axis] for axis in order)]


@_rule("Reshape")
def _reshape(facts: NodeFacts) -> Shapes:
    target, shape = facts.input_values[1], facts.input_shapes[0]
    if target is None or target.ndim != 1:
        return None
    dims: list[Dim] = target.tolist()
    if not all(dim == -1 or is_nonnegative(dim) for dim in dims):
        return None  # an entry that may be negative may be -1, which means another size
    if -1 not in dims:
        return [tuple(dims)]
    position = dims.index(-1)
    rest = product(dims[:position] + dims[position + 1 :])
    inferred = None if shape is None else divide_exactly(product(shape), rest)
    static = facts.output_shapes[0]
    if inferred is None and static is not None:
        inferred = static[position]
    return None if inferred is None else [(*dims[:position], inferred, *dims[position + 1 :])]


@_rule("Fill", "BroadcastTo")
def _value_is_shape(facts: NodeFacts) -> Shapes:
    target = facts.input_values[0 if facts.node.op == "Fill" else 1]
    if target is None or target.ndim != 1 or not all(is_nonnegative(dim) for dim in target.tolist()):
        return None
    return [tuple(target.tolist())]


@_rule("GatherV2", "Gather")
def _gather(facts: NodeFacts) -> Shapes:
    table, indices = facts.input_shapes[:2]
    axes = facts.constant_input(2) if facts.node.op == "GatherV2" else [0]
    if table is None or indices is None or axes is None:
        return None
    axis, batch = _axis(axes[0], len(table)), _axis(facts.integer("batch_dims"), len(indices))
    return [table[:axis] + indices[batch:] + table[axis + 1 :]]


@_rule("ConcatV2")
def _concat(facts: NodeFacts) -> Shapes:
    axes, shapes = facts.constant_input(len(facts.input_shapes) - 1), facts.input_shapes[:-1]
    known = [shape for shape in shapes if shape is not None]
    if axes is None or len(known) != len(shapes):
        return None
    axis = _axis(axes[0], len(known[0]))
    total: Dim = 0
    for shape in known:
        total = total + shape[axis]
    return [known[0][:axis] + (total,) + known[0][axis + 1 :]]


@_rule("Sum", "Mean", "Max", "Min", "Prod", "All", "Any", "EuclideanNorm")
def _reduction(facts: NodeFacts) -> Shapes:
    shape, axes = facts.input_shapes[0], facts.constant_input(1)
    if shape is None or axes is None:
        return None
    reduced = {_axis(axis, len(shape)) for axis in axes}
    if facts.boolean("keep_dims"):
        return [tuple(1 if axis in reduced else dim for axis, dim in enumerate(shape))]
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in reduced)]


@_rule("ArgMax", "ArgMin")
def _arg_reduction(facts: NodeFacts) -> Shapes:
    shape, axes = facts.input_shapes[0], facts.constant_input(1)
    if shape is None or axes is None:
        return None
    axis = _axis(axes[0], len(shape))
    return [shape[:axis] + shape[axis + 1 :]]


@_rule("Pack")
def _pack(facts: NodeFacts) -> Shapes:
    shape = next((known for known in facts.input_shapes if known is not None), None)
    if shape is None:
        return None
    axis = _axis(facts.integer("axis"), len(shape) + 1)
    return [shape[:axis] + (len(facts.input_shapes),) + shape[axis:]]


@_rule("Unpack")
def _unpack(facts: NodeFacts) -> Shapes:
    shape = facts.input_shapes[0]
    if shape is None:
        return None
    axis = _axis(facts.integer("axis"), len(shape))
    return [shape[:axis] + shape[axis + 1 :]] * len(facts.output_shapes)


@_rule("Split")
def _split(facts: NodeFacts) -> Shapes:
    axes, shape = facts.constant_input(0), facts.input_shapes[1]
    if axes is None or shape is None:
        return None
    axis = _axis(axes[0], len(shape))
    part = divide_exactly(shape[axis], len(facts.output_shapes))
    return None if part is None else [shape[:axis] + (part,) + shape[axis + 1 :]] * len(facts.output_shapes)


@_rule("SplitV")
def _split_v(facts: NodeFacts) -> Shapes:
    shape, sizes, axes = facts.input_shapes[0], facts.input_values[1], facts.constant_input(2)
    if shape is None or sizes is None or axes is None or not all(is_nonnegative(size) for size in sizes.tolist()):
        return None
    axis = _axis(axes[0], len(shape))
    return [shape[:axis] + (size,) + shape[axis + 1 :] for size in sizes.tolist()]


@_rule("ExpandDims")
def _expand_dims(facts: NodeFacts) -> Shapes:
    shape, axes = facts.input_shapes[0], facts.constant_input(1)
    if shape is None or axes is None:
        return None
    axis = _axis(axes[0], len(shape) + 1)
    return [shape[:axis] + (1,) + shape[axis:]]


@_rule("Squeeze")
def _squeeze(facts: NodeFacts) -> Shapes:
    shape, axes = facts.input_shapes[0], facts.integers("squeeze_dims")
    if shape is None:
        return None
    if axes:
        removed = {_axis(axis, len(shape)) for axis in axes}
    elif all(isinstance(dim, int) for dim in shape):
        removed = {axis for axis, dim in enumerate(shape) if dim == 1}
    else:
        return None
    return [tuple(dim for axis, dim in enumerate(shape) if axis not in removed)]


@_rule("Slice")
def _slice(facts: NodeFacts) -> Shapes:
    shape, begin, size = facts.input_shapes[0], facts.constant_input(1), facts.input_values[2]
    if shape is None or size is None:
        return None
    dims: list[Dim] = []
    for axis, wanted in enumerate(size.tolist()):
        if wanted == -1 and begin is not None:
            dims.append(shape[axis] - begin[axis])
        elif wanted != -1 and is_nonnegative(wanted):
            dims.append(wanted)
        else:
            return None
    return [tuple(dims)]


@_rule("StridedSlice")
def _strided_slice(facts: NodeFacts) -> Shapes:
    """Knows the slices whose unknown dimensions are taken whole (by [:] or [...]) or are cut from a constant front."""
    shape, strides = facts.input_shapes[0], facts.constant_input(3)
    begin, end, static = facts.constant_input(1), facts.constant_input(2), facts.output_shapes[0]
    if shape is None or strides is None or begin is None or end is None or static is None:
        return None
    new, shrink = facts.integer("new_axis_mask"), facts.integer("shrink_axis_mask")
    ellipsis, open_begin, open_end = (facts.integer(f"{name}_mask") for name in ("ellipsis", "begin", "end"))
    dims: list[Dim] = []
    axis = 0
    for index, stride in enumerate(strides):
        bit = 1 << index
        if ellipsis & bit:
            behind = sum(not new & 1 << later for later in range(index + 1, len(strides)))
            dims.extend(shape[axis : len(shape) - behind])
            axis = len(shape) - behind
            continue
        if new & bit:
            dims.append(1)
            continue
        if not shrink & bit:
            whole = stride == 1 and (open_begin & bit or begin[index] == 0) and open_end & bit
            if len(dims) >= len(static):
                return None
            dims.append(shape[axis] if whole else static[len(dims)])
        axis += 1
    return [(*dims, *shape[axis:])]


@_rule("Pad", "PadV2", "MirrorPad")
def _pad(facts: NodeFacts) -> Shapes:
    shape, paddings = facts.input_shapes[0], facts.input_values[1]
    if shape is None or paddings is None or paddings.shape != (len(shape), 2):
        return None
    return [tuple(dim + before + after for dim, (before, after) in zip(shape, paddings.tolist(), strict=False))]


@_rule("Tile")
def _tile(facts: NodeFacts) -> Shapes:
    shape, multiples = facts.input_shapes[0], facts.input_values[1]
    if shape is None or multiples is None:
        return None
    return [tuple(dim * multiple for dim, multiple in zip(shape, multiples.tolist(), strict=False))]


@_rule("Range")
def _range(facts: NodeFacts) -> Shapes:
    start, limit, delta = facts.input_values
    if start is None or limit is None or delta is None or (start.item(), delta.item()) != (0, 1):
        return None
    return [(limit.item(),)] if is_nonnegative(limit.item()) else None


@_rule("OneHot")
def _one_hot(facts: NodeFacts) -> Shapes:
    shape, depth = facts.input_shapes[0], facts.input_values[1]
    if shape is None or depth is None or not is_nonnegative(depth.item()):
        return None
    axis = _axis(facts.integer("axis", -1), len(shape) + 1)
    return [shape[:axis] + (depth.item(),) + shape[axis:]]


@_rule("Conv2D", "DepthwiseConv2dNative", "MaxPool", "MaxPoolV2", "AvgPool")
def _window(facts: NodeFacts) -> Shapes:
    """Batch and channels as they are; a spatial size is an atom that says all that it depends on."""
    shape, static = facts.input_shapes[0], facts.output_shapes[0]
    if shape is None or static is None or len(shape) != 4:
        return None
    channels_first = facts.text("data_format") == "NCHW"
    spatial = (2, 3) if channels_first else (1, 2)
    strides, padding = facts.integers("strides"), facts.text("padding")
    dims = list(static)
    dims[0] = shape[0]
    if "Pool" in facts.node.op:
        dims[1 if channels_first else 3] = shape[1 if channels_first else 3]
    for axis in spatial:
        if padding == "SAME" and strides and strides[axis] == 1:
            dims[axis] = shape[axis]
            continue
        kernel = facts.integers("ksize")[axis : axis + 1]
        if "Conv" in facts.node.op and facts.input_shapes[1] is not None:
            size = facts.input_shapes[1][spatial.index(axis)]
            kernel = [size] if isinstance(size, int) else []
        if not kernel or not strides or padding not in ("SAME", "VALID"):
            continue
        dilation = (facts.integers("dilations") or [1] * 4)[axis]
        dims[axis] = window(f"{label_of(shape[axis])},{padding},{kernel[0]},{strides[axis]},{dilation}")
    return [tuple(dims)]
