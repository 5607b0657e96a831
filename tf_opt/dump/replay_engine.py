"""Gets the engine of a dumped segment that is to be replayed: from the dump, or built of one of its models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tf_opt.dump.records import EngineRecord, SegmentRecord
from tf_opt.dump.weights import DumpedWeights, model_without_weights
from tf_opt.engines import create_backend, engine_names
from tf_opt.engines.base import EngineBackend, FloatingType, SegmentModel, ShapeProfile
from tf_opt.errors import DumpError, EngineBuildError, did_you_mean
from tf_opt.feeds import Array
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.pipeline import canonical_passes
from tf_opt.passes.onnx.segment_weights import detach_segment, load_segment
from tf_opt.passes.tf.extract import WEIGHT_PREFIX
from tf_opt.tensor_info import TensorInfo, node_name


@dataclass(frozen=True, kw_only=True)
class EngineWeight:
    """A constant that an engine reads.

    Attributes:
        key: Its name in the dump; empty for one that is not in there.
        array: Its values.
        dtype: TensorFlow's name of the element type.
    """

    key: str
    array: Array
    dtype: str


@dataclass(frozen=True, kw_only=True)
class ReplayedEngine:
    """An engine that is to run.

    Attributes:
        name: What it is called.
        blob: What its node stores.
        runtime: Name of its runtime.
        device: Where its node is placed; empty for anywhere.
        weights: Its constants, as `weight_<i>` in this order.
    """

    name: str
    blob: bytes
    runtime: str
    device: str
    weights: tuple[EngineWeight, ...]


class EngineSource:
    """The engines of one dumped segment."""

    def __init__(
        self, folder: Path, record: SegmentRecord, dumped: DumpedWeights, feeds: Sequence[Mapping[str, Array]]
    ) -> None:
        """Keeps what is known of the segment.

        Args:
            folder: Where its files lie.
            record: What the dump says of it.
            dumped: The constants.
            feeds: What it is run on, by tensor name.
        """
        self._folder = folder
        self._record = record
        self._dumped = dumped
        self._feeds = feeds

    def engine(self, name: str | None) -> ReplayedEngine:
        """Returns an engine.

        Args:
            name: An engine of the dump ("openvino_fp32"), or a backend ("onnxruntime"), which builds a new one in fp32
                of the exported model. None: the engine that was built last; where none was, the build is repeated.

        Raises:
            DumpError: There is no such engine, or a file cannot be read.
            EngineBuildError: An engine that is to be built cannot be.
        """
        record = self._record
        by_name = {each.name: each for each in record.engines}
        if name is None:
            built = [each for each in record.engines if not each.error]
            if not record.engines:
                return self._built_anew(record.engine)
            name = (built or record.engines)[-1].name
        if name in by_name:
            return self._stored(by_name[name]) if by_name[name].blob else self._built_again(by_name[name])
        backends = [each for each in engine_names() if each != "auto"]
        if name in backends:
            return self._built_anew(name)
        known = [*by_name, *backends]
        raise DumpError(
            f"There is no engine {name!r} of {record.stem}; expected one of {', '.join(known)}."
            f"{did_you_mean(name, known)}"
        )

    def _stored(self, entry: EngineRecord) -> ReplayedEngine:
        path = self._folder / entry.blob
        try:
            blob = path.read_bytes()
        except OSError as error:
            raise DumpError(f"The engine {path} cannot be read: {error.strerror or error}.") from error
        return ReplayedEngine(
            name=entry.name, blob=blob, runtime=entry.runtime, device=entry.device, weights=self._weights(entry.weights)
        )

    def _built_again(self, entry: EngineRecord) -> ReplayedEngine:
        """Repeats a build that failed, with the same model."""
        model = model_without_weights(self._folder / entry.model)
        weights = self._weights(entry.weights)
        return self._build(
            f"{entry.name}, built again", create_backend(entry.engine), model, weights, entry.sixteen_bit
        )

    def _built_anew(self, name: str) -> ReplayedEngine:
        """Builds an engine in fp32 of the exported model."""
        record = self._record
        if not record.exported:
            raise EngineBuildError(f"{record.stem} was not exported, so there is nothing to build. {record.error}")
        backend = create_backend(name)
        keys = [node_name(info.name) for info in record.weights]
        exported = model_without_weights(self._folder / record.exported)
        model = load_segment(exported, record.weights, lambda index: self._dumped.array(keys[index]))
        OnnxPipeline(canonical_passes(backend.onnx_target)).run(model)
        content, sources = detach_segment(model)
        weights = [
            EngineWeight(key="", array=source.array(), dtype=source.dtype)
            if source.original is None
            else self._weights([keys[source.original]])[0]
            for source in sources
        ]
        return self._build(f"{name}, built anew", backend, content, weights)

    def _weights(self, keys: Sequence[str]) -> tuple[EngineWeight, ...]:
        return tuple(
            EngineWeight(key=key, array=self._dumped.array(key), dtype=self._dumped[key].dtype) for key in keys
        )

    def _build(
        self,
        name: str,
        backend: EngineBackend,
        model: bytes,
        weights: Sequence[EngineWeight],
        sixteen_bit: FloatingType = "fp32",
    ) -> ReplayedEngine:
        segment = SegmentModel(
            name=self._record.name,
            model=model,
            inputs=self._record.inputs,
            outputs=self._record.outputs,
            weights=tuple(
                TensorInfo(name=f"{WEIGHT_PREFIX}{number}:0", dtype=each.dtype, shape=tuple(each.array.shape))
                for number, each in enumerate(weights)
            ),
            weight_array=lambda index: weights[index].array,
            sixteen_bit=sixteen_bit,
        )
        engine = backend.build(segment, self._profiles() if backend.wants_profiles else ())
        return ReplayedEngine(
            name=name, blob=engine.blob, runtime=engine.runtime, device=engine.device, weights=tuple(weights)
        )

    def _profiles(self) -> tuple[ShapeProfile, ...]:
        """Returns the ranges that the dump has, or one for each feed."""
        if self._record.profiles:
            return tuple(
                ShapeProfile(minimum=each.minimum, optimum=each.optimum, maximum=each.maximum, values=each.values)
                for each in self._record.profiles
            )
        shapes = [{node_name(name): array.shape for name, array in feed.items()} for feed in self._feeds]
        return tuple(ShapeProfile(minimum=each, optimum=each, maximum=each) for each in shapes)
