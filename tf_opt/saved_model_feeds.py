"""Which feeds decide about which signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tf_opt.errors import InvalidFeedError, did_you_mean
from tf_opt.feeds import Feed
from tf_opt.saved_model_parts import SharedGraph


def feeds_by_name(
    feeds: Any, wanted: Sequence[str], known: Iterable[str], what: str = "feeds"
) -> Mapping[str, Any] | None:
    """Returns the feeds by signature where they are given so; None where one list is for all, or there are none.

    Args:
        feeds: What the user gave.
        wanted: The signatures to optimize.
        known: All names that feeds may be given for.
        what: What the user calls them.

    Raises:
        InvalidFeedError: They are for a signature that is unknown or is not going to be optimized.
    """
    if not isinstance(feeds, Mapping):
        return None
    names = list(known)
    for name in feeds:
        if name not in names:
            raise InvalidFeedError(
                f"{what} are given for {name!r}, which is no signature.{did_you_mean(str(name), names)} The "
                f"signatures: {', '.join(map(repr, names)) or 'none'}. Give a list of feeds by signature, "
                f"{{'{next(iter(wanted), 'serving_default')}': [...]}}, or one list for all."
            )
        if isinstance(feeds[name], Mapping):
            raise InvalidFeedError(f"{what} for {name!r}: expected a list of feeds, got one mapping. Write [feed].")
    return feeds


def feeds_of(group: SharedGraph, feeds: Sequence[Feed] | Mapping[str, Sequence[Feed]]) -> Sequence[Feed] | None:
    """Returns the feeds for a graph: those of one of its signatures, or the one list there is; None for none."""
    if not isinstance(feeds, Mapping):
        return feeds
    return next((feeds[part.name] for part in group.parts if part.name in feeds), None)
