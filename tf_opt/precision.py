"""Which precisions a device has hardware for."""

from __future__ import annotations

from typing import Literal

from tf_opt.engines.base import EngineBackend
from tf_opt.errors import UnsupportedPrecisionError

SixteenBit = Literal["fp16", "bf16"]

SIXTEEN_BIT: tuple[SixteenBit, ...] = ("bf16", "fp16")
"""The 16-bit types, the preferred one first: both take the same time where a device has both, and bfloat16 has the
range of fp32, so that nothing overflows."""


def available_precisions(backend: EngineBackend) -> dict[str, str | None]:
    """Returns for each precision None, or why the device has no hardware for it; the cheapest first."""
    return {**{name: backend.precision_refusal(name) for name in ("int8", *SIXTEEN_BIT)}, "fp32": None}


def fastest_16_bit(backend: EngineBackend) -> SixteenBit | None:
    """Returns the fastest 16-bit type of the device, or None where it has none."""
    return next((name for name in SIXTEEN_BIT if backend.precision_refusal(name) is None), None)


def require_16_bit(backend: EngineBackend) -> SixteenBit:
    """Returns the fastest 16-bit type of the device.

    Raises:
        UnsupportedPrecisionError: It has none.
    """
    found = fastest_16_bit(backend)
    if found is None:
        reasons = "; ".join(f"{name}: {backend.precision_refusal(name)}" for name in SIXTEEN_BIT)
        raise UnsupportedPrecisionError(
            f"The engine {backend.name!r} computes in no 16-bit type on this device ({reasons}). Leave disable_fp16 at "
            "True, or take precision='int8' or 'auto'."
        )
    return found


def require_precision(precision: str, backend: EngineBackend) -> None:
    """Checks that the device has hardware for a precision.

    Args:
        precision: "fp32", "fp16", "bf16" or "int8".
        backend: The engine.

    Raises:
        UnsupportedPrecisionError: It has not.
    """
    reasons = available_precisions(backend)
    if reasons[precision] is not None:
        possible = ", ".join(repr(name) for name, reason in reasons.items() if reason is None)
        raise UnsupportedPrecisionError(
            f"The engine {backend.name!r} does not compute in {precision} here: {reasons[precision]}. Possible are "
            f"{possible}, and 'auto'."
        )
