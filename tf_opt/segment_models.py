"""From a segment of the graph to the ONNX model that an engine is built of, and to the candidate for adoption.

    segment ── export ──► ONNX ── canonical passes ──► PreparedSegment ── precision ──► model ── build ──► Candidate

A segment is prepared once; each precision that is tried starts from a copy of the prepared model, whose big constants
are references.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import onnx_ir as ir
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from tf_opt.adoption import Candidate
from tf_opt.dump.writer import Dump
from tf_opt.engines.base import EngineBackend, FloatingType, SegmentModel, ShapeProfile
from tf_opt.errors import EngineBuildError, PassError, SkipPaddingError
from tf_opt.export import export_segment
from tf_opt.feeds import Array
from tf_opt.options import Options
from tf_opt.passes.onnx.count_patterns import count_patterns
from tf_opt.passes.onnx.pass_base import OnnxPass, OnnxPipeline
from tf_opt.passes.onnx.pipeline import lowering_passes, recognizing_passes
from tf_opt.passes.onnx.segment_weights import detach_segment, load_segment
from tf_opt.passes.onnx.skip_padding import SkipPadding
from tf_opt.passes.tf.extract import INPUT_PREFIX, OUTPUT_PREFIX, WEIGHT_PREFIX, extract_segment
from tf_opt.passes.tf.fold_channel_vectors import FoldChannelVectors
from tf_opt.passes.tf.pass_base import Border, PassPipeline
from tf_opt.passes.tf.pipeline import EXPORT_PASSES
from tf_opt.passes.tf.segment import Segment
from tf_opt.passes.tf.splice import EngineNode
from tf_opt.report.optimization import SegmentReport
from tf_opt.segment_facts import SegmentFacts
from tf_opt.tensor_info import TensorInfo, node_name, tensor_name
from tf_opt.weights import WeightStore, constant_node

Stage: TypeAlias = Callable[[str], AbstractContextManager[None]]
"""Shows and times a stage of the work."""

Profiles: TypeAlias = Callable[[graph_pb2.GraphDef, WeightStore, Segment], tuple[ShapeProfile, ...]]
"""Returns the shapes that a segment has to serve."""


@dataclass(frozen=True, kw_only=True)
class PreparedSegment:
    """A segment in canonical form.

    Attributes:
        segment: The segment.
        model: Canonical ONNX model; weights are initializers whose values are fetched on demand. Copy it to change it.
        weights: The constants of the graph.
        report: What is known of the segment so far.
        profiles: The shapes that it has to serve, where the backend wants to know.
    """

    segment: Segment
    model: ir.Model = field(repr=False)
    weights: WeightStore = field(repr=False)
    report: SegmentReport
    profiles: tuple[ShapeProfile, ...] = ()


class SegmentModels:
    """Exports segments, brings them into canonical form, and builds engines of what was made of them."""

    def __init__(
        self,
        options: Options,
        backend: EngineBackend,
        opset: int,
        dump: Dump | None,
        stage: Stage,
        describe: Callable[[Segment, graph_pb2.GraphDef, WeightStore], SegmentReport],
        profiles: Profiles,
    ) -> None:
        """Keeps what all segments share.

        Args:
            options: What the engine nodes get as attributes; strictness; the mask of padding.
            backend: Builds the engines.
            opset: ONNX opset of the exported segments.
            dump: Where segments are written; None writes nothing.
            stage: Shows and times a stage.
            describe: Returns the report of a segment before anything is built.
            profiles: Returns the shapes that a segment has to serve.
        """
        self._options = options
        self.backend = backend
        self._opset = opset
        self._dump = dump
        self._stage = stage
        self._describe = describe
        self._profiles = profiles
        self._facts = SegmentFacts()

    def prepare(self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment) -> PreparedSegment:
        """Exports a segment and brings it into canonical form.

        Raises:
            ExportError: The converter refuses a node.
            EngineBuildError: The backend wants to know the shapes, and they cannot be found out.
            PassError, SkipPaddingError: A pass failed or cannot skip padding, and `strict` is set.
            DumpError: A file of the dump cannot be written.
        """
        extracted = extract_segment(light, segment)
        dumped = None
        if self._dump is not None:
            with self._stage("dump"):
                dumped = self._dump.segment(segment, self.backend.name, extracted, light, weights)

        def values(number: int) -> Array:
            return weights.array(node_name(segment.weights[number].name))

        with self._stage("export"):
            started = time.perf_counter()
            folder = None if dumped is None else dumped.passes("tf")
            passes = (FoldChannelVectors(lambda name: values(int(name.removeprefix(WEIGHT_PREFIX)))), *EXPORT_PASSES)
            prepared = PassPipeline(passes, folder).run(extracted, _border_of(segment))
            exported = export_segment(
                prepared, self._opset, len(segment.inputs), len(segment.weights), len(segment.outputs)
            )
            export_seconds = time.perf_counter() - started
        if dumped is not None:
            dumped.exported(exported.model)

        def load() -> ir.Model:
            return load_segment(exported.model, segment.weights, values, self._facts.inputs(light, segment))

        profiles: tuple[ShapeProfile, ...] = ()
        if self.backend.wants_profiles:
            with self._stage("shape profiles"):
                profiles = self._profiles(light, weights, segment)
            if dumped is not None:
                dumped.profiles(profiles)
        with self._stage("ONNX passes"):
            mask = self._mask_of(light, segment)
            readers = _readers_of_outputs(light, segment)
            model, changes, notes = self._canonical(load, segment, mask, readers)
        report = replace(
            self._describe(segment, light, weights),
            export_seconds=export_seconds,
            onnx_pass_changes=changes,
            patterns=count_patterns(model),
            notes=notes,
        )
        return PreparedSegment(segment=segment, model=model, weights=weights, report=report, profiles=profiles)

    def _canonical(
        self, load: Callable[[], ir.Model], segment: Segment, mask: str | None, readers: Mapping[str, str]
    ) -> tuple[ir.Model, Mapping[str, int], tuple[str, ...]]:
        """Runs the passes; where one fails, the exported model is used as it is, and the report says so."""
        target = self.backend.onnx_target
        dumped = self._dump.of(segment, self.backend.name) if self._dump is not None else None
        notes: tuple[str, ...] = ()
        if self._options.skip_padding is not None and mask is None:
            notes = (
                f"{segment.name} does not read the mask {self._options.skip_padding!r}, so no padding is skipped.",
            )
        while True:
            model = load()
            passes = recognizing_passes(target, mask)
            try:
                changes = OnnxPipeline(passes, None if dumped is None else dumped.passes("onnx")).run(model)
                _refuse_readers(passes, readers)
                if mask is not None and changes.get(SkipPadding.name) == 0:
                    notes = (
                        *notes,
                        f"No padding is skipped in {segment.name}: none of its matrix products is known to work on "
                        "the tokens of the mask.",
                    )
                return model, changes, notes
            except SkipPaddingError as error:
                refusal: Exception = error
            except PassError as error:
                if not isinstance(error.__cause__, SkipPaddingError):
                    if self._options.strict:
                        raise
                    return load(), {}, (*notes, f"{segment.name} was built without the ONNX passes: {error}")
                refusal = error.__cause__
            if self._options.strict:
                raise refusal
            notes = (*notes, f"Padding is not skipped in {segment.name}: {refusal}")
            mask = None

    def _mask_of(self, light: graph_pb2.GraphDef, segment: Segment) -> str | None:
        """Returns the graph input that carries the attention mask: the user's input, as it is or with another dtype."""
        if self._options.skip_padding is None:
            return None
        wanted = node_name(self._options.skip_padding)
        nodes = {node.name: node for node in light.node}
        for index, info in enumerate(segment.inputs):
            name = node_name(info.name)
            while name in nodes and _keeps_mask(nodes[name]):
                name = node_name(nodes[name].input[0])
            if name == wanted:
                return f"input_{index}"
        return None

    def candidate(
        self, prepared: PreparedSegment, model: ir.Model, *, precision: str, sixteen_bit: FloatingType = "fp32"
    ) -> Candidate:
        """Builds an engine.

        Args:
            prepared: The segment.
            model: Its model, or what a precision made of a copy of it; it is not changed.
            precision: What the report calls it.
            sixteen_bit: A 16-bit type that the engine may compute in although the model does not state it.

        Raises:
            EngineBuildError: The backend refuses the model; it names nodes of the graph, where it blames any.
            DumpError: A file of the dump cannot be written.
        """
        segment = prepared.segment
        dumped = self._dump.of(segment, self.backend.name) if self._dump is not None else None
        lowered = model.clone()
        with self._stage("ONNX passes"):
            folder = None if dumped is None else dumped.passes(f"{self.backend.name}_{precision}")
            OnnxPipeline(lowering_passes(self.backend.onnx_target), folder).run(lowered)
        content, sources = detach_segment(lowered)
        names = [info.name for info in segment.weights]
        infos, derived = [], {}
        for number, source in enumerate(sources):
            if source.original is not None:
                infos.append(segment.weights[source.original])
                continue
            name = _unused(f"{segment.name}/weight_{number}", names)
            infos.append(TensorInfo(name=f"{name}:0", dtype=source.dtype, shape=source.shape))
            derived[name] = constant_node(name, source.array(), tf.as_dtype(source.dtype).as_datatype_enum)
        log = None if dumped is None else dumped.building(precision, sixteen_bit, content, sources)
        segment_model = SegmentModel(
            name=segment.name,
            model=content,
            inputs=segment.inputs,
            outputs=segment.outputs,
            weights=tuple(infos),
            weight_array=lambda index: sources[index].array(),
            sixteen_bit=sixteen_bit,
        )
        with self._stage("build"):
            try:
                engine = self.backend.build(segment_model, prepared.profiles)
            except EngineBuildError as error:
                if log is not None:
                    log.failed(error)
                raise _in_the_graph(error, segment.nodes) from error
        if log is not None:
            log.built(engine)
        node = EngineNode(
            segment=segment,
            runtime=engine.runtime,
            engine=engine.blob,
            device=engine.device,
            weights=tuple(infos),
            maximum_cached_engines=self._options.maximum_cached_engines,
            specialize_after=self._options.specialize_after,
            keep_fallback=self._options.keep_fallback,
            precision=precision,
        )
        derived_bytes = sum(len(each.attr["value"].tensor.tensor_content) for each in derived.values())
        report = replace(
            prepared.report,
            library=engine.library,
            engine_bytes=len(engine.blob) + derived_bytes,
            build_seconds=engine.build_seconds,
            precision=precision,
        )
        return Candidate(node=node, report=report, derived_weights=derived)


