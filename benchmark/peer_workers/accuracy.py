"""How far an engine may be from the original."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_opt.tolerance import DEFAULT_COSINE

FP32_TOLERANCE = 1e-3
"""Largest absolute difference in fp32. The outputs are normalized, so of the order of 1."""


def output_error(
    outputs: Mapping[str, Any], reference: Mapping[str, Any], mask: np.ndarray[Any, Any]
) -> tuple[float, float]:
    """Returns the largest absolute difference, and the lowest cosine of any row, over both outputs.

    Args:
        outputs: Arrays [batch, sequence, hidden] and [batch, hidden] by name.
        reference: What they should be.
        mask: Booleans [batch, sequence]; positions without a token do not count.
    """
    error, cosine = 0.0, 1.0
    for name, expected in reference.items():
        found, wanted = np.asarray(outputs[name], np.float64), np.asarray(expected, np.float64)
        if found.shape != wanted.shape or not np.isfinite(found).all():
            return float("inf"), -1.0
        if wanted.ndim == 3:
            found, wanted = found * mask[..., None], wanted * mask[..., None]
        error = max(error, float(np.abs(found - wanted).max()))
        for left, right in zip(found, wanted, strict=True):
            product = np.linalg.norm(left) * np.linalg.norm(right)
            cosine = min(cosine, float(np.vdot(left, right) / product) if product else -1.0)
    return error, cosine


def too_far(precision: str, error: float, cosine: float) -> str | None:
    """Returns what is wrong with an engine's outputs, or None where they are within what its precision allows."""
    # Written so that NaN is too far as well.
    if precision == "fp32":
        reason = f"its outputs are off by {error:.3g}; allowed are {FP32_TOLERANCE:g}"
        return None if error <= FP32_TOLERANCE else reason
    least = DEFAULT_COSINE[precision]
    return None if cosine >= least else f"its outputs have a cosine of {cosine:.5f}; at least {least} is allowed"
