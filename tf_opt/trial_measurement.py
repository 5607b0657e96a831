"""Times the original and the optimized graph of a trial against each other, on one feed of each shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tf_opt.feeds import NormalizedFeed, feed_shapes
from tf_opt.paired_comparison import PairedComparison, Verdict, paired_comparison
from tf_opt.report.optimization import Measurement
from tf_opt.trial import Trial, describe_shapes, representative_feeds

_MARGIN = 0.01
"""Differences below one percent count as none: they are not worth the time it takes to tell them from noise."""

_MARGIN_WITHOUT_INTERVAL = 0.10
"""Where the budget ends before there are enough rounds for an interval, the median decides beyond this share."""

_MINIMUM_PAIRS = 3
"""Pairs that a feed gets even where they exceed its share of the budget: of fewer, one outlier is the median."""

_LARGEST_EXCESS = 4.0
"""A feed whose fewest pairs would take more than this many times its share keeps the pairs that its share paid for."""

_ERROR = 0.05
"""Probability that an engine no slower than TensorFlow goes back by chance, all feeds of a measurement together."""


def measure_trial(trial: Trial, feeds: Sequence[NormalizedFeed], seconds: float) -> tuple[Measurement, ...]:
    """Times both graphs on one feed of each shape after the other, up to the first that is clearly slower.

    Each feed has a comparison of its own, as in a sum over feeds a large one that gains would hide a small one that
    loses.

    Args:
        trial: Both graphs. Each feed has to have run on both before, so that nothing is left to warm up.
        feeds: The user's feeds, by tensor name; of many shapes, only representative ones are measured.
        seconds: Budget for all feeds together, which few and slow pairs may exceed.

    Returns:
        A measurement for each feed that was timed, in their order.
    """
    representatives = representative_feeds(feeds)
    share = seconds / len(representatives)
    measurements: list[Measurement] = []
    for feed in representatives:
        paired = _paired(trial, feed, share, confidence=1.0 - _ERROR / len(representatives))
        measurements.append(
            Measurement(
                original_milliseconds=1e3 * paired.median_a,
                optimized_milliseconds=1e3 * paired.median_b,
                ratio=1.0 / paired.ratio,
                interval=(1.0 / paired.upper, 1.0 / paired.lower if paired.lower > 0 else math.inf),
                rounds=paired.rounds,
                verdict=_verdict(paired),
                feed=describe_shapes(feed_shapes(feed)),
            )
        )
        if measurements[-1].verdict == "slower":
            break
    shapes = len({feed_shapes(feed) for feed in feeds})
    return tuple(replace(each, measured_shapes=len(measurements), shapes=shapes) for each in measurements)


def _paired(trial: Trial, feed: NormalizedFeed, seconds: float, confidence: float) -> PairedComparison:
    """Compares both graphs on one feed in about `seconds`; a few pairs may take longer, see `_LARGEST_EXCESS`."""

    def run_original() -> None:
        trial.run_original(feed)

    def run_optimized() -> None:
        trial.run_optimized(feed)

    paired = paired_comparison(
        run_original, run_optimized, margin=_MARGIN, maximum_seconds=seconds, confidence=confidence, warmup=0
    )
    needed = _MINIMUM_PAIRS * paired.seconds / paired.rounds
    if paired.rounds >= _MINIMUM_PAIRS or needed > _LARGEST_EXCESS * seconds:
        return paired
    return paired_comparison(
        run_original,
        run_optimized,
        margin=_MARGIN,
        minimum_rounds=_MINIMUM_PAIRS,
        maximum_rounds=_MINIMUM_PAIRS,
        maximum_seconds=math.inf,
        confidence=confidence,
        warmup=0,
    )


def _verdict(paired: PairedComparison) -> Verdict:
    """Returns what the interval says; where there is none, what the median says beyond a wider margin."""
    if math.isfinite(paired.upper) or abs(math.log(paired.ratio)) <= math.log1p(_MARGIN_WITHOUT_INTERVAL):
        return paired.verdict
    return "slower" if paired.ratio > 1 else "faster"
