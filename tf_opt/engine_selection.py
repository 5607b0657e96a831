"""Which backends build the engines of one optimization, and why these."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from tf_opt.engines import choose_backend, create_backend, usable_backends
from tf_opt.engines.base import EngineBackend
from tf_opt.options import Options


@dataclass(frozen=True)
class EngineSelection:
    """The backends, and why they were taken.

    Attributes:
        backends: At least one; each builds what those before it refuse.
        reason: Why the first was taken, and what cannot run here; for "fastest" only what it is called; empty where
            the user named it.
    """

    backends: tuple[EngineBackend, ...]
    reason: str = ""


def select_engines(options: Options) -> tuple[EngineSelection, ...]:
    """Returns what `engine` stands for: one selection, or with "fastest" one for each engine that can run here.

    "auto" is the first engine that can run here. Where that is TensorRT, which takes fewer operators than the others,
    the next one builds what it refuses. Several names stand for themselves, in their order.

    Args:
        options: The options; `engine` and the settings of the engines are read.

    Raises:
        UnknownEngineError, EnginePackageMissingError, EngineUnavailableError: As `tf_opt.engines.create_backend`.
    """
    if not isinstance(options.engine, str):
        named = tuple(create_backend(name, tensorrt=options.tensorrt) for name in options.engine)
        return (EngineSelection(named),)
    if options.engine == "fastest":
        choices = usable_backends(tensorrt=options.tensorrt)
        found = tuple(EngineSelection((choice.backend,), choice.label) for choice in choices)
        # Where there is none, the error of the automatic choice says why.
        return found or (EngineSelection((choose_backend(tensorrt=options.tensorrt).backend,)),)
    if options.engine != "auto":
        return (EngineSelection((create_backend(options.engine, tensorrt=options.tensorrt),)),)
    choice = choose_backend(tensorrt=options.tensorrt)
    backends = [choice.backend]
    if choice.backend.name == "tensorrt":
        others = (each.backend for each in usable_backends(tensorrt=options.tensorrt))
        backends += list(itertools.islice((backend for backend in others if backend.name != "tensorrt"), 1))
    rejected = "".join(f"; {label}: {reason}" for label, reason in choice.rejected)
    return (EngineSelection(tuple(backends), f"{choice.label}: {choice.reason}{rejected}"),)
