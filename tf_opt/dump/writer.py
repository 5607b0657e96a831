"""Writes down an optimization for whoever looks for an error: `dump_dir`.

Each optimization writes a new folder of its own, so that none touches what another left:

    <dump_dir>/001_openvino/
      index.md               what each file is, and what became of each segment
      report.json
      graph_passes/          the graph after each pass: 00_input.pb, 01_<pass>.pb, ...
      final_graph.pb, .txt   the graph that was returned, and a listing of it
      segments/
        weights.data, .json  every constant, once
        <segment>.pb, .txt   its TensorFlow nodes, and a listing of them
        <segment>.json       its inputs, outputs and weights, and what was built of it
        <segment>.onnx       as it was exported
        <segment>_feeds.npz  what flows into it
        <segment>_<engine>_<precision>.onnx, .engine, .log
        <segment>_passes/    the segment after each pass
        replay_<segment>.py  runs its nodes and its engine on the stored feeds

Nothing here changes what is optimized, and a file that cannot be written is a DumpError.
"""

from __future__ import annotations

import json
import re
import shutil
import traceback
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
from tensorflow.core.framework.graph_pb2 import GraphDef

from tf_opt.dump.feeds import write_feeds
from tf_opt.dump.index import index_text
from tf_opt.dump.records import EngineRecord, ProfileRecord, SegmentRecord
from tf_opt.dump.weights import SEGMENTS_FOLDER, WeightFile, model_with_weights
from tf_opt.engines.base import Engine, FloatingType, ShapeProfile
from tf_opt.errors import DumpError
from tf_opt.feeds import NormalizedFeed
from tf_opt.files import dump_error, write_dump
from tf_opt.passes.onnx.segment_weights import SegmentWeight
from tf_opt.passes.tf.segment import Segment
from tf_opt.plain_data import to_plain
from tf_opt.readable_graph import format_graph
from tf_opt.report.optimization import OptimizationReport
from tf_opt.sizes import size_text
from tf_opt.tensor_info import node_name
from tf_opt.weights import WeightStore, is_weight

_ROOM_BESIDE_WEIGHTS = 128 * 2**20
"""What the feeds, listings and models of a dump may need."""

_REPLAY_SCRIPT = '''#!/usr/bin/env python
"""Runs the TensorFlow nodes of {stem} and its engine on the stored feeds, compares and times them. See --help."""

import sys
from pathlib import Path

from tf_opt.dump.replay import main

sys.exit(main(Path(__file__).with_name("{stem}.json")))
'''


