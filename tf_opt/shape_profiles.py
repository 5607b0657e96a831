"""Which shapes an engine has to serve: from the user's ranges or the shapes in the feeds to a segment's inputs.

A user knows the shapes of the graph's inputs; a segment may begin anywhere. So feeds of the smallest, the tuned for and
the largest shape are made, and the part of the graph in front of the segment is run with them.

What has no elements is left out: such requests run the segment's original nodes, so that an engine never gets one, and
a range that begins at 0 would only be harder to tune for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from tensorflow.core.framework import graph_pb2

from tf_opt.border_values import border_values
from tf_opt.engines.base import ShapeProfile
from tf_opt.engines.tensorrt.settings import ShapeRange, TensorRTSettings
from tf_opt.errors import CalibrationError, EngineBuildError, InvalidOptionError, did_you_mean
from tf_opt.feeds import Array, NormalizedFeed
from tf_opt.frozen_graph import find_tensor
from tf_opt.passes.tf.segment import Segment
from tf_opt.tensor_info import Shape, TensorInfo
from tf_opt.weights import WeightStore

MAXIMUM_SHAPE_ELEMENTS = 64
"""An integer input of more elements holds no shape; TensorRT takes no more in a shape tensor."""

MAXIMUM_FEED_BYTES = 8 * 2**30
"""An input of more bytes is a slip of the pen rather than a shape to be served."""

Shapes: TypeAlias = dict[str, tuple[int, ...]]
"""Shapes by tensor name."""


@dataclass(frozen=True)
class _Range:
    """Feeds of the smallest, the tuned for and the largest shape; more feeds that have to fit."""

    minimum: NormalizedFeed
    optimum: NormalizedFeed
    maximum: NormalizedFeed
    others: tuple[NormalizedFeed, ...] = ()

    def feeds(self) -> list[NormalizedFeed]:
        """Returns all of them, the one to tune for first."""
        return [self.optimum, self.minimum, self.maximum, *self.others]


class ShapeProfiles:
    """Returns the profiles of each segment of one graph."""

    def __init__(
        self, settings: TensorRTSettings, inputs: Sequence[TensorInfo], feeds: Sequence[NormalizedFeed]
    ) -> None:
        """Makes the feeds of all ranges.

        Args:
            settings: The user's ranges, or what becomes of the shapes in the feeds.
            inputs: Inputs of the graph.
            feeds: The user's feeds; at least one.

        Raises:
            InvalidOptionError: A range names no input, or has another rank or other fixed dimensions.
        """
        if settings.profiles:
            self._ranges = [self._given(profile, inputs, feeds) for profile in settings.profiles]
            return
        self._ranges = []
        if "optimal" in settings.profile_strategy:
            # Of all feeds: what flows into a segment may differ in shape where what is fed does not.
            self._ranges += [_Range(feed, feed, feed) for feed in feeds]
        if "range" in settings.profile_strategy:
            self._ranges.append(self._seen(feeds))

    def __call__(self, light: graph_pb2.GraphDef, weights: WeightStore, segment: Segment) -> tuple[ShapeProfile, ...]:
        """Returns the profiles of a segment, the narrowest first.

        Args:
            light: The graph that the segment was found in.
            weights: Its constants.
            segment: The segment.

        Raises:
            EngineBuildError: The shapes of its inputs cannot be found out, or one is of varying rank, or there is
                none with elements.
        """
        feeds = {id(feed): feed for each in self._ranges for feed in each.feeds()}
        try:
            samples = border_values(light, weights, segment, list(feeds.values()))
        except CalibrationError as error:
            raise EngineBuildError(
                f"The shapes of what flows into {segment.name} cannot be found out: {error} Give feeds, or ranges "
                "of shapes, that the graph takes in every combination of their smallest and largest dimensions."
            ) from error
        values = dict(zip(feeds, samples, strict=True))
        profiles: dict[str, ShapeProfile] = {}
        for each in self._ranges:
            found = [values[id(feed)] for feed in each.feeds()]
            if served := [sample for sample in found if _has_elements(sample)]:
                profile = _profile(segment, served)
                profiles.setdefault(repr(profile), profile)
        if not profiles:
            raise EngineBuildError(
                f"What flows into {segment.name} has no elements with any of the feeds, and without elements the "
                "original nodes run. Give feeds as the model will be served."
            )
        return tuple(profiles.values())

    def _seen(self, feeds: Sequence[NormalizedFeed]) -> _Range:
        """Returns the range of all feeds with elements, tuned for the largest of those shapes that come most often."""
        feeds = [feed for feed in feeds if _has_elements(feed)] or feeds
        counts = Counter(_key(feed) for feed in feeds)
        optimum = max(feeds, key=lambda feed: (counts[_key(feed)], sum(each.size for each in feed.values())))
        smallest: Shapes = {}
        largest: Shapes = {}
        for name, array in optimum.items():
            # Of varying rank: no engine that serves ranges reads such an input.
            same_rank = all(feed[name].ndim == array.ndim for feed in feeds)
            shapes = [feed[name].shape for feed in feeds] if same_rank else [array.shape]
            smallest[name] = tuple(np.min(shapes, axis=0).astype(int).tolist())
            largest[name] = tuple(np.max(shapes, axis=0).astype(int).tolist())
        return _Range(_resized(optimum, smallest), optimum, _resized(optimum, largest), tuple(feeds))

    def _given(
        self,
        profile: Mapping[str, ShapeRange],
        inputs: Sequence[TensorInfo],
        feeds: Sequence[NormalizedFeed],
    ) -> _Range:
        """Returns a range of the user's; inputs that it leaves out go with one of the same static shape."""
        given: dict[str, ShapeRange] = {}
        by_static_shape: dict[Shape, ShapeRange] = {}
        for name, shapes in profile.items():
            info = find_tensor(inputs, name)
            if info is None:
                known = [each.key for each in inputs]
                raise InvalidOptionError(
                    f"The shape profile names {name!r}, which is no input of the graph.{did_you_mean(name, known)} The "
                    f"inputs are: {', '.join(map(repr, known))}."
                )
            for shape in shapes:
                _check(info, shape)
            if info.name in given:
                raise InvalidOptionError(f"The shape profile names {info.key!r} twice. Give one range for each input.")
            given[info.name] = shapes
            by_static_shape.setdefault(info.shape, shapes)
        seen = self._seen(feeds)
        sides: list[Shapes] = [{}, {}, {}]
        for info in inputs:
            if info.name not in feeds[0]:  # No output needs it.
                continue
            found = given.get(info.name) or by_static_shape.get(info.shape)
            if found is None:
                found = (seen.minimum[info.name].shape, seen.optimum[info.name].shape, seen.maximum[info.name].shape)
            for side, shape in zip(sides, found, strict=True):
                side[info.name] = tuple(shape)
        minimum, optimum, maximum = (_resized(seen.optimum, side) for side in sides)
        return _Range(minimum, optimum, maximum)


