"""Plans on disk: what TensorRT built for one model on one kind of GPU, so that it is built once a machine.

A plan is never part of a stored graph. It is found by a key of everything that it depends on; another GPU, another
version or other weights have another key, so a foreign plan is not found rather than refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tf_opt
from tf_opt.cache_files import CacheFolder, default_folder, exclusive
from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt import cuda, profiles
from tf_opt.engines.tensorrt.settings import TensorRTSettings

logger = logging.getLogger(__name__)

MAGIC = b"TFOPTTRT"
DEFAULT_LIMIT_BYTES = 16 * 2**30
"""Room for about seventy BERT-base in fp16 and fp32 together."""

_SUFFIX = ".plan"


@dataclass(frozen=True, kw_only=True)
class Device:
    """What a plan depends on of the machine.

    Attributes:
        name: The GPU's name.
        compute_capability: Its compute capability.
        tensorrt: TensorRT's whole version.
    """

    name: str
    compute_capability: tuple[int, int]
    tensorrt: str

    @property
    def slug(self) -> str:
        """The same for the name of a file."""
        text = f"{self.tensorrt}-{self.name}-{'.'.join(map(str, self.compute_capability))}"
        return "".join(character if character.isalnum() or character in ".-" else "_" for character in text)


def current_device(ordinal: int) -> Device:
    """Describes a GPU and the installed TensorRT."""
    import tensorrt as trt

    driver = cuda.cuda_driver()
    return Device(
        name=driver.device_name(ordinal),
        compute_capability=driver.compute_capability(ordinal),
        tensorrt=str(trt.__version__),
    )


def plan_key(
    model: bytes, weights: str, settings: TensorRTSettings, ranges: Sequence[ShapeProfile], device: Device
) -> str:
    """Returns the key of a plan.

    The driver is not part of it: a plan holds compiled code, which later drivers run, and what an older one does not
    load is built again.

    Args:
        model: The stored ONNX model.
        weights: What `model.weights_digest` returned.
        settings: Of the build.
        ranges: The engine's profiles, in their order.
        device: Where the plan runs.
    """
    gpu = {
        "none": [device.name, *device.compute_capability],
        "same_compute_capability": [*device.compute_capability],
        "ampere_plus": ["ampere_plus"],
    }[settings.hardware_compatibility]
    parts = {
        "tf_opt": tf_opt.__version__,
        "model": hashlib.sha256(model).hexdigest(),
        "weights": weights,
        "settings": settings.plan_options(),
        "profiles": profiles.to_plain(ranges),
        "tensorrt": device.tensorrt,
        "gpu": gpu,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class PlanCache:
    """A folder of plans. Several processes may use it at the same time."""

    def __init__(self, folder: str | Path | None = None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """Touches nothing yet.

        Args:
            folder: Where plans are kept, made when the first is stored. None: "plans" in the folder of
                `tf_opt.ops.cache_directory`, which the environment variable TF_OPT_CACHE_DIR moves.
            limit_bytes: How large all plans together may grow; the least recently used go first.
        """
        self.folder = default_folder("plans") if folder is None else Path(folder).expanduser()
        self._files = CacheFolder(self.folder, _SUFFIX, MAGIC, limit_bytes)

    def load(self, key: str) -> bytes | None:
        """Returns a plan, or None where there is none that is whole. A damaged one is removed."""
        found = self._files.load(key)
        return None if found is None else bytes(found[1])

    def is_of_another(self, key: str, device: Device) -> bool:
        """Returns whether a plan is there that another kind of GPU built."""
        found = self._files.load(key)
        here = {**dataclasses.asdict(device), "compute_capability": list(device.compute_capability)}
        return found is not None and any(found[0].get(name) != value for name, value in here.items())

    def store(self, key: str, plan: bytes, device: Device) -> bool:
        """Writes a plan, then removes the least recently used ones beyond the limit.

        Args:
            key: What `plan_key` returned.
            plan: The serialized engine.
            device: Where it was built, for whoever looks into the file.

        Returns:
            Whether it is stored: not where it is larger than the limit, or the folder cannot be written.
        """
        return self._files.store(key, dataclasses.asdict(device), (plan,))

    def remove(self, key: str) -> None:
        """Removes a plan that turned out to be of no use."""
        self._files.discard(key, "TensorRT does not load it")

    @contextlib.contextmanager
    def building(self, device: Device) -> Iterator[None]:
        """Held while a plan is built, so that processes that start together build it once.

        One build at a time for a kind of GPU: two at once would disturb each other's measurements of kernels.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(exclusive(self.folder / f".building-{device.slug}"))
            except OSError as error:  # Each process builds for itself then.
                logger.debug("The folder of plans cannot be locked: %s", error)
            yield
