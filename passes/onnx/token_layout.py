"""Which axes of each tensor count the rows of a batch and the positions of a sequence.

A mask of padding has the shape [batch, sequence]. Every other tensor is related to it by the operators that combine
the two: attention adds the mask to its scores, so the keys' axis of the scores is the mask's sequence, and by their
shape arithmetic so are the axes of all tensors that the scores were computed from.

    mask                 [B, S]
    hidden states        [B, S, 384]
    scores               [B, 12, S, S]
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import onnx_ir as ir

from tf_opt.errors import SkipPaddingError
from tf_opt.passes.onnx.nodes import attributes_of
from tf_opt.passes.onnx.shape_rules import SymbolicShape
from tf_opt.passes.onnx.symbolic_shapes import SymbolicShapes
from tf_opt.passes.tf.symbolic_dims import Atom, Dim, Expression, product, symbol

_MAXIMUM_ROUNDS = 4
"""Rounds of analysis in which dimensions that are combined are made one; a BERT needs two."""

Leading: TypeAlias = Literal["pair", "merged"]
"""How a tensor begins: with the axes [batch, sequence], or with one axis of batch × sequence tokens."""


class AlignedShapes(SymbolicShapes):
    """Symbolic shapes in which dimensions of inputs that are combined with each other are taken to be equal.

    Broadcasting allows either to be 1 as well, so nothing that is found here is certain; who relies on it has to
    compute the right thing where a dimension turns out to be 1.

    The known sizes of inputs that may count rows or positions get a symbol too: 128 positions are not 128 features.
    """

    def __init__(self, model: ir.Model, mask: str | None, renamed: Mapping[str, Dim] | None = None) -> None:
        """Analyses the main graph.

        Args:
            model: A segment.
            mask: Name of the graph input that has the axes of batch and sequence; None where nothing is known of one.
            renamed: What stands for a symbol, by the symbol's label.
        """
        self._mask = mask
        self._renamed = dict(renamed or {})
        self.input_labels: set[str] = set()
        self._sizes: dict[str, int] = {}
        self._inputs = set(model.graph.inputs)
        self._equalities: list[tuple[Dim, Dim]] = []
        super().__init__(model)

    def size(self, dim: Dim) -> int | None:
        """Returns the number that a dimension certainly is; None where it is known only when the model runs."""
        if isinstance(dim, int):
            return dim
        total = 0
        for monomial, coefficient in dim.terms:
            for atom in monomial:
                if atom.label not in self._sizes:
                    return None
                coefficient *= self._sizes[atom.label]
            total += coefficient
        return total

    def is_equal(self, one: Dim, other: Dim) -> bool:
        """Whether two dimensions are certainly the same number."""
        size = self.size(one)
        return one == other or (size is not None and size == self.size(other))

    def equalities(self) -> Iterator[tuple[Dim, Dim]]:
        """Yields pairs of dimensions that some operator combines although they differ symbolically."""
        yield from self._equalities
        for shape in list(self._shapes.values()):
            for dim in shape:
                for atom in _atoms(dim):
                    if atom.operation == "broadcast":
                        yield from ((atom.operands[0], other) for other in atom.operands[1:])

    def _declare(self, value: ir.Value) -> None:
        super()._declare(value)
        if value not in self._inputs:
            return
        if (vector := self._vectors.get(value)) is not None:
            self._vectors[value] = tuple(map(self._name, vector))
        shape = self._shapes.get(value)
        if shape is None:
            return
        # The last axis of an input of floating point numbers counts features, but for the mask's.
        is_listed = value.name == self._mask or (value.dtype is not None and value.dtype.is_integer())
        counting = 2 if is_listed or len(shape) > 2 else len(shape) - 1
        dims: list[Dim] = []
        for axis, dim in enumerate(shape):
            if isinstance(dim, int) and dim > 1 and (axis < counting or value.name == self._mask):
                named = symbol(f"size {value.name}[{axis}]")
                self._sizes[named.label] = dim
                dim = named
            dims.append(self._name(dim))
            self.input_labels.update(atom.label for atom in _atoms(dims[-1]))
        self._shapes[value] = tuple(dims)

    def unknown(self, node: ir.Node, axis: int, output: int = 0) -> Dim:
        """Returns the unknown for a dimension of an output of `node`, or what was found to stand for it."""
        return self._name(super().unknown(node, axis, output))

    def _name(self, dim: Dim) -> Dim:
        """Returns a dimension with what was found to stand for it, or for what it is a sum of products of."""
        if not isinstance(dim, Expression) or not any(atom.label in self._renamed for atom in _factors(dim)):
            return dim
        total: Dim = 0
        for monomial, coefficient in dim.terms:
            factors = (self._renamed.get(atom.label, Expression((((atom,), 1),))) for atom in monomial)
            total = total + product(factors) * coefficient
        return total

    def _visit(self, node: ir.Node) -> None:
        super()._visit(node)
        value = node.outputs[0] if node.outputs else None
        shape = None if value is None else self._shapes.get(value)
        if value is None or shape is None or node.domain != "":
            return
        if node.op_type == "Reshape":
            source = self.shape(node.inputs[0])
            self._shapes[value] = shape if source is None else self._named_by_groups(source, shape)
            if -1 not in (self.vector(node.inputs[1]) or (-1,)):
                self._align(source or (), self._shapes[value])
        elif node.op_type in _ALIGNED and self._sizes:
            self._shapes[value] = self._named_by_alignment(node, shape)

    def _align(self, source: SymbolicShape, target: SymbolicShape) -> None:
        """Takes dimensions to be equal that a Reshape to the shape of another tensor pairs.

        Where they are not, it rearranges the elements, which nothing that relies on this can be made to do by mistake:
        a mask of another shape than the tokens' fails where it is broadcast to theirs.
        """
        left, right = ([dim for dim in shape if dim != 1] for shape in (source, target))
        pairs = [(one, other) for one, other in zip(left, right, strict=False) if one != other]
        if len(left) == len(right) and not any(isinstance(dim, int) for pair in pairs for dim in pair):
            self._equalities.extend(pairs)

    def _named_by_groups(self, source: SymbolicShape, target: SymbolicShape) -> SymbolicShape:
        """Gives the numbers of a Reshape's target the symbols of the dimensions that they split or merge."""
        dims = list(target)
        for inner, outer in reshape_groups(source, target, self.is_equal):
            kept = [axis for axis in inner if source[axis] != 1]
            if len(outer) == 1 and isinstance(dims[outer[0]], int) and dims[outer[0]] != 1:
                dims[outer[0]] = product(source[axis] for axis in kept)
        return tuple(dims)

    def _named_by_alignment(self, node: ir.Node, shape: SymbolicShape) -> SymbolicShape:
        """Gives the numbers that broadcasting left the symbols of the operands' dimensions of that size."""
        dims = list(shape)
        for value in node.inputs:
            operand = self.shape(value)
            for axis in range(1, min(len(operand or ()), len(dims)) + 1):
                if node.op_type == "MatMul" and axis <= 2:
                    continue
                assert operand is not None
                dim, current = operand[-axis], dims[-axis]
                if not isinstance(dim, Expression) or dim == current or self.size(dim) is None:
                    continue
                if isinstance(current, int) and current == self.size(dim):
                    dims[-axis] = dim
                elif isinstance(current, Expression) and self.size(current) == self.size(dim):
                    self._equalities.append((current, dim))
        return tuple(dims)