def _check(info: TensorInfo, shape: Sequence[int]) -> None:
    fits = info.shape is None or (
        len(shape) == len(info.shape)
        and all(fixed in (None, size) for fixed, size in zip(info.shape, shape, strict=True))
    )
    if not fits:
        raise InvalidOptionError(
            f"The shape profile of {info.key!r} has {tuple(shape)}, which is no shape of {info}. Give its rank and its "
            "fixed dimensions."
        )


def _key(feed: NormalizedFeed) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, array.shape) for name, array in feed.items()))


def _has_elements(arrays: Mapping[str, Array]) -> bool:
    return all(array.size for array in arrays.values())


def _resized(feed: NormalizedFeed, shapes: Shapes) -> NormalizedFeed:
    """Returns a feed of other shapes, made of the values of this one: ids and masks stay what they can be."""
    for name, array in feed.items():
        size = math.prod(shapes[name]) * array.itemsize
        if size > MAXIMUM_FEED_BYTES:
            raise InvalidOptionError(
                f"A tensor {shapes[name]} for {name!r} takes {size / 2**30:.0f} GiB. To learn what flows into a "
                "segment the graph is run at the largest shape of each range; "
                f"{MAXIMUM_FEED_BYTES // 2**30} GiB are the most."
            )
    return {name: np.resize(array, shapes[name]).astype(array.dtype, copy=False) for name, array in feed.items()}


def _profile(segment: Segment, samples: Sequence[Mapping[str, Array]]) -> ShapeProfile:
    """Returns the profile that holds all samples and is tuned for the first."""
    minimum: Shapes = {}
    optimum: Shapes = {}
    maximum: Shapes = {}
    values = {}
    for name, info in zip(samples[0], segment.inputs, strict=True):
        arrays = [sample[name] for sample in samples]
        if len({array.ndim for array in arrays}) > 1:
            raise EngineBuildError(
                f"{info.name}, which flows into {segment.name}, has different ranks in different feeds; an engine that "
                "is built for a range of shapes takes one."
            )
        shapes = np.array([array.shape for array in arrays]).reshape(len(arrays), -1)
        minimum[name] = tuple(shapes.min(axis=0).tolist())
        optimum[name] = arrays[0].shape
        maximum[name] = tuple(shapes.max(axis=0).tolist())
        one_shape = minimum[name] == maximum[name]
        is_integer = np.issubdtype(arrays[0].dtype, np.integer)
        if is_integer and one_shape and arrays[0].ndim <= 1 and arrays[0].size <= MAXIMUM_SHAPE_ELEMENTS:
            flat = np.array([array.reshape(-1) for array in arrays])
            values[name] = (
                tuple(flat.min(axis=0).tolist()),
                tuple(flat[0].tolist()),
                tuple(flat.max(axis=0).tolist()),
            )
    return ShapeProfile(minimum=minimum, optimum=optimum, maximum=maximum, values=values)