def graph_node(name: str, nodes: Collection[str]) -> str | None:
    """Returns the node of a segment that a node of its ONNX model comes from, None where that cannot be told.

    The exporter and the passes keep the name of the node that they replace, or put something behind it.

    Args:
        name: Name of a node of the model.
        nodes: The segment's nodes.
    """
    fitting = [node for node in nodes if name == node or name.startswith((f"{node}_", f"{node}/", f"{node}:"))]
    return max(fitting, key=len, default=None)


def _border_of(segment: Segment) -> Border:
    """Returns what the exporter asks an extracted segment for, weights that nothing reads any more among them."""
    arguments = ((INPUT_PREFIX, len(segment.inputs)), (WEIGHT_PREFIX, len(segment.weights)))
    return Border(
        inputs=tuple(f"{prefix}{number}" for prefix, count in arguments for number in range(count)),
        outputs=tuple(f"{OUTPUT_PREFIX}{number}:0" for number in range(len(segment.outputs))),
    )


def _in_the_graph(error: EngineBuildError, nodes: Collection[str]) -> EngineBuildError:
    """Returns an error about nodes of a model as one about the nodes of the graph that they come from."""
    said: dict[str, list[str]] = {}
    for name in error.nodes:
        blamed = graph_node(name, nodes)
        if blamed is not None:
            said.setdefault(blamed, []).extend(filter(None, [error.reasons.get(name)]))
    reasons = {name: "; ".join(dict.fromkeys(own)) for name, own in said.items() if own}
    return EngineBuildError(str(error), nodes=tuple(said), reasons=reasons)


