"""The graph of a report as a picture: where each box, line and label goes, and what is written there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tf_opt.report.graph_layout import Placement, layered_layout
from tf_opt.report.optimization import SegmentReport
from tf_opt.report.segment_graph import GraphBox, GraphEdge, SegmentGraph
from tf_opt.report.verdict import count

CHARACTER_WIDTH = 7.0
"""Pixels that a character of the picture's text takes on average, rather too many than too few."""

_LINE_HEIGHT, _PADDING = 17.0, 11.0
_LARGEST_TEXT, _LARGEST_LABEL = 34, 30


@dataclass(frozen=True, kw_only=True)
class DrawnBox:
    """A box of the picture.

    Attributes:
        box: What it stands for.
        segment: The report of its segment, where it is one.
        status: "input", "output", "tensorflow"; of segments "adopted", "rejected" or "possible".
        place: Where it lies.
        lines: What is written in it.
        baselines: Vertical position of each line.
        incoming: Edges that lead here.
        outgoing: Edges that start here.
    """

    box: GraphBox
    segment: SegmentReport | None
    status: str
    place: Placement
    lines: tuple[str, ...]
    baselines: tuple[float, ...]
    incoming: tuple[GraphEdge, ...]
    outgoing: tuple[GraphEdge, ...]


@dataclass(frozen=True, kw_only=True)
class DrawnEdge:
    """A line of the picture.

    Attributes:
        edge: What it stands for.
        source: Title of the box where it starts.
        target: Title of the box where it ends.
        path: The line, as SVG writes paths.
        label: What is written on it; empty for nothing.
        place: Where the label lies.
    """

    edge: GraphEdge
    source: str
    target: str
    path: str
    label: str
    place: Placement


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The whole picture.

    Attributes:
        width: Pixels at full size.
        height: Pixels at full size.
        boxes: In topological order.
        edges: The lines between them.
    """

    width: float
    height: float
    boxes: tuple[DrawnBox, ...]
    edges: tuple[DrawnEdge, ...]


def draw(graph: SegmentGraph, segments: Sequence[SegmentReport], *, analysis: bool = False) -> Picture:
    """Returns the picture of a graph.

    Args:
        graph: Its boxes and edges.
        segments: What became of its segments.
        analysis: Whether nothing was built, so that no segment was rejected.
    """
    reports = {segment.name: segment for segment in segments}
    titles = {box.name: box.title for box in graph.boxes}
    written = {box.name: _lines(box, reports.get(box.name), analysis) for box in graph.boxes}
    labels = [_label(edge) for edge in graph.edges]
    layout = layered_layout(
        {name: _size(lines) for name, lines in written.items()},
        [(edge.source, edge.target) for edge in graph.edges],
        [(CHARACTER_WIDTH * len(label), _LINE_HEIGHT if label else 0.0) for label in labels],
    )
    boxes = []
    for box in graph.boxes:
        place, segment = layout.boxes[box.name], reports.get(box.name)
        boxes.append(
            DrawnBox(
                box=box,
                segment=segment,
                status=_status(box, segment, analysis),
                place=place,
                lines=written[box.name],
                baselines=tuple(
                    round(place.y + _PADDING + _LINE_HEIGHT * (number + 0.72), 1)
                    for number in range(len(written[box.name]))
                ),
                incoming=tuple(edge for edge in graph.edges if edge.target == box.name),
                outgoing=tuple(edge for edge in graph.edges if edge.source == box.name),
            )
        )
    edges = [
        DrawnEdge(
            edge=edge,
            source=titles[edge.source],
            target=titles[edge.target],
            path=_path(points),
            label=label,
            place=place,
        )
        for edge, points, label, place in zip(graph.edges, layout.paths, labels, layout.labels, strict=True)
    ]
    return Picture(width=layout.width, height=layout.height, boxes=tuple(boxes), edges=tuple(edges))


def _status(box: GraphBox, segment: SegmentReport | None, analysis: bool) -> str:
    if box.kind != "segment" or segment is None:
        return box.kind if box.kind != "segment" else "possible"
    return "adopted" if segment.adopted else "possible" if analysis else "rejected"


def _lines(box: GraphBox, segment: SegmentReport | None, analysis: bool) -> tuple[str, ...]:
    if box.kind in ("input", "output"):
        return (shortened(box.title), box.kind)
    nodes = count(box.node_count, "node")
    if segment is None:
        category = next(iter(box.categories), "")
        more = ", …" if len(box.categories) > 1 else ""
        return tuple(filter(None, (shortened(box.title), f"{nodes} in TensorFlow", shortened(category + more))))
    if not segment.adopted:
        return (segment.name, nodes, "could be an engine" if analysis else "stays TensorFlow")
    figures = [nodes, segment.precision]
    if segment.measurement is not None:
        figures.append(f"{segment.measurement.ratio:.2f}×")
    return (segment.name, " · ".join(figures), shortened(segment.library))


def shortened(text: str, length: int = _LARGEST_TEXT) -> str:
    """Returns the text with its middle left out where it is too long: names often differ at the end."""
    if len(text) <= length:
        return text
    tail = (length - 1) // 2
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def _size(lines: Sequence[str]) -> tuple[float, float]:
    width = max(80.0, CHARACTER_WIDTH * max(map(len, lines)) + 2 * _PADDING)
    return width, _LINE_HEIGHT * len(lines) + 2 * _PADDING - 3


def _label(edge: GraphEdge) -> str:
    if edge.tensor_count == 0:
        return "order only"
    types: Mapping[str, None] = dict.fromkeys(tensor.partition(" ")[2] for tensor in edge.tensors)
    first = next(iter(types))
    if edge.tensor_count == 1:
        return shortened(first, _LARGEST_LABEL)
    if len(types) == 1 and first:
        return f"{edge.tensor_count} × {shortened(first, _LARGEST_LABEL)}"
    return f"{edge.tensor_count} tensors"


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Returns a smooth line that leaves and meets every point vertically."""
    parts = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for (x, y), (next_x, next_y) in itertools.pairwise(points):
        if x == next_x:
            parts.append(f"V{next_y:g}")
        else:
            middle = (y + next_y) / 2
            parts.append(f"C{x:g} {middle:g} {next_x:g} {middle:g} {next_x:g} {next_y:g}")
    return "".join(parts)
