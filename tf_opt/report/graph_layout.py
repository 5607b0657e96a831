"""Places the boxes of an acyclic graph in rows from top to bottom, with the labels of its edges between them.

The usual four steps for layered drawings: a row for each box; points where edges cross rows; an order within each row
that lets few edges cross; coordinates that keep edges straight. Labels are boxes of rows of their own, so that nothing
overlaps. The same graph always gives the same picture.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Size = tuple[float, float]
"""Width and height."""

ROW_GAP, BOX_GAP, LINE_GAP = 22.0, 28.0, 18.0
"""Distances in pixels: between rows; between boxes and labels of a row; around an edge that only passes a row."""

_ORDER_SWEEPS, _COORDINATE_SWEEPS = 12, 40
_PORT_SHARE, _PORT_GAP = 0.6, 18.0
"""The share of a box's width in which edges meet it, and how far apart they do where there is room."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a box or a label lies, in pixels from the left and the top.

    Attributes:
        x: Left side.
        y: Upper side.
        width: Width.
        height: Height.
    """

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Horizontal centre."""
        return self.x + self.width / 2


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The whole picture.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        boxes: Placement by box.
        labels: Placement of the label of each edge, in the order of the edges.
        paths: The points that each edge goes through, from box to box.
    """

    width: float
    height: float
    boxes: Mapping[str, Placement]
    labels: tuple[Placement, ...]
    paths: tuple[tuple[tuple[float, float], ...], ...]


@dataclass
class _Cell:
    """What has a place in a row: a box, a label, or a point where an edge passes."""

    row: int
    size: Size
    above: list[_Cell] = field(default_factory=list)
    below: list[_Cell] = field(default_factory=list)
    position: int = 0
    center: float = 0.0

    @property
    def is_point(self) -> bool:
        return self.size == (0.0, 0.0)


def layered_layout(
    boxes: Mapping[str, Size], edges: Sequence[tuple[str, str]], label_sizes: Sequence[Size], margin: float = 16.0
) -> Layout:
    """Places boxes so that all edges lead down.

    Args:
        boxes: Sizes by box, in topological order.
        edges: (source, target), all of them boxes.
        label_sizes: Size of the label of each edge.
        margin: Empty pixels around the picture.
    """
    rows_of = _rows(list(boxes), edges)
    cells = {name: _Cell(2 * rows_of[name], size) for name, size in boxes.items()}
    labels = [
        _Cell(cells[target].row - 1, (max(size[0], 1.0), max(size[1], 1.0)))
        for (_, target), size in zip(edges, label_sizes, strict=True)
    ]
    trails = _trails(cells, edges, labels)
    rows: list[list[_Cell]] = [[] for _ in range(max((cell.row for cell in cells.values()), default=0) + 1)]
    seen: set[int] = set()
    for cell in [*cells.values(), *(cell for trail in trails for cell in trail)]:
        if id(cell) not in seen:
            seen.add(id(cell))
            rows[cell.row].append(cell)
    _order(rows)
    _place(rows)
    left = min((cell.center - cell.size[0] / 2 for row in rows for cell in row), default=0.0) - margin
    tops, top = [], margin
    for row in rows:
        tops.append(top)
        top += max((cell.size[1] for cell in row), default=0.0) + ROW_GAP
    heights = [max((cell.size[1] for cell in row), default=0.0) for row in rows]

    def placement(cell: _Cell) -> Placement:
        width, height = cell.size
        y = tops[cell.row] + (heights[cell.row] - height) / 2
        return Placement(x=round(cell.center - width / 2 - left, 1), y=round(y, 1), width=width, height=height)

    placed = {name: placement(cell) for name, cell in cells.items()}
    label_places = tuple(map(placement, labels))
    starts = _ports([(source, trail[0]) for (source, _), trail in zip(edges, trails, strict=True)], placed, left)
    ends = _ports([(target, trail[-1]) for (_, target), trail in zip(edges, trails, strict=True)], placed, left)
    paths = []
    for (source, target), trail, start, end in zip(edges, trails, starts, ends, strict=True):
        passed = [(round(cell.center - left, 1), tops[cell.row] + heights[cell.row] / 2) for cell in trail]
        first = (start, placed[source].y + placed[source].height)
        paths.append((first, *passed, (end, placed[target].y)))
    right = max((cell.center + cell.size[0] / 2 for row in rows for cell in row), default=0.0)
    return Layout(
        width=round(right - left + margin, 1),
        height=round(top - ROW_GAP + margin, 1),
        boxes=placed,
        labels=label_places,
        paths=tuple(paths),
    )


def _rows(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Returns the row of each box: below all that it depends on, and boxes without input just above their readers."""
    before: dict[str, list[str]] = {name: [] for name in names}
    after: dict[str, list[str]] = {name: [] for name in names}
    for source, target in edges:
        before[target].append(source)
        after[source].append(target)
    rows: dict[str, int] = {}
    for name in names:
        rows[name] = 1 + max((rows[source] for source in before[name]), default=-1)
    for name in names:
        if not before[name] and after[name]:
            rows[name] = min(rows[target] for target in after[name]) - 1
    return rows