class Dump:
    """The folder of one optimization.

    Attributes:
        folder: The folder.
    """

    def __init__(self, parent: Path, label: str) -> None:
        """Makes nothing yet.

        Args:
            parent: The user's `dump_dir`, which exists.
            label: What the folder is called besides its number.
        """
        self.folder = parent / label
        self._parent = parent
        self._label = label
        self._feeds: Sequence[NormalizedFeed] = ()
        self._segments: dict[tuple[str, Segment], SegmentDump] = {}
        self._weights = WeightFile(self.folder)

    @contextmanager
    def writing(self, weights: WeightStore, feeds: Sequence[NormalizedFeed] = ()) -> Iterator[None]:
        """Makes the folder, numbered behind those that are there; an error inside is written down in it.

        Args:
            weights: The constants of the graph, for which there has to be room.
            feeds: The user's feeds by tensor name; may be left out where nothing is built.

        Raises:
            DumpError: The folder cannot be made, or the disk is too small.
        """
        self.folder = _new_folder(self._parent, self._label)
        self._check_room(weights)
        self._feeds = feeds
        self._weights = WeightFile(self.folder / SEGMENTS_FOLDER)
        self._write_index(None, "The optimization has not ended, or the process died.")
        try:
            yield
        except Exception as error:
            if not isinstance(error, DumpError):
                text = "".join(traceback.format_exception(error))
                self._write_index(None, f"The optimization failed:\n\n```\n{text}```")
            raise

    @property
    def graph_passes(self) -> Path:
        """Where the graph after each pass is written."""
        return self.folder / "graph_passes"

    def _check_room(self, weights: WeightStore) -> None:
        needed, free = weights.size_bytes + _ROOM_BESIDE_WEIGHTS, shutil.disk_usage(self.folder).free
        if free < needed:
            raise DumpError(
                f"The dump needs about {size_text(needed)} and the disk of {self.folder} has {size_text(free)} left. "
                "Make room, give dump_dir another folder, or leave it out."
            )

    def segment(
        self, segment: Segment, engine: str, extracted: GraphDef, light: GraphDef, weights: WeightStore
    ) -> SegmentDump:
        """Writes a segment before anything is made of it.

        Args:
            segment: The segment.
            engine: The backend that it is for.
            extracted: Its nodes alone.
            light: The graph that it was found in.
            weights: The constants of both.

        Raises:
            DumpError: A file cannot be written.
        """
        key = (engine, segment)
        if key not in self._segments:
            stems = {each.record.stem for each in self._segments.values()}
            stem, number = segment.name, 1
            while stem in stems:
                number += 1
                stem = f"{segment.name}_{number}"
            self._segments[key] = SegmentDump(self.folder / SEGMENTS_FOLDER, self._weights, segment, engine, stem)
        dumped = self._segments[key]
        dumped.begin(extracted, light, weights, self._feeds)
        return dumped

    def of(self, segment: Segment, engine: str) -> SegmentDump | None:
        """Returns what was begun of a segment; None where it was not."""
        return self._segments.get((engine, segment))

    def failed(self, segment: Segment, engine: str, error: Exception) -> None:
        """Writes down why nothing was built of a segment."""
        dumped = self.of(segment, engine)
        if dumped is not None:
            dumped.failed(error)

    def finish(self, light: GraphDef, weights: WeightStore, report: OptimizationReport, outputs: Sequence[str]) -> None:
        """Writes the result.

        Args:
            light: The final graph, light.
            weights: The constants of that graph and of those before it.
            report: The report.
            outputs: What users fetch.

        Raises:
            DumpError: A file cannot be written.
        """
        for name in sorted({*weights, *(node.name for node in light.node if is_weight(node))}):
            self._weights.add_constant(name, weights)
        self._weights.write_index()
        write_dump(self.folder / "final_graph.pb", light.SerializeToString(deterministic=True))
        write_dump(self.folder / "final_graph.txt", format_graph(light, outputs).encode())
        write_dump(self.folder / "report.json", (report.to_json() + "\n").encode())
        self._write_index(report, "")

    def _write_index(self, report: OptimizationReport | None, problem: str) -> None:
        records = [each.record for each in self._segments.values()]
        write_dump(self.folder / "index.md", index_text(self.folder, records, report, problem).encode())


class SegmentDump:
    """The files of one segment.

    Attributes:
        folder: Where they lie.
        record: What is known so far.
    """

    def __init__(self, folder: Path, weights: WeightFile, segment: Segment, engine: str, stem: str) -> None:
        """Writes nothing yet.

        Args:
            folder: Where its files come to lie.
            weights: The constants of the dump.
            segment: The segment.
            engine: The backend that it is for.
            stem: How its files begin.
        """
        self.folder = folder
        self._weights = weights
        self.record = SegmentRecord(
            name=segment.name,
            stem=stem,
            engine=engine,
            node_count=len(segment.nodes),
            inputs=segment.inputs,
            outputs=segment.outputs,
            weights=segment.weights,
        )
        self._segment = segment

    def begin(
        self, extracted: GraphDef, light: GraphDef, weights: WeightStore, feeds: Sequence[NormalizedFeed]
    ) -> None:
        """Writes nodes, constants and feeds; what an earlier cut of the graph wrote of the same segment is renewed."""
        stem = self.record.stem
        write_dump(self.folder / f"{stem}.pb", extracted.SerializeToString(deterministic=True))
        write_dump(self.folder / f"{stem}.txt", format_graph(extracted).encode())
        write_dump(self.folder / f"replay_{stem}.py", _REPLAY_SCRIPT.format(stem=stem).encode())
        for info in self._segment.weights:
            self._weights.add_constant(node_name(info.name), weights)
        if not self.record.feeds:
            name = f"{stem}_feeds.npz"
            is_there, reason = write_feeds(self.folder / name, light, weights, self._segment, feeds)
            self.record = replace(self.record, feeds=name if is_there else "", feeds_reason=reason)
        self.record = replace(self.record, engines=(), error="", exported="")
        shutil.rmtree(self.folder / f"{stem}_passes", ignore_errors=True)
        self._save()

    def passes(self, label: str) -> Path:
        """Returns a folder for the segment after each of some passes, which no other passes wrote to."""
        parent, name, number = self.folder / f"{self.record.stem}_passes", label, 1
        while (parent / name).exists():
            number += 1
            name = f"{label}_{number}"
        return parent / name

    def exported(self, model: onnx.ModelProto) -> None:
        """Writes the exported model, which reads its constants from the file of all of them."""
        name = f"{self.record.stem}.onnx"
        places = [self._weights[node_name(info.name)] for info in self.record.weights]
        write_dump(self.folder / name, model_with_weights(model, places))
        self.record = replace(self.record, exported=name)
        self._save()

    def profiles(self, profiles: Iterable[ShapeProfile]) -> None:
        """Keeps the shapes that engines of the segment have to serve."""
        records = tuple(
            ProfileRecord(
                minimum=dict(each.minimum),
                optimum=dict(each.optimum),
                maximum=dict(each.maximum),
                values=dict(each.values),
            )
            for each in profiles
        )
        self.record = replace(self.record, profiles=records)
        self._save()

    def building(
        self, precision: str, sixteen_bit: FloatingType, model: bytes, sources: Sequence[SegmentWeight]
    ) -> EngineDump:
        """Writes the model that an engine is about to be built of, and returns where to say how it went.

        Args:
            precision: What the report calls it.
            sixteen_bit: See `SegmentModel.sixteen_bit`.
            model: The model with its constants as graph inputs.
            sources: Where these come from.
        """
        taken = {each.name for each in self.record.engines}
        label = name = f"{self.record.engine}_{precision}"
        number = 1
        while name in taken:
            number += 1
            name = f"{label}_{number}"
        keys = tuple(
            node_name(self.record.weights[source.original].name)
            if source.original is not None
            else self._weights.add(source.array(), source.dtype)
            for source in sources
        )
        path = f"{self.record.stem}_{name}"
        write_dump(self.folder / f"{path}.onnx", model_with_weights(model, [self._weights[key] for key in keys]))
        record = EngineRecord(
            name=name,
            engine=self.record.engine,
            precision=precision,
            sixteen_bit=sixteen_bit,
            model=f"{path}.onnx",
            weights=keys,
            log=f"{path}.log",
            error="The build did not end.",
        )
        self.keep(record)
        return EngineDump(self, record, model)

    def failed(self, error: Exception) -> None:
        """Writes why nothing was built of the segment."""
        text = "".join(traceback.format_exception(error))
        write_dump(self.folder / f"{self.record.stem}.log", text.encode())
        self.record = replace(self.record, error=str(error))
        self._save()

    def keep(self, record: EngineRecord) -> None:
        """Keeps what is known of an engine, in place of what was known before."""
        others = tuple(each for each in self.record.engines if each.name != record.name)
        self.record = replace(self.record, engines=(*others, record))
        self._save()

    def _save(self) -> None:
        self._weights.write_index()
        content = json.dumps(to_plain(self.record), indent=2) + "\n"
        write_dump(self.folder / f"{self.record.stem}.json", content.encode())


