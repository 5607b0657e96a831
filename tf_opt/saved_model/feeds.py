"""Which feeds decide about which signature of a SavedModel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tf_opt.errors import InvalidFeedError, UnfeedableInputError, did_you_mean
from tf_opt.feeds import Feed, check_feeds
from tf_opt.frozen_graph import FrozenGraph
from tf_opt.light_graph import LightGraph
from tf_opt.optimizer_inputs import first_feeds, needed_feeds
from tf_opt.random_feeds import random_feeds
from tf_opt.saved_model.parts import SharedGraph


@dataclass(frozen=True, kw_only=True)
class MadeUpFeeds:
    """Feeds that are made up for the user: a signature that fails on them stays as it was.

    Attributes:
        make: Returns them by signature, for all graphs that are optimized together; it may leave some out.
    """

    make: Callable[[Mapping[str, FrozenGraph]], Mapping[str, Sequence[Feed]]]


@dataclass(frozen=True, kw_only=True)
class ChosenFeeds:
    """The feeds of one graph.

    Attributes:
        measured: What engines are measured on.
        calibration: What quantization looks at; None for the same.
        made_up: Whether none were given for the graph.
    """

    measured: Sequence[Feed]
    calibration: Iterable[Feed] | None
    made_up: bool


class GivenFeeds:
    """What the user gave: one list for all signatures, or a list for each, or nothing."""

    def __init__(self, feeds: Any, calibration: Any, signatures: Iterable[str], endpoints: Iterable[str]) -> None:
        """Checks for whom feeds are given, not yet what they are.

        Args:
            feeds: A list of feeds, a mapping from names to such lists, what makes them up, or None.
            calibration: The same for calibration.
            signatures: Names of the model's signatures.
            endpoints: Names of its other callables, for which feeds may be given too.

        Raises:
            InvalidFeedError: They are for a signature that is unknown, or are no lists.
        """
        signatures, endpoints = list(signatures), list(endpoints)
        if isinstance(feeds, Iterator):
            feeds = list(feeds)  # They are looked at more than once.
        self._maker = feeds if isinstance(feeds, MadeUpFeeds) else None
        self._feeds = _named("feeds", None if self._maker else feeds, signatures, endpoints)
        self._calibration = _named("calibration_data", calibration, signatures, endpoints)
        if self._calibration is not None and not isinstance(self._calibration, Mapping):
            # One that can be run through once has to serve several signatures.
            self._calibration = first_feeds(self._calibration)

    def make_up(self, groups: Iterable[SharedGraph]) -> None:
        """Makes the feeds that are not given but made up, now that the graphs are known.

        Raises:
            InvalidFeedError: What the user said of them fits no graph.
        """
        if self._maker is not None:
            graphs = {
                part.name: _as_frozen(part.model) for group in groups for part in group.parts if part.is_signature
            }
            self._feeds = self._maker.make(graphs)

    def are_meant_for(self, group: SharedGraph) -> bool:
        """Tells whether the user wants a graph to run on these: they have its name, or are for all signatures."""
        if self._feeds is None or self._maker is not None:
            return False
        return any(part.name in self._feeds for part in group.parts) if self._by_name else bool(group.signatures)

    def of(self, group: SharedGraph) -> ChosenFeeds:
        """Returns the feeds of a graph, checked.

        Raises:
            InvalidFeedError: There are none for this graph, but for others, or they do not fit it.
            UnfeedableInputError: None are given, and none can be made up.
        """
        calibration = _chosen(self._calibration, group)
        feeds = _chosen(self._feeds, group)
        if feeds is not None:
            try:
                check_feeds(*needed_feeds(group.model, feeds))
            except InvalidFeedError as error:
                if group.signatures or self._by_name:
                    raise InvalidFeedError(
                        f"{group.title}: {error} Feeds for several signatures are given by name: "
                        f"{{{group.parts[0].name!r}: [...], ...}}."
                    ) from error
            else:
                return ChosenFeeds(measured=feeds, calibration=calibration, made_up=False)
        elif self._feeds is not None and group.signatures and self._maker is None:
            raise InvalidFeedError(
                f"{group.title} has no feeds, while others have. Give feeds for it under its name, or say with "
                "`signatures` which ones to optimize."
            )
        return ChosenFeeds(measured=_made_up(group), calibration=calibration, made_up=True)

    @property
    def _by_name(self) -> bool:
        return isinstance(self._feeds, Mapping)


def _made_up(group: SharedGraph) -> Sequence[Feed]:
    try:
        return random_feeds(_as_frozen(group.model))
    except UnfeedableInputError as error:
        name = group.parts[0].name
        ways = f"In Python that is feeds={{{name!r}: [feed, ...]}}"
        ways += ", on the command line --shape or --feeds." if group.signatures else "."
        raise UnfeedableInputError(f"{group.title}: {error} {ways}") from error
    except InvalidFeedError as error:
        raise InvalidFeedError(f"{group.title}: {error}") from error


def _as_frozen(model: LightGraph) -> FrozenGraph:
    """Returns a graph without its weights as what tells of its inputs."""
    return FrozenGraph(graph_def=model.graph_def, inputs=model.inputs, outputs=model.outputs)


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
