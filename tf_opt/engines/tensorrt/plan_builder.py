"""From a stored ONNX model and its weights to a plan."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt import cuda, model, plan_cache, profiles, timing_cache, versions
from tf_opt.engines.tensorrt.logger import captured_messages, shared_logger
from tf_opt.engines.tensorrt.progress import progress_monitor
from tf_opt.engines.tensorrt.settings import TensorRTSettings
from tf_opt.errors import EngineBuildError

if TYPE_CHECKING:
    import tensorrt as trt
    from onnx import ModelProto

    from tf_opt.ops.python_runtime import Array

logger = logging.getLogger(__name__)


class PlanSource:
    """One segment's plan: from the cache where it is there, built and stored where it is not.

    Attributes:
        log: What TensorRT warned of while it built; empty where it did not build.
        is_new: Whether the last plan was built just now.
    """

    def __init__(
        self,
        *,
        name: str,
        content: bytes,
        weight_array: Callable[[int], Array],
        settings: TensorRTSettings,
        ranges: Sequence[ShapeProfile],
        ordinal: int,
        stored: bool = False,
    ) -> None:
        """Reads the model and digests the weights.

        Args:
            name: Of the segment.
            content: The stored ONNX model without weights.
            weight_array: Returns the values of the i-th weight.
            settings: Of the build.
            ranges: The engine's profiles.
            ordinal: The GPU that it is for.
            stored: Whether all this comes with a stored graph, which may have been made with another TensorRT.

        Raises:
            EngineBuildError: The model cannot be read, or has types that TensorRT does not compute in.
        """
        self.name = name
        self.log = ""
        self.is_new = False
        self._model = model.read_model(content, name)
        self._weight_array = weight_array
        self._settings = settings
        self._compatibility = settings.hardware_compatibility
        self._ranges = ranges
        self._ordinal = ordinal
        self._check()
        self._device = plan_cache.current_device(ordinal)
        self._content = content
        self._digest = model.weights_digest(self._model, weight_array)
        self._key = self._key_of_settings()
        self._cache = plan_cache.PlanCache()
        self._unserved = versions.compatibility_refusal(settings, self._device.compute_capability, stored=stored)
        if self._unserved is not None:
            self._keep_to_this_gpu()

    def plan(self, *, expected: bool = False) -> bytes:
        """Returns the plan; builds it where it is not in the cache.

        Args:
            expected: Whether one is to be loaded that was built before, so that it is said why this takes long.
        """
        return self._cache.load(self._key) or self._plan_in_turn(expected=expected)

    def rebuild(self, refused: bytes) -> bytes:
        """Returns another plan, in place of one that TensorRT did not load.

        One that another GPU built may serve others: it stays, and this GPU gets one of its own.

        Args:
            refused: The plan.
        """
        if self._cache.is_of_another(self._key, self._device):
            self._unserved = "TensorRT does not load here what another GPU built with it"
            self._keep_to_this_gpu()
        else:
            self._cache.remove(self._key)
        return self._plan_in_turn(refused=refused)

    def _plan_in_turn(self, *, expected: bool = False, refused: bytes | None = None) -> bytes:
        with self._cache.building(self._device):
            # Another process may have built it while this one waited.
            found = self._cache.load(self._key)
            if found is None or found == refused:
                if self._unserved is not None:
                    logger.warning(
                        "hardware_compatibility='%s' is left out of the plan of %s, which is for this GPU (%s) "
                        "alone: %s.",
                        self._compatibility,
                        self.name,
                        self._device.name,
                        self._unserved,
                    )
                if expected:
                    logger.warning(
                        "TensorRT builds the engine of %s now, because %s holds no plan of it for this GPU (%s), "
                        "TensorRT %s and its options.",
                        self.name,
                        self._cache.folder,
                        self._device.name,
                        self._device.tensorrt,
                    )
                found = self._build()
                self._cache.store(self._key, found, self._device)
            return found

    def _keep_to_this_gpu(self) -> None:
        self._settings = dataclasses.replace(self._settings, hardware_compatibility="none")
        self._key = self._key_of_settings()

    def _key_of_settings(self) -> str:
        return plan_cache.plan_key(self._content, self._digest, self._settings, self._ranges, self._device)

    def refit(self, engine: trt.ICudaEngine) -> None:
        """Puts the weights into an engine whose plan was stored without them; raises EngineBuildError."""
        import tensorrt as trt

        with captured_messages() as lines:
            refitter = trt.Refitter(engine, shared_logger())
            reader = trt.OnnxParserRefitter(refitter, shared_logger())
            with model.with_weights(self._model, self._weight_array) as complete:
                done = reader.refit_from_bytes(complete.content, complete.path) and refitter.refit_cuda_engine()
            if not done:
                errors = [reader.get_error(index).desc() for index in range(reader.num_errors)]
                raise self._error("does not put the weights into the stored plan", errors, lines)

    def _check(self) -> None:
        doubles = model.double_nodes(self._model)
        if doubles:
            raise EngineBuildError(
                f"{self.name} computes in float64 ({', '.join(doubles[:5])}), which TensorRT would compute as float32.",
                nodes=doubles,
            )
        if self._settings.strip_weights and len(self._ranges) > 1:
            raise EngineBuildError(
                f"{self.name} has {len(self._ranges)} shape profiles, and TensorRT puts weights only into engines of "
                "one. Use TensorRTSettings(strip_weights=False) or profile_strategy='range'."
            )

    def _build(self) -> bytes:
        import tensorrt as trt

        cuda.cuda_driver().activate(self._ordinal)
        settings, device = self._settings, self._device
        logger.info("TensorRT %s builds %s for %s.", device.tensorrt, self.name, device.name)
        with captured_messages() as lines:
            builder = trt.Builder(shared_logger())
            network = versions.create_network(builder)
            # The parser owns what the network refers to: weights of the model that it has read.
            parser = trt.OnnxParser(network, shared_logger())
            with model.with_weights(self._model, self._weight_array) as complete:
                if not parser.parse(complete.content, complete.path):
                    raise self._refused(parser, lines)
                # The file beside the model stays until the build is over: the parser may only have mapped it.
                config = builder.create_builder_config()
                versions.set_builder_flags(config, network, settings)
                profiles.add_profiles(builder, config, network, self._ranges, self.name)
                path = timing_cache.timing_cache_path(settings, device)
                timings = timing_cache.attach(config, path, device)
                with progress_monitor(f"TensorRT builds {self.name}") as monitor:
                    if monitor is not None:
                        config.progress_monitor = monitor
                    plan = builder.build_serialized_network(network, config)
                if monitor is not None and monitor.interruption is not None:
                    raise monitor.interruption
            if plan is None:
                raise self._error("does not build", (), lines, nodes=_named_nodes(self._model, lines))
            timing_cache.save(config, path, device)
            del timings  # Kept so far: the configuration only refers to it.
            self.log = "\n".join(lines)
            self.is_new = True
            return bytes(plan)

    def _refused(self, parser: trt.OnnxParser, lines: deque[str]) -> EngineBuildError:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        nodes = versions.error_nodes(errors, [node.name for node in self._model.graph.node])
        return self._error("does not parse", [versions.describe_error(error) for error in errors], lines, nodes=nodes)

    def _error(
        self, what: str, reasons: Iterable[str], lines: deque[str], nodes: Mapping[str, Sequence[str]] | None = None
    ) -> EngineBuildError:
        """Returns the error with all that was said, and of each of the nodes only what is its own."""
        said = "; ".join(reasons) or "; ".join(lines) or "nothing"
        library, nodes = f"TensorRT {self._device.tensorrt}", nodes or {}
        return EngineBuildError(
            f"{library} {what} {self.name}. It says: {said}",
            nodes=tuple(nodes),
            reasons={name: f"{library} says: {'; '.join(dict.fromkeys(own))}" for name, own in nodes.items()},
        )


def _named_nodes(proto: ModelProto, lines: Iterable[str]) -> dict[str, list[str]]:
    """Returns the nodes whose whole names stand in error messages of a failed build, and these messages.

    A message about a region that TensorRT has fused ("ForeignNode[first...last]") names its ends, of which neither has
    to be at fault, so it counts for nothing.
    """
    names = {node.name for node in proto.graph.node if node.name}
    found: dict[str, list[str]] = {}
    for line in lines:
        if "ERROR" in line and "ForeignNode" not in line:
            words = set(re.split(r"[\s\[\](){}<>'\",;]+|: |\.(?=\s|$)", line))
            for name in names.intersection(words | {word.rstrip(":.") for word in words if word}):
                found.setdefault(name, []).append(line)
    return {node.name: found[node.name] for node in proto.graph.node if node.name in found}