def _readers_of_outputs(light: graph_pb2.GraphDef, segment: Segment) -> dict[str, str]:
    """Returns a node that computes with each `output_<i>` outside of the segment, for those that have one."""
    inside = set(segment.nodes)
    numbers = {info.name: f"output_{number}" for number, info in enumerate(segment.outputs)}
    readers: dict[str, str] = {}
    for node in light.node:
        if node.name in inside or node.op == "Identity":
            continue
        for reference in node.input:
            output = numbers.get(tensor_name(reference)) if not reference.startswith("^") else None
            if output is not None:
                readers[output] = f"{node.name} ({node.op})"
    return readers


def _refuse_readers(passes: Sequence[OnnxPass], readers: Mapping[str, str]) -> None:
    """Raises where TensorFlow goes on computing with an output whose padded positions have become zero."""
    for member in passes:
        for output in member.changed_outputs if isinstance(member, SkipPadding) else ():
            if output in readers:
                raise SkipPaddingError(
                    f"{readers[output]} reads values at padded positions outside of the engine, where they would be "
                    "zero. Let it enter the engine too, or leave skip_padding out."
                )


def _keeps_mask(node: node_def_pb2.NodeDef) -> bool:
    """Whether a node's output is zero exactly where its input is, with no more than dimensions of 1 added."""
    if node.op == "Cast":
        source, target = (tf.as_dtype(node.attr[key].type) for key in ("SrcT", "DstT"))
        # A fraction cast to an integer may become zero.
        return not source.is_floating or target.is_floating or target == tf.bool
    return node.op in ("Identity", "ExpandDims")


def _unused(name: str, taken: list[str]) -> str:
    while f"{name}:0" in taken:
        name += "_"
    return name
