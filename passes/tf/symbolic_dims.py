"""Integer expressions over unknown dimensions, in a normal form in which equal expressions are equal objects.

A dimension is an int, or a polynomial with integer coefficients over atoms. An atom is an unknown dimension of some
tensor ("input_ids:0[1]"), or an operation on expressions that a polynomial cannot express (a floor division, the
broadcast of two dimensions). Two expressions that compare equal are equal for every feed; two that differ may or may
not be. Equality is all that the passes rely on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias


@dataclass(frozen=True)
class Atom:
    """Something unknown that expressions are made of.

    Attributes:
        label: Unique text; atoms are equal exactly if their labels are.
        operation: "symbol" where nothing is known of it, "broadcast", "window", or "floordiv", "mod", "minimum",
            "maximum", which can be computed from the operands.
        operands: What it is computed from.
        is_nonnegative: Whether it is at least 0 for every feed, as each dimension is.
    """

    label: str
    operation: str = "symbol"
    operands: tuple[Dim, ...] = ()
    is_nonnegative: bool = True

    def __hash__(self) -> int:
        return hash(self.label)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and self.label == other.label

    def __lt__(self, other: Atom) -> bool:
        return self.label < other.label


Monomial: TypeAlias = tuple[Atom, ...]
"""A product of atoms, sorted; () stands for 1."""


class Expression:
    """A polynomial over atoms that is no constant. Build it with `symbol` and with +, -, *, //, %.

    Attributes:
        terms: Monomials with their coefficients (never 0), sorted.
    """

    __slots__ = ("__dict__", "_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    @cached_property
    def label(self) -> str:
        """The expression as text."""
        parts = []
        for monomial, coefficient in self.terms:
            factors = [atom.label for atom in monomial]
            parts.append("*".join(([] if coefficient == 1 and factors else [str(coefficient)]) + factors))
        return "+".join(parts) if len(parts) == 1 else f"({'+'.join(parts)})"

    @property
    def atom(self) -> Atom | None:
        """The atom, where the expression is nothing but one atom."""
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            return self.terms[0][0][0]
        return None

    @property
    def is_nonnegative(self) -> bool:
        """Whether the value is certainly at least 0."""
        return all(
            coefficient > 0 and all(atom.is_nonnegative for atom in monomial) for monomial, coefficient in self.terms
        )

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self._hash == other._hash and self.terms == other.terms

    def __repr__(self) -> str:
        return self.label

    def __add__(self, other: Dim) -> Dim:
        return _normal(_sum([(self, 1), (other, 1)]))

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return _normal(_sum([(self, 1), (other, -1)]))

    def __rsub__(self, other: int) -> Dim:
        return _normal(_sum([(other, 1), (self, -1)]))

    def __neg__(self) -> Dim:
        return _normal(_sum([(self, -1)]))

    def __mul__(self, other: Dim) -> Dim:
        products: dict[Monomial, int] = {}
        for left, left_coefficient in self.terms:
            for right, right_coefficient in _terms(other):
                monomial = tuple(sorted(left + right))
                products[monomial] = products.get(monomial, 0) + left_coefficient * right_coefficient
        return _normal(products)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        exact = divide_exactly(self, other)
        return exact if exact is not None else operation("floordiv", self, other)

    def __rfloordiv__(self, other: int) -> Dim:
        return operation("floordiv", other, self)

    def __mod__(self, other: Dim) -> Dim:
        return 0 if divide_exactly(self, other) is not None else operation("mod", self, other)

    def __rmod__(self, other: int) -> Dim:
        return operation("mod", other, self)


Dim: TypeAlias = int | Expression
"""A dimension, or an entry of a tensor of shape arithmetic."""


def symbol(label: str) -> Expression:
    """Returns the unknown dimension called `label`."""
    return _of_atom(Atom(label))


def label_of(dim: Dim) -> str:
    """Returns a dimension as text."""
    return str(dim) if isinstance(dim, int) else dim.label


def is_nonnegative(dim: Dim) -> bool:
    """Whether a value is certainly at least 0."""
    return dim >= 0 if isinstance(dim, int) else dim.is_nonnegative


def operation(name: str, *operands: Dim) -> Dim:
    """Returns the atom that stands for an operation that polynomials cannot express."""
    positive_divisor = name not in ("floordiv", "mod") or (isinstance(operands[-1], int) and operands[-1] > 0)
    atom = Atom(
        label=f"{name}({','.join(label_of(operand) for operand in operands)})",
        operation=name,
        operands=operands,
        is_nonnegative=positive_divisor and all(is_nonnegative(operand) for operand in operands),
    )
    return _of_atom(atom)


def window(label: str) -> Dim:
    """Returns the atom of a size that a convolution or pooling leaves; `label` says all that it depends on."""
    return _of_atom(Atom(f"window({label})", operation="window"))


def product(dims: Iterable[Dim]) -> Dim:
    """Returns the product; 1 for none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def divide_exactly(dividend: Dim, divisor: Dim) -> Dim | None:
    """Returns the quotient where the divisor is a monomial that divides every term; None otherwise."""
    terms = _terms(divisor)
    if len(terms) != 1:
        return 1 if dividend == divisor else None
    (monomial, coefficient) = terms[0]
    if coefficient == 0:
        return None
    if dividend == 0:
        return 0
    quotient: dict[Monomial, int] = {}
    for factors, factor in _terms(dividend):
        rest = list(factors)
        for atom in monomial:
            if atom not in rest:
                return None
            rest.remove(atom)
        if factor % coefficient:
            return None
        quotient[tuple(rest)] = factor // coefficient
    return _normal(quotient)


def broadcast(*dims: Dim) -> Dim:
    """Returns the dimension that broadcasting gives.

    Constants other than 1 decide alone. Where several differ symbolically, any of them may be 1 for some feed, so the
    result is an atom over the set of them: broadcasting is associative, commutative and idempotent.
    """
    operands: dict[str, Dim] = {}
    for dim in dims:
        atom = None if isinstance(dim, int) else dim.atom
        parts = atom.operands if atom is not None and atom.operation == "broadcast" else (dim,)
        for part in parts:
            if isinstance(part, int) and part != 1:
                return part
            if part != 1:
                operands[label_of(part)] = part
    if not operands:
        return 1
    chosen = tuple(operands[label] for label in sorted(operands))
    return chosen[0] if len(chosen) == 1 else operation("broadcast", *chosen)


def _of_atom(atom: Atom) -> Expression:
    return Expression((((atom,), 1),))


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return (((), int(dim)),) if not isinstance(dim, Expression) else dim.terms


def _sum(parts: Iterable[tuple[Dim, int]]) -> dict[Monomial, int]:
    total: dict[Monomial, int] = {}
    for dim, sign in parts:
        for monomial, coefficient in _terms(dim):
            total[monomial] = total.get(monomial, 0) + sign * coefficient
    return total


def _normal(terms: Mapping[Monomial, int]) -> Dim:
    kept = {monomial: coefficient for monomial, coefficient in terms.items() if coefficient}
    if not kept:
        return 0
    if list(kept) == [()]:
        return kept[()]
    return Expression(tuple(sorted(kept.items(), key=lambda term: (len(term[0]), term[0]))))
