"""Turns texts into the feeds of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tf_opt.cli.feed_files import read_texts
from tf_opt.cli.hugging_face import load_tokenizer
from tf_opt.errors import InvalidFeedError, InvalidOptionError, did_you_mean
from tf_opt.feeds import Feed
from tf_opt.tensor_info import TensorInfo
from tf_opt.text_batches import DEFAULT_BUCKETS, text_batches

_INTEGERS = ("int32", "int64")


def text_feeds(
    path: Path,
    tokenizer_folder: Path | None,
    inputs: Sequence[TensorInfo],
    *,
    names: Mapping[str, str],
    batch_size: int,
    maximum_length: int | None,
) -> list[Feed]:
    """Returns batches of the texts in a file: as they are for inputs of strings, tokenized for others.

    Args:
        path: A .jsonl file.
        tokenizer_folder: A folder with a tokenizer of Hugging Face; None where all inputs are strings.
        inputs: The inputs of the model.
        names: From what the tokenizer gives to the input that takes it, where the two are called otherwise.
        batch_size: Most rows of a batch.
        maximum_length: Longer texts are cut; None takes what the tokenizer says the model takes.

    Raises:
        FeedFileError, TokenizerError: A file cannot be read.
        InvalidOptionError: The maximum length is above what the tokenizer's model takes, or `names` has one that is not
            there.
        InvalidFeedError: The model has an input that the tokenizer gives nothing for, or there is no tokenizer for it;
            or one of strings is neither a list nor a column of them.
    """
    texts = read_texts(path)
    strings = [info for info in inputs if info.dtype == "string"]
    tokenized = [info for info in inputs if info.dtype != "string"]
    if not tokenized:
        return [_strings(texts[start : start + batch_size], strings) for start in range(0, len(texts), batch_size)]
    if tokenizer_folder is None:
        listed = ", ".join(f"{info.key!r}, which is {info.dtype}" for info in tokenized)
        raise InvalidFeedError(
            f"--texts needs --tokenizer for {listed}: a folder with a tokenizer of Hugging Face, often that of the "
            "model. Only inputs of strings take texts as they are."
        )
    tokenizer = load_tokenizer(tokenizer_folder)
    if maximum_length is not None and maximum_length > tokenizer.model_max_length:
        raise InvalidOptionError(
            f"--maximum-length is {maximum_length}, but the tokenizer in {tokenizer_folder} says that the model takes "
            f"{tokenizer.model_max_length} tokens at most."
        )
    limit = maximum_length or min(DEFAULT_BUCKETS[-1], tokenizer.model_max_length)

    def tokenize(given: list[str]) -> Any:
        return tokenizer(given, truncation=True, max_length=limit, verbose=False)

    taken = _taken_inputs(tokenizer, tokenized, names)
    dtypes = {info.key: info.dtype for info in tokenized}
    buckets = [length for length in DEFAULT_BUCKETS if length < limit] + [limit]
    batches = text_batches(
        texts, tokenize, batch_size=batch_size, buckets=buckets, inputs=taken, padding_id=tokenizer.pad_token_id
    )
    return [
        {key: array.astype(dtypes[key]) for key, array in batch.feed.items()}
        | _strings([texts[index] for index in batch.indices], strings)
        for batch in batches
    ]


def _strings(texts: Sequence[str], inputs: Sequence[TensorInfo]) -> dict[str, Any]:
    """Returns the texts as a list or, where an input is of rank 2, as a column."""
    feed = {}
    for info in inputs:
        rank = 1 if info.shape is None else len(info.shape)
        if rank not in (1, 2) or (info.shape is not None and rank == 2 and info.shape[1] not in (None, 1)):
            raise InvalidFeedError(
                f"The input {info} takes strings in another form than one a row. Give arrays with --feeds."
            )
        feed[info.key] = np.array([text.encode() for text in texts], dtype=object).reshape([-1] + [1] * (rank - 1))
    return feed


def _taken_inputs(tokenizer: Any, inputs: Sequence[TensorInfo], names: Mapping[str, str]) -> dict[str, str]:
    """Returns, by what the tokenizer gives, the key of the input that takes it."""
    given = dict.fromkeys([*tokenizer.model_input_names, "input_ids", "attention_mask", "token_type_ids"])
    keys = [info.key for info in inputs]
    for name, key in names.items():
        if name not in given:
            raise InvalidOptionError(
                f"--text-input names {name!r}, which the tokenizer does not give.{did_you_mean(name, given)} It gives "
                f"{', '.join(given)}."
            )
        if key not in keys:
            raise InvalidOptionError(
                f"--text-input names the input {key!r}, which the model does not have.{did_you_mean(key, keys)} It has "
                f"{', '.join(keys)}."
            )
    role_of = {names.get(role, role): role for role in given}
    taken = {}
    for info in inputs:
        if info.key not in role_of:
            raise InvalidFeedError(
                f"The tokenizer gives nothing called {info.key!r}, which the model takes. It gives {', '.join(given)}; "
                f"say which one is meant with --text-input, such as --text-input input_ids={info.key}."
            )
        if info.dtype not in _INTEGERS:
            raise InvalidFeedError(
                f"The input {info.key!r} is {info.dtype}, but a tokenizer gives integers. Give arrays with --feeds."
            )
        taken[role_of[info.key]] = info.key
    return taken