def _trails(cells: Mapping[str, _Cell], edges: Sequence[tuple[str, str]], labels: Sequence[_Cell]) -> list[list[_Cell]]:
    """Returns the cells that each edge passes, its label last. Edges from one box share their points on the way."""
    points: dict[str, list[_Cell]] = {}
    trails = []
    for (source, target), label in zip(edges, labels, strict=True):
        shared = points.setdefault(source, [])
        upper = cells[source]
        while upper.row + len(shared) + 1 < label.row:
            shared.append(_Cell(upper.row + len(shared) + 1, (0.0, 0.0)))
            _link(shared[-2] if len(shared) > 1 else upper, shared[-1])
        passed = shared[: label.row - upper.row - 1]
        _link(passed[-1] if passed else upper, label)
        _link(label, cells[target])
        trails.append([*passed, label])
    return trails


def _link(upper: _Cell, lower: _Cell) -> None:
    upper.below.append(lower)
    lower.above.append(upper)


def _order(rows: Sequence[list[_Cell]]) -> None:
    """Sorts each row by where its neighbours lie, down and up in turn, and keeps what had the fewest crossings."""
    _number(rows)
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(_ORDER_SWEEPS):
        if fewest == 0:
            break
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            row.sort(key=lambda cell: _mean_position(cell, cell.above if down else cell.below))
            _number([row])
        crossings = _crossings(rows)
        if crossings < fewest:
            best, fewest = [list(row) for row in rows], crossings
    for row, kept in zip(rows, best, strict=True):
        row[:] = kept
    _number(rows)


def _mean_position(cell: _Cell, neighbours: Sequence[_Cell]) -> float:
    if not neighbours:
        return float(cell.position)
    return sum(each.position for each in neighbours) / len(neighbours)


def _number(rows: Sequence[list[_Cell]]) -> None:
    for row in rows:
        for position, cell in enumerate(row):
            cell.position = position


def _crossings(rows: Sequence[list[_Cell]]) -> int:
    count = 0
    for row in rows:
        passed: list[int] = []
        for cell in row:
            ends = sorted(below.position for below in cell.below)
            count += sum(len(passed) - bisect_right(passed, end) for end in ends)
            for end in ends:
                insort(passed, end)
    return count


def _place(rows: Sequence[list[_Cell]]) -> None:
    """Moves cells towards the middle of their neighbours, as far as the order and the distances of their row allow."""
    for row in rows:
        _spread(row, [0.0] * len(row), [1.0] * len(row))
    for sweep in range(_COORDINATE_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wished, weights = [], []
            for cell in row:
                links = [(each.center, _stiffness(cell, each)) for each in (*cell.above, *cell.below)]
                weight = sum(stiffness for _, stiffness in links)
                wished.append(
                    sum(center * stiffness for center, stiffness in links) / weight if weight else cell.center
                )
                weights.append(weight or 1.0)
            _spread(row, wished, weights)


def _stiffness(one: _Cell, other: _Cell) -> float:
    """How much a link wants to be straight: most where an edge passes several rows."""
    return (1.0, 3.0, 16.0)[one.is_point + other.is_point]


def _spread(row: Sequence[_Cell], wished: Sequence[float], weights: Sequence[float]) -> None:
    """Sets the centres that keep order and distances and are nearest to the wished ones, by weighted least squares.

    Less the offsets that the distances take, the centres must not fall from left to right. So wherever the wishes fall,
    the cells are pooled and take the weighted mean of their wishes.
    """
    offsets, offset = [], 0.0
    for number, cell in enumerate(row):
        if number:
            before = row[number - 1]
            gap = LINE_GAP if cell.is_point or before.is_point else BOX_GAP
            offset += (before.size[0] + cell.size[0]) / 2 + gap
        offsets.append(offset)
    pools: list[tuple[float, float, int]] = []  # Mean of the wishes, weight and number of the cells that move as one.
    for wish, weight, offset in zip(wished, weights, offsets, strict=True):
        pools.append((wish - offset, weight, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (mean, heavy, count), (other, more, others) = pools.pop(), pools.pop()
            pools.append(((mean * heavy + other * more) / (heavy + more), heavy + more, count + others))
    places = [mean for mean, _, count in pools for _ in range(count)]
    for cell, place, offset in zip(row, places, offsets, strict=True):
        cell.center = place + offset


def _ports(meetings: Sequence[tuple[str, _Cell]], placed: Mapping[str, Placement], left: float) -> list[float]:
    """Returns where each edge meets its box: straight above or below where it comes from, as far as there is room."""
    neighbours: dict[str, dict[int, _Cell]] = {}
    for name, cell in meetings:
        neighbours.setdefault(name, {})[id(cell)] = cell
    ports: dict[tuple[str, int], float] = {}
    for name, cells in neighbours.items():
        box = placed[name]
        ordered = sorted(cells.values(), key=lambda cell: cell.center)
        reach = box.width * _PORT_SHARE / 2
        gap = min(_PORT_GAP, 2 * reach / len(ordered))
        places: list[float] = []
        for number, cell in enumerate(ordered):
            # Each leaves room for those that come after it.
            last = box.middle + reach - gap * (len(ordered) - 1 - number)
            first = places[-1] + gap if places else box.middle - reach
            places.append(max(first, min(cell.center - left, last)))
        ports.update({(name, id(cell)): round(place, 1) for cell, place in zip(ordered, places, strict=True)})
    return [ports[name, id(cell)] for name, cell in meetings]
