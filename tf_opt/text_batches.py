"""Batches texts for serving so that few distinct shapes occur.

Each new shape costs an engine time at its first run, and only shapes that come again are served by engines made for
them. So texts are grouped by length into buckets, and padded no further than the length of their bucket.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np

from tf_opt.errors import InvalidFeedError, InvalidOptionError, did_you_mean
from tf_opt.feeds import Array

Tokenizer: TypeAlias = Callable[[list[Any]], Any]
"""Takes a list of texts; returns a list of lists of ids, or a mapping with such lists under "input_ids" and other
names, as the tokenizers of Hugging Face do."""

DEFAULT_BUCKETS = (16, 32, 64, 128, 256, 384, 512)
"""Each twice as long as the one before, so that for texts of all lengths about a quarter of a batch is padding; finer
where texts are long and padding costs most. 512 is the longest that BERT has positions for."""

_DTYPES = ("int32", "int64", "float32")  # What models take as ids and masks.

IDS, MASK = "input_ids", "attention_mask"


@dataclass(frozen=True, kw_only=True)
class TextBatch:
    """One feed, and which texts it holds.

    Attributes:
        feed: Arrays [rows, length] by input.
        indices: For each row the number of its text in what was given.
        lengths: For each row how many of its tokens are real; the rest is padding, at the end.
    """

    feed: dict[str, Array]
    indices: tuple[int, ...]
    lengths: tuple[int, ...]


def text_batches(
    texts: Iterable[Any],
    tokenizer: Tokenizer | None = None,
    *,
    batch_size: int = 32,
    buckets: Sequence[int] | int = DEFAULT_BUCKETS,
    inputs: Sequence[str] | Mapping[str, str] = (IDS, MASK),
    padding_id: int | None = None,
    dtype: str = "int32",
) -> list[TextBatch]:
    """Returns batches of texts of similar length, the shortest first; `restore_order` brings results back into order.

    The rows of a batch are `batch_size` or, for what is left over in a bucket, a power of two below it, so that the
    number of distinct shapes stays small and no row is computed for nothing.

    Example:
        >>> batches = text_batches(sentences, tokenizer)
        >>> results = [tf_opt.run(optimized, batch.feed)["pooler_output"] for batch in batches]
        >>> embeddings = np.stack(restore_order(batches, results))

    Args:
        texts: Texts in the form that the tokenizer takes, or, without a tokenizer, lists of ids.
        tokenizer: Turns all texts into ids in one call. It must not pad. A tokenizer of Hugging Face also truncates
            where it is asked to: `lambda texts: tokenizer(texts, truncation=True, max_length=128)`.
        batch_size: Most rows of a batch.
        buckets: Lengths that texts are padded to, ascending; one number stands for its multiples.
        inputs: What the model is fed, out of "input_ids", "attention_mask", "token_type_ids" (zeros where the tokenizer
            gives none) and other lists that the tokenizer gives; as a mapping, from these names to those of the model's
            inputs, such as {"input_ids": "token_ids", "attention_mask": "padding_mask"}.
        padding_id: What fills up "input_ids"; None takes the tokenizer's `pad_token_id`, or 0 where there is none.
        dtype: Dtype of all arrays.

    Returns:
        Batches whose feeds are [rows, length of the bucket].

    Raises:
        InvalidOptionError: batch_size, buckets, inputs, padding_id or dtype is not possible.
        InvalidFeedError: A text is empty after tokenization or longer than the last bucket, or the tokenizer pads or
            does not return what it should.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InvalidOptionError(f"batch_size is {batch_size!r}; expected an integer of at least 1.")
    if padding_id is not None and (isinstance(padding_id, bool) or not isinstance(padding_id, int)):
        raise InvalidOptionError(f"padding_id is {padding_id!r}; expected an integer, or None.")
    if dtype not in _DTYPES:
        raise InvalidOptionError(f"dtype is {dtype!r}; expected one of {', '.join(_DTYPES)}.")
    bucket_of = _bucket_function(buckets)
    names = _names(inputs)
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise InvalidFeedError(f"The texts are a {type(texts).__name__}; expected a list of texts. Write [text].")
    given = list(texts)
    columns = _columns(given, tokenizer, names)
    if padding_id is None:
        padding_id = getattr(tokenizer, "pad_token_id", None) or 0
    rows = [len(ids) for ids in columns[IDS]]
    by_bucket: dict[int, list[int]] = {}
    for index, length in enumerate(rows):
        if length == 0:
            raise InvalidFeedError(f"Text {index} (counted from 0) has no tokens. Leave it out, or give it a token.")
        by_bucket.setdefault(bucket_of(index, length), []).append(index)
    batches = []
    for length, members in sorted(by_bucket.items()):
        for chunk in _chunks(members, batch_size):
            feed = {
                name: _padded([columns[role][i] for i in chunk], length, padding_id if role == IDS else 0, dtype)
                for role, name in names.items()
            }
            batches.append(TextBatch(feed=feed, indices=tuple(chunk), lengths=tuple(rows[i] for i in chunk)))
    return batches


