"""What is known of a tensor at the positions that hold no token.

When padding is not computed, tensors differ from the original ones there. Whether a real token can see the difference
is decided by following, operator by operator, three properties of each axis that counts positions, and one of the rows:

    wrong      values at padded positions of this axis may differ from the original's
    zero       values there are exactly 0 in the original, and so is what is put there (rows without a token excepted)
    lowered    values there are lower by so much than they would be at a real token, as the masked scores of attention
    rows       which whole rows of the batch may differ
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum


class Rows(IntEnum):
    """Which rows of the batch may differ from the original in all of their values."""

    NONE = 0
    EMPTY = 1
    """Rows without any token: all of their positions are padding."""
    CHOSEN = 2
    """Rows in which a position that was picked (the first, say) is padding."""


@dataclass(frozen=True, kw_only=True)
class PaddingFacts:
    """What is known of one tensor, see above; axes are counted from 0.

    Attributes:
        wrong: Axes of positions.
        zero: Axes of positions.
        lowered: Axes of positions, and by how much (a negative number).
        rows: Rows of the batch.
    """

    wrong: frozenset[int] = frozenset()
    zero: frozenset[int] = frozenset()
    lowered: Mapping[int, float] = field(default_factory=dict)
    rows: Rows = Rows.NONE

    @property
    def is_original(self) -> bool:
        """Whether the tensor is the original one in all of its values."""
        return not self.wrong and self.rows is Rows.NONE

    def moved(self, axes: Mapping[int, int]) -> PaddingFacts:
        """Returns the facts of a tensor whose axes stand elsewhere; what is not in `axes` has to be gone already."""
        return replace(
            self,
            wrong=frozenset(axes[axis] for axis in self.wrong),
            zero=frozenset(axes[axis] for axis in self.zero if axis in axes),
            lowered={axes[axis]: by for axis, by in self.lowered.items() if axis in axes},
        )

    def filled(self) -> PaddingFacts:
        """Returns the facts where 0 is written to the padded positions of the axes at which the original is 0."""
        rows = self.rows if not self.wrong & self.zero else max(self.rows, Rows.EMPTY)
        return replace(self, wrong=self.wrong - self.zero, rows=rows)


ORIGINAL = PaddingFacts()
"""Nothing differs, and nothing is known of padded positions."""


@dataclass(frozen=True)
class MaskFunction:
    """A tensor that is the same function of the mask at each position.

    Attributes:
        batch_axis: Its axis of rows; None where the mask has one row.
        sequence_axis: Its axis of positions.
        padded: Its value where the mask is 0.
        real: Its value where the mask is 1.
    """

    batch_axis: int | None
    sequence_axis: int
    padded: float
    real: float

    def moved(self, axes: Mapping[int, int]) -> MaskFunction | None:
        """Returns the function with its axes elsewhere; None where one of them is gone."""
        if self.sequence_axis not in axes or (self.batch_axis is not None and self.batch_axis not in axes):
            return None
        batch = None if self.batch_axis is None else axes[self.batch_axis]
        return MaskFunction(batch, axes[self.sequence_axis], self.padded, self.real)
