"""Feeds for signatures that are compared one by one: what has none is left out with a reason, and fails no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tf_opt.cli.feed_arguments import FeedSource
from tf_opt.cli.feed_files import read_arrays
from tf_opt.errors import FeedFileError, InvalidFeedError, UnfeedableInputError
from tf_opt.feeds import Feed, check_feeds
from tf_opt.frozen_graph import FrozenGraph, find_tensor
from tf_opt.signature_function import SignatureFunction
from tf_opt.tensor_info import TensorInfo

_NO_STRINGS = (
    "its strings are not made up, as a lookup table would know none of them. Give them with --feeds or --texts, or a "
    "shape with --shape: "
)


def feeds_or_reasons(
    source: FeedSource, signatures: Mapping[str, FrozenGraph | SignatureFunction]
) -> tuple[dict[str, list[Feed]], dict[str, str]]:
    """Returns feeds by signature, and for each signature without any the reason.

    Of a file with arrays, each signature takes those of its own inputs; of the shapes for random feeds too.

    Args:
        source: Where feeds come from.
        signatures: What is to be run; the key is empty where a model has one way to be called.

    Raises:
        InvalidFeedError: A file cannot be read, or has something that no signature takes or that does not fit; a shape
            is for no input; or there is nothing that could be run.
    """
    inputs = {key: each.inputs for key, each in signatures.items()}
    if len(signatures) == 1 and not source.is_random:
        return source.read_by_signature(inputs), {}  # All of a file is for this one.
    if source.arguments.feeds:
        feeds, reasons = _from_files(source, inputs)
    elif source.arguments.texts:
        feeds, reasons = _from_texts(source, inputs)
    else:
        feeds, reasons = _made_up(source, signatures)
    if not feeds:
        raise UnfeedableInputError(nothing_compared(reasons))
    return feeds, reasons


def nothing_compared(reasons: Mapping[str, str]) -> str:
    """Returns why nothing at all was compared, from the reason of each signature."""
    return " ".join(f"The signature {key!r}: {reason}" if key else reason for key, reason in reasons.items())


def _from_files(
    source: FeedSource, inputs: Mapping[str, Sequence[TensorInfo]]
) -> tuple[dict[str, list[Feed]], dict[str, str]]:
    feeds: dict[str, list[Feed]] = {}
    lacking: dict[str, list[str]] = {key: [] for key in inputs}
    everything = [info for infos in inputs.values() for info in infos]
    for path in source.arguments.feeds or ():
        arrays = read_arrays(path)
        if any(find_tensor(everything, name) is None for name in arrays):
            source.read_by_signature(inputs)  # The first one says what is wrong.
        for key, infos in inputs.items():
            own: dict[str, Any] = {name: array for name, array in arrays.items() if find_tensor(infos, name)}
            missing = [info.key for info in infos if not any(find_tensor([info], name) for name in own)]
            if missing:
                lacking[key].append(f"{path} lacks {', '.join(map(repr, missing))}")
                continue
            try:
                check_feeds([own], infos)
            except InvalidFeedError as error:
                raise FeedFileError(f"The signature {key!r}: {path}: {str(error).removeprefix('Feed 0: ')}") from error
            feeds.setdefault(key, []).append(own)
    return feeds, {key: f"{'; '.join(lacking[key])}." for key in inputs if key not in feeds}


def _from_texts(
    source: FeedSource, inputs: Mapping[str, Sequence[TensorInfo]]
) -> tuple[dict[str, list[Feed]], dict[str, str]]:
    feeds: dict[str, list[Feed]] = {}
    reasons: dict[str, str] = {}
    for key, infos in inputs.items():
        try:
            feeds[key] = source.read(infos)
        except FeedFileError:
            raise
        except InvalidFeedError as error:
            reasons[key] = str(error)
    return feeds, reasons


def _made_up(
    source: FeedSource, signatures: Mapping[str, FrozenGraph | SignatureFunction]
) -> tuple[dict[str, list[Feed]], dict[str, str]]:
    graphs: dict[str, FrozenGraph] = {}
    reasons: dict[str, str] = {}
    for key, each in signatures.items():
        strings = [info.key for info in each.inputs if info.dtype == "string" and not _is_shaped(source, info)]
        if isinstance(each, SignatureFunction) and strings:
            reasons[key] = f"{_NO_STRINGS}{', '.join(strings)}."
        else:
            graphs[key] = each.frozen_border if isinstance(each, SignatureFunction) else each
    return source.random_by_signature(graphs, reasons), reasons


def _is_shaped(source: FeedSource, info: TensorInfo) -> bool:
    """Tells whether the user asked for random values of an input."""
    return any(find_tensor([info], shape.name) is not None for shape in source.shapes)