def restore_order(
    batches: Sequence[TextBatch], results: Sequence[Array], *, per_token: bool = False
) -> list[np.ndarray[Any, Any]]:
    """Returns one array for each text, in the order that the texts were given in.

    Args:
        batches: What `text_batches` returned.
        results: One output of the model for each batch, [rows, ...].
        per_token: Whether outputs are [rows, length, ...]; the padding of each row is then cut off.

    Raises:
        InvalidFeedError: The results do not belong to the batches.
    """
    if len(results) != len(batches):
        raise InvalidFeedError(f"There are {len(results)} results for {len(batches)} batches; give one for each.")
    restored: dict[int, Array] = {}
    for number, (batch, result) in enumerate(zip(batches, results, strict=True)):
        array = np.asarray(result)
        length = next(iter(batch.feed.values())).shape[1]
        expected = [len(batch.indices), length] if per_token else [len(batch.indices)]
        if list(array.shape[: len(expected)]) != expected:
            raise InvalidFeedError(
                f"The result of batch {number} has the shape {list(array.shape)}; expected it to begin with {expected}"
                f"{', rows and tokens' if per_token else ', one row for each text'}."
            )
        for row, (index, tokens) in enumerate(zip(batch.indices, batch.lengths, strict=True)):
            restored[index] = array[row, :tokens] if per_token else array[row]
    return [restored[index] for index in sorted(restored)]


def _bucket_function(buckets: Sequence[int] | int) -> Callable[[int, int], int]:
    """Returns a function from (number of a text, its length) to the length of its bucket."""
    if isinstance(buckets, int) and not isinstance(buckets, bool) and buckets >= 1:
        return lambda _, length: -(-length // buckets) * buckets
    try:
        lengths = [operator.index(length) for length in buckets]  # type: ignore[union-attr]
    except (TypeError, ValueError):
        lengths = []
    if not lengths or lengths[0] < 1 or any(low >= high for low, high in pairwise(lengths)):
        raise InvalidOptionError(
            f"buckets is {buckets!r}; expected lengths in ascending order such as {list(DEFAULT_BUCKETS)}, or one "
            "number of at least 1 whose multiples are the lengths."
        )

    def bucket_of(index: int, length: int) -> int:
        for bucket in lengths:
            if length <= bucket:
                return bucket
        raise InvalidFeedError(
            f"Text {index} (counted from 0) has {length} tokens, the last bucket takes {lengths[-1]}. Have the "
            f"tokenizer truncate (truncation=True, max_length={lengths[-1]}), or add a bucket if the model takes that "
            "many."
        )

    return bucket_of


def _names(inputs: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    names = dict(inputs) if isinstance(inputs, Mapping) else {}
    if not isinstance(inputs, Mapping | str):
        names = {name: name for name in inputs}
    if not names or not all(isinstance(name, str) for pair in names.items() for name in pair):
        raise InvalidOptionError(
            f"inputs is {inputs!r}; expected names such as ['{IDS}', '{MASK}'], or a mapping from these to the names "
            "of the model's inputs."
        )
    return names


def _columns(texts: list[Any], tokenizer: Tokenizer | None, names: Mapping[str, str]) -> dict[str, Sequence[Any]]:
    """Returns lists of numbers for each text, by name; always the ids, and what `names` asks for."""
    tokenized = texts if tokenizer is None or not texts else tokenizer(texts)
    columns: dict[str, Any] = dict(tokenized) if isinstance(tokenized, Mapping) else {IDS: tokenized}
    if IDS not in columns:
        raise InvalidFeedError(f"The tokenizer gives {sorted(columns)}; expected {IDS!r} among them.")
    ids = columns[IDS] = _rows(columns[IDS], len(texts), IDS)
    if MASK in columns:
        _refuse_padding(_rows(columns[MASK], len(texts), MASK))
    columns[MASK] = [np.ones(len(row), int) for row in ids]
    columns.setdefault("token_type_ids", [np.zeros(len(row), int) for row in ids])
    for name in names:
        if name not in columns:
            known = sorted(columns)
            raise InvalidOptionError(
                f"There is no {name!r} to feed.{did_you_mean(name, known)} The tokenizer gives: {', '.join(known)}."
            )
        columns[name] = _rows(columns[name], len(texts), name)
        for index, (row, row_ids) in enumerate(zip(columns[name], ids, strict=True)):
            if len(row) != len(row_ids):
                raise InvalidFeedError(f"Text {index} has {len(row_ids)} ids, but {len(row)} of {name!r}.")
    return columns


def _rows(listed: Any, count: int, name: str) -> list[Array]:
    """Returns what the tokenizer gives under a name as one array for each text."""
    hint = "Expected one list of numbers for each text; a list of texts needs a tokenizer."
    try:
        rows = [np.asarray(row) for row in listed]
    except (TypeError, ValueError) as error:
        raise InvalidFeedError(f"{name!r} cannot be read: {error}. {hint}") from error
    if len(rows) != count:
        raise InvalidFeedError(f"The tokenizer gives {len(rows)} lists of {name!r} for {count} texts. {hint}")
    kinds = "iu" if name == IDS else "iufb"
    for index, row in enumerate(rows):
        if row.ndim != 1 or (row.size and row.dtype.kind not in kinds):
            raise InvalidFeedError(
                f"{name!r} of text {index} (counted from 0) is an array of {row.dtype.name} of rank {row.ndim}. {hint}"
            )
    return rows


def _refuse_padding(masks: Sequence[Array]) -> None:
    for index, mask in enumerate(masks):
        if not mask.all():
            raise InvalidFeedError(
                f"The tokenizer pads: {MASK!r} of text {index} (counted from 0) has zeros. Have it not pad "
                "(padding=False); each text is padded here, to the length of its bucket."
            )


def _chunks(members: list[int], batch_size: int) -> Iterator[list[int]]:
    start = 0
    while start < len(members):
        left = len(members) - start
        rows = batch_size if left >= batch_size else 1 << (left.bit_length() - 1)
        yield members[start : start + rows]
        start += rows


def _padded(rows: Sequence[Any], length: int, filler: int, dtype: str) -> Array:
    array = np.full((len(rows), length), filler, dtype)
    for target, row in zip(array, rows, strict=True):
        target[: len(row)] = row
    return array
