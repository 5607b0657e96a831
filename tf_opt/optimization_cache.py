"""Keeps the results of optimizations on disk, so that the same one is not done twice on a machine.

An entry is a file of `tf_opt.cache_files`: in the header the report and the lengths of the parts of the payload,
which are

    the optimized graph, light, as a serialized GraphDef; nothing where no engine was adopted
    each constant that was derived for its engines, as a serialized NodeDef

The user's own constants are not stored: they come with the graph that is to be optimized. An entry that is damaged, cut
short or of another format is as good as none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from tf_opt.cache_files import CacheFolder, default_folder
from tf_opt.plain_data import from_plain, to_plain
from tf_opt.report.optimization import Measurement, OptimizationReport

MAGIC = b"TFOPTRES"
DEFAULT_LIMIT_BYTES = 8 * 2**30
"""Room for about seventy BERT-base in int8, whose weights are stored, or thousands in fp32, whose weights are not."""

_SUFFIX = ".tf_opt"

_CLEAR_RATIO, _CLEAR_ROUNDS = 0.8, 3
"""So low a ratio of so many pairs of runs in turn is believed: a large model, whose runs are always few, would be
optimized anew each time otherwise."""


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """The result of an optimization.

    Attributes:
        graph_def: Light graph with engines; None where none was adopted, so that the given graph stays as it is.
        derived_weights: Const nodes by name that `graph_def` reads besides the constants of the given graph.
        report: What the optimization found out.
    """

    graph_def: GraphDef | None
    derived_weights: Mapping[str, NodeDef] = field(default_factory=dict)
    report: OptimizationReport


class OptimizationCache:
    """A folder of results. Several processes may use it at the same time."""

    def __init__(self, folder: str | Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Touches nothing yet.

        Args:
            folder: Where entries are kept, made when the first is stored. None: "optimizations" in the folder of
                `tf_opt.ops.cache_directory`, which the environment variable TF_OPT_CACHE_DIR moves.
            limit_bytes: How large all entries together may grow; the least recently used go first.
        """
        self.folder = default_folder("optimizations") if folder is None else Path(folder).expanduser()
        self._files = CacheFolder(self.folder, _SUFFIX, MAGIC, limit_bytes)

    def is_empty(self) -> bool:
        """Tells whether there is no result to be loaded; so it is where there is no such folder."""
        return self._files.is_empty()

    def load(self, key: str) -> CacheEntry | None:
        """Returns the entry of a key, or None where there is none that can be used. An unusable one is removed.

        Args:
            key: What `tf_opt.cache_key.cache_key` returned.
        """
        found = self._files.load(key)
        if found is None:
            return None
        try:
            return _unpack(*found)
        except (ValueError, TypeError, KeyError, DecodeError) as error:
            self._files.discard(key, error)
            return None

    def store(self, key: str, entry: CacheEntry) -> bool:
        """Writes an entry, then removes the least recently used ones beyond the limit.

        Args:
            key: What `tf_opt.cache_key.cache_key` returned.
            entry: The result.

        Returns:
            Whether it is stored: not where it is larger than the limit, or the folder cannot be written.
        """
        return self._files.store(key, *_pack(entry))


def is_worth_keeping(report: OptimizationReport) -> bool:
    """Tells whether an optimization would decide the same again.

    An engine that went back as a little slower after too few runs for a confidence interval may have been measured
    while the machine was busy; another optimization should measure it again.
    """
    return not any(
        segment.measurement is not None and _may_be_chance(segment.measurement)
        for segment in report.segments
        if not segment.adopted
    )


def _may_be_chance(measurement: Measurement) -> bool:
    is_clear = measurement.rounds >= _CLEAR_ROUNDS and measurement.ratio <= _CLEAR_RATIO
    return measurement.verdict == "slower" and math.isinf(measurement.interval[1]) and not is_clear


def _pack(entry: CacheEntry) -> tuple[dict[str, Any], list[bytes]]:
    """Returns header and payload."""
    parts = [] if entry.graph_def is None else [entry.graph_def.SerializeToString(deterministic=True)]
    parts += [node.SerializeToString(deterministic=True) for node in entry.derived_weights.values()]
    header = {
        "has_graph": entry.graph_def is not None,
        "lengths": [len(part) for part in parts],
        "names": list(entry.derived_weights),
        "report": to_plain(entry.report),
    }
    return header, parts


def _unpack(header: Mapping[str, Any], payload: memoryview) -> CacheEntry:
    """Returns the entry; raises one of the errors that `load` knows where the content is not whole."""
    parts = list(_split(payload, header["lengths"]))
    graph_def = GraphDef.FromString(parts.pop(0)) if header["has_graph"] else None
    nodes = {name: NodeDef.FromString(part) for name, part in zip(header["names"], parts, strict=True)}
    return CacheEntry(
        graph_def=graph_def, derived_weights=nodes, report=from_plain(OptimizationReport, header["report"])
    )


def _split(body: memoryview, lengths: Sequence[int]) -> Iterator[bytes]:
    if sum(lengths) != len(body):
        raise ValueError("its parts have other lengths than it says")
    start = 0
    for length in lengths:
        yield bytes(body[start : start + length])
        start += length
