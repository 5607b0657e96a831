"""Which feeds decide about which signature of a SavedModel."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tf_opt.errors import InvalidFeedError, did_you_mean
from tf_opt.feeds import Feed, check_feeds
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.light_graph import LightGraph
from tf_opt.optimizer import MAXIMUM_CALIBRATION_FEEDS
from tf_opt.optimizer_inputs import needed_feeds
from tf_opt.random_feeds import random_feeds
from tf_opt.saved_model.parts import SharedGraph


class GivenFeeds:
    """What the user gave: one list for all signatures, or a list for each, or nothing."""

    def __init__(self, feeds: Any, calibration: Any, signatures: Iterable[str], endpoints: Iterable[str]) -> None:
        """Checks for whom feeds are given, not yet what they are.

        Args:
            feeds: A list of feeds, a mapping from names to such lists, or None.
            calibration: The same for calibration.
            signatures: Names of the model's signatures.
            endpoints: Names of its other callables, for which feeds may be given too.

        Raises:
            InvalidFeedError: They are for a signature that is unknown, or are no lists.
        """
        signatures, endpoints = list(signatures), list(endpoints)
        if isinstance(feeds, Iterator):
            feeds = list(feeds)  # They are looked at more than once.
        self._feeds = _named("feeds", feeds, signatures, endpoints)
        self._calibration = _named("calibration_data", calibration, signatures, endpoints)
        if self._calibration is not None and not isinstance(self._calibration, Mapping):
            # One that can be run through once has to serve several signatures.
            self._calibration = list(itertools.islice(self._calibration, MAXIMUM_CALIBRATION_FEEDS))

    def of(self, group: SharedGraph, notes: list[str]) -> tuple[Sequence[Feed], Iterable[Feed] | None]:
        """Returns the feeds of a graph for measurement and for calibration, checked.

        Args:
            group: The graph.
            notes: Where it is noted that feeds are made up.

        Raises:
            InvalidFeedError: There are none for this graph, but for others, or they do not fit it.
        """
        calibration = _chosen(self._calibration, group)
        feeds = _chosen(self._feeds, group)
        if feeds is not None:
            try:
                check_feeds(*needed_feeds(group.model, feeds))
            except InvalidFeedError as error:
                if group.signatures or isinstance(self._feeds, Mapping):
                    raise InvalidFeedError(
                        f"{group.title}: {error} Feeds for several signatures are given by name: "
                        f"{{{group.parts[0].name!r}: [...], ...}}."
                    ) from error
            else:
                return feeds, calibration
        elif self._feeds is not None and group.signatures:
            raise InvalidFeedError(
                f"{group.title} has no feeds, while others have. Give feeds for it under its name, or say with "
                "`signatures` which ones to optimize."
            )
        made_up = _made_up(group)
        notes.append(f"{group.title} was measured on made-up feeds, as none were given for it.")
        return made_up, calibration


def _made_up(group: SharedGraph) -> Sequence[Feed]:
    model: LightGraph = group.model
    frozen = FrozenGraph(graph_def=model.graph_def, inputs=model.inputs, outputs=model.outputs)
    try:
        return random_feeds(frozen)
    except InvalidFeedError as error:
        raise InvalidFeedError(f"{group.title}: {error}") from error


def _chosen(given: Any, group: SharedGraph) -> Any:
    if not isinstance(given, Mapping):
        return given
    return next((given[part.name] for part in group.parts if part.name in given), None)


def _named(what: str, given: Any, signatures: Sequence[str], endpoints: Sequence[str]) -> Any:
    """Returns `given`, where its names are known."""
    if not isinstance(given, Mapping):
        return given
    known = [*signatures, *endpoints]
    for name, feeds in given.items():
        if name not in known:
            example = next(iter(signatures), "serving_default")
            raise InvalidFeedError(
                f"{what} has feeds for {name!r}, which is no signature.{did_you_mean(str(name), known)} The signatures "
                f"are: {', '.join(map(repr, signatures)) or 'none'}. Give {{{example!r}: [feed, ...]}}, or one list "
                "[feed, ...] for all."
            )
        if isinstance(feeds, Mapping):
            raise InvalidFeedError(f"{what} for {name!r} is one mapping; expected a list of feeds. Write [feed].")
    return given