_ALIGNED = frozenset("Add And Div Equal Greater Less Max Min Mul MatMul Or Pow Sub Where Xor".split())


def reshape_groups(
    source: SymbolicShape, target: SymbolicShape, equal: Callable[[Dim, Dim], bool] = operator.eq
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns which axes of a reshaped tensor become which axes, as far as it is known, from the first axis on.

    Axes of size 1 belong to no group. ([B, S, 384], [B, S, 12, 32]) gives ((0,), (0,)), ((1,), (1,)), ((2,), (2, 3)).
    """
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    left = [axis for axis, dim in enumerate(source) if dim != 1]
    right = [axis for axis, dim in enumerate(target) if dim != 1]
    while left and right:
        smallest = next(
            (
                (taken, count - taken)
                for count in range(2, len(left) + len(right) + 1)
                for taken in range(max(1, count - len(right)), min(count - 1, len(left)) + 1)
                if equal(
                    product(source[axis] for axis in left[:taken]),
                    product(target[axis] for axis in right[: count - taken]),
                )
            ),
            None,
        )
        if smallest is None:
            break
        groups.append((tuple(left[: smallest[0]]), tuple(right[: smallest[1]])))
        left, right = left[smallest[0] :], right[smallest[1] :]
    return groups


def _factors(dim: Dim) -> Iterator[Atom]:
    if isinstance(dim, Expression):
        for monomial, _ in dim.terms:
            yield from monomial


def _atoms(dim: Dim) -> Iterator[Atom]:
    for atom in _factors(dim):
        yield atom
        for operand in atom.operands:
            yield from _atoms(operand)


def aligned_shapes(model: ir.Model, mask: str | None = None) -> AlignedShapes:
    """Returns the shapes of a model's values with the dimensions made one that its operators combine."""
    renamed: dict[str, Dim] = {}
    shapes = AlignedShapes(model, mask)
    for _ in range(_MAXIMUM_ROUNDS):
        before = dict(renamed)
        for pair in shapes.equalities():
            one, other = (_resolved(dim, renamed) for dim in pair)
            if one == other or not isinstance(one, Expression) or not isinstance(other, Expression):
                continue
            if one.label in shapes.input_labels:
                one, other = other, one  # What is unknown of a result is named after an input, not the other way.
            if one.atom is not None and one.atom not in _atoms(other):
                renamed[one.label] = other
            elif other.atom is not None and other.atom not in _atoms(one):
                renamed[other.label] = one
        if renamed == before:
            break
        shapes = AlignedShapes(model, mask, {label: _resolved(dim, renamed) for label, dim in renamed.items()})
    return shapes


def _resolved(dim: Dim, renamed: Mapping[str, Dim]) -> Dim:
    while isinstance(dim, Expression) and dim.label in renamed:
        dim = renamed[dim.label]
    return dim


@dataclass(frozen=True)
class TokenLayout:
    """Where batch and sequence are among the axes of a model's tensors.

    Attributes:
        shapes: The symbolic shapes.
        mask: The graph input that says which positions hold a token.
        batch: The number of rows; 1 where the model is made for one.
        sequence: The number of positions of each row.
        batch_axis: The mask's axis of rows.
        sequence_axis: The mask's axis of positions.
    """

    shapes: AlignedShapes
    mask: ir.Value
    batch: Dim
    sequence: Dim
    batch_axis: int
    sequence_axis: int

    def batch_axis_of(self, value: ir.Value) -> int | None:
        """Returns the axis of rows; None where there is none, or where it cannot be told from another axis."""
        shape = self.shapes.shape(value)
        if shape is None or self.batch == 1:
            return None
        found = [axis for axis, dim in enumerate(shape) if dim == self.batch]
        return found[0] if len(found) == 1 else None

    def sequence_axes_of(self, value: ir.Value) -> tuple[int, ...]:
        """Returns the axes of positions: one for hidden states, two for attention scores, none elsewhere."""
        shape = self.shapes.shape(value) or ()
        return tuple(axis for axis, dim in enumerate(shape) if dim == self.sequence)

    def leading(self, value: ir.Value | None) -> Leading | None:
        """Returns how a tensor begins where it has one vector (or more) for each token; None elsewhere."""
        shape = self.shapes.shape(value)
        if shape is None:
            return None
        if len(shape) >= 2 and shape[:2] == (self.batch, self.sequence):
            return "pair" if self._is_plain(shape[2:]) else None
        if shape and shape[0] == self.batch * self.sequence:
            return "merged" if self._is_plain(shape[1:]) else None
        return None

    def moved_axes(self, node: ir.Node) -> dict[int, int]:
        """Returns where the axes of the first input are in the output, for an operator that moves or splits axes.

        Axes that are split, merged, or of size 1 are left out.
        """
        source, target = self.shapes.shape(node.inputs[0]), self.shapes.shape(node.outputs[0])
        if source is None or target is None:
            return {}
        if node.op_type == "Transpose":
            order = attributes_of(node, "perm") or tuple(reversed(range(len(source))))
            return {axis: position for position, axis in enumerate(order)}
        if node.op_type == "Expand":
            return {axis: axis + len(target) - len(source) for axis in range(len(source))}
        groups = reshape_groups(source, target, self.shapes.is_equal)
        return {inner[0]: outer[0] for inner, outer in groups if len(inner) == len(outer) == 1}

    def _is_plain(self, dims: SymbolicShape) -> bool:
        return all(self.shapes.size(dim) is not None and dim not in (self.batch, self.sequence) for dim in dims)

    def tail(self, value: ir.Value, leading: Leading) -> tuple[int, ...]:
        """Returns the sizes of the axes behind those that count tokens."""
        shape = self.shapes.shape(value) or ()
        sizes = [self.shapes.size(dim) for dim in shape[2 if leading == "pair" else 1 :]]
        return tuple(size for size in sizes if size is not None)


def token_layout(model: ir.Model, mask: str) -> TokenLayout:
    """Returns where batch and sequence are among the axes of a model's tensors.

    Args:
        model: A segment.
        mask: Name of the graph input of shape [batch, sequence], any number of axes of size 1 besides.

    Raises:
        SkipPaddingError: There is no such input, or its shape is another.
    """
    found = next((value for value in model.graph.inputs if value.name == mask), None)
    if found is None:
        names = ", ".join(str(value.name) for value in model.graph.inputs)
        raise SkipPaddingError(f"The model has no graph input {mask!r} to tell padding by; its inputs are {names}.")
    shapes = aligned_shapes(model, mask)
    shape = shapes.shape(found)
    if shape is None or len(shape) < 2 or any(dim != 1 for dim in shape[1:-1]):
        raise SkipPaddingError(
            f"The mask {mask!r} has the shape {list(shape) if shape is not None else 'of unknown rank'}; expected "
            "[batch, sequence]."
        )
    batch, sequence = shape[0], shape[-1]
    if batch == sequence:
        raise SkipPaddingError(
            f"The rows and the positions of the mask {mask!r} cannot be told apart: both are {sequence}."
        )
    return TokenLayout(shapes, found, batch, sequence, 0, len(shape) - 1)