class EngineDump:
    """The files of one engine."""

    def __init__(self, segment: SegmentDump, record: EngineRecord, model: bytes) -> None:
        """Writes nothing yet.

        Args:
            segment: The segment that it is built of.
            record: What is known of it.
            model: The model that it is built of.
        """
        self._segment = segment
        self._record = record
        self._model = model

    def built(self, engine: Engine) -> None:
        """Writes the engine, and what was said while it was built."""
        record, folder = self._record, self._segment.folder
        blob = f"{self._segment.record.stem}_{record.name}.engine"
        write_dump(folder / blob, engine.blob)
        lines = [
            f"{self._segment.record.name}, {record.precision}: built with {engine.library} in "
            f"{engine.build_seconds:.2f} s",
            f"stored: {size_text(len(engine.blob))}; weights: {len(record.weights)}; device: {engine.device or 'any'}",
            self._operators(),
            "",
            engine.log or "The engine said nothing.",
        ]
        write_dump(folder / record.log, ("\n".join(lines) + "\n").encode())
        self._segment.keep(replace(record, blob=blob, runtime=engine.runtime, device=engine.device, error=""))

    def failed(self, error: Exception) -> None:
        """Writes why the engine could not be built."""
        text = "".join(traceback.format_exception(error))
        content = f"{self._segment.record.name}, {self._record.precision}: not built\n{self._operators()}\n\n{text}"
        write_dump(self._segment.folder / self._record.log, content.encode())
        self._segment.keep(replace(self._record, error=str(error)))

    def _operators(self) -> str:
        """Returns how many nodes of which operators the model has, most first."""
        nodes = onnx.load_model_from_string(self._model).graph.node
        counts = Counter(f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in nodes)
        return f"operators: {len(nodes)}: {', '.join(f'{count} {name}' for name, count in counts.most_common())}"


def _new_folder(parent: Path, label: str) -> Path:
    """Makes the next numbered folder; several processes may do so at once."""
    while True:
        numbers = [int(match[1]) for each in parent.iterdir() if (match := re.match(r"(\d+)_", each.name))]
        folder = parent / f"{max(numbers, default=0) + 1:03d}_{label}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise dump_error(folder, error) from error
