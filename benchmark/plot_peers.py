"""Makes the table and the plot of a result of peers.py.

python benchmark/plot_peers.py [--result benchmark/results/peers.json] [--plot benchmark/results/peers.svg]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "results"

COLORS = {
    "tensorflow": "#7f7f7f",
    "tf_opt": "#d95f02",
    "onnxruntime": "#1b9e77",
    "openvino": "#7570b3",
    "torch": "#66a61e",
}
"""By family: the first word of a peer's name. Qualitative colors that stay apart for color-blind readers."""

PRECISIONS = ("fp32", "fp16", "bf16", "int8", "auto")


def points_of(result: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Returns the points of a result, by sequence, then by batch."""
    return sorted({(row["batch"], row["sequence"]) for row in result["rows"]}, key=lambda each: (each[1], each[0]))


def peers_of(result: Mapping[str, Any]) -> list[str]:
    """Returns the peers that were timed, by precision; within one, in the order of the result."""
    timed = {row["peer"] for row in result["rows"]}
    named = [name for name in result["peers"] if name in timed]
    return sorted(named, key=lambda name: PRECISIONS.index(result["peers"][name]["precision"]))


def row_of(result: Mapping[str, Any], peer: str, point: tuple[int, int]) -> Mapping[str, Any] | None:
    """Returns the row of a peer at a point; of the original, which each group has, that of the first group."""
    for row in result["rows"]:
        if row["peer"] == peer and (row["batch"], row["sequence"]) == point:
            return row
    return None


def markdown(result: Mapping[str, Any]) -> str:
    """Returns the result as a table in Markdown, with what it was measured on below."""
    points = points_of(result)
    header = ["peer", "precision", *(f"{batch}×{sequence}" for batch, sequence in points), "largest error"]
    lines = [header, ["---"] * 2 + ["---:"] * (len(points) + 1)]
    for peer in peers_of(result):
        entry = result["peers"][peer]
        cells = [_cell(row_of(result, peer, point)) for point in points]
        error = max((each["maximum_absolute"] for each in entry["errors"].values()), default=0.0)
        lines.append([f"`{peer}`", entry["precision"], *cells, f"{error:.1g}" if error else "0"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in result["matmul_gflops"].items() if rate)
    environment = result["environment"]
    notes = [
        "Each cell: median in ms · how many times as fast as the original Session · share of the machine's matmul "
        "ceiling in that precision.",
        f"Machine: {environment['cpu']}, {environment['threads']} threads ({', '.join(environment['cpu_flags'])}); "
        f"large matrix products in GFLOP/s: {rates}.",
        *(f"Left out: `{name}`: {reason.rstrip('.')}." for name, reason in result["left_out"].items()),
    ]
    return "\n\n".join([table, *notes])


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    milliseconds = 1e3 * row["median"]
    time = f"{milliseconds:.0f}" if milliseconds >= 100 else f"{milliseconds:.1f}"
    share = row.get("share_of_ceiling")
    return f"{time} · {row['ratio_to_original']:.2f}" + (f" · {100 * share:.0f}%" if share is not None else "")


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Draws one panel a point: for each peer how many times as fast as the original it is.

    The grey bar behind each reaches to the machine's matmul ceiling in that precision.

    Args:
        result: What peers.py wrote.
        path: An .svg or .png file.
    """
    import matplotlib

    matplotlib.use("Agg")  # No screen is needed.
    matplotlib.rcParams["svg.fonttype"] = "none"  # Text stays text: a tenth of the size, and it can be searched.
    matplotlib.rcParams["svg.hashsalt"] = "tf_opt"  # The same result gives the same file.
    from matplotlib import pyplot

    points, peers = points_of(result), peers_of(result)
    columns = min(3, len(points))
    rows = -(-len(points) // columns)
    size = (3.4 * columns + 1.6, (0.24 * len(peers) + 0.7) * rows + 0.6)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis in axes.flat[len(points) :]:
        axis.set_visible(False)
    for axis, point in zip(axes.flat, points, strict=False):
        _panel(axis, result, peers, point)
    for axis in axes[-1]:
        axis.set_xlabel("times as fast as the original Session", fontsize=8)
    figure.suptitle("BERT, batch×sequence; grey: up to the machine's matmul ceiling", fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else {}
    figure.savefig(path, dpi=110, metadata=metadata)
    pyplot.close(figure)


def _panel(axis: Any, result: Mapping[str, Any], peers: Sequence[str], point: tuple[int, int]) -> None:
    highest = 1.0
    for place, peer in enumerate(peers):
        row = row_of(result, peer, point)
        if row is None:
            continue
        ratio, share = row["ratio_to_original"], row.get("share_of_ceiling")
        highest = max(highest, ratio)
        if share:
            axis.barh(place, ratio / share, height=0.8, color="#ececec", zorder=1)
        axis.barh(place, ratio, height=0.6, color=COLORS.get(_family(peer), "#444444"), zorder=2)
        axis.text(ratio, place, f" {ratio:.2f}", va="center", fontsize=7, zorder=3)
    axis.axvline(1.0, color="black", linewidth=0.8, zorder=4)
    axis.set_title(f"{point[0]}×{point[1]}", fontsize=9, loc="left")
    axis.set_yticks(range(len(peers)), peers, fontsize=7)
    axis.set_ylim(len(peers) - 0.4, -0.6)
    axis.set_xlim(0, 1.25 * highest)
    axis.tick_params(axis="x", labelsize=7)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _family(peer: str) -> str:
    return peer.partition("-")[0]


def main() -> None:
    """Reads a result, prints the table, draws the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--result", type=Path, default=FOLDER / "peers.json")
    parser.add_argument("--plot", type=Path, default=FOLDER / "peers.svg")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text())
    print(markdown(result))
    plot(result, arguments.plot)


if __name__ == "__main__":
    main()
