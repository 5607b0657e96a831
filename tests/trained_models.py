"""MiniLM, whose weights are trained ones, made and frozen once for all tests of a process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import bert_models
import numpy as np

import tf_opt


@functools.cache
def minilm() -> tuple[tf_opt.FrozenGraph, Any]:
    """Returns the frozen graph and the tokenizer. Nobody may change them."""
    model, tokenizer = bert_models.minilm()
    return tf_opt.freeze_keras(model), tokenizer


def sentence_feed(sentences: Sequence[str]) -> dict[str, Any]:
    """Returns what MiniLM is fed for a batch of sentences: int32 arrays [sentences, length] by input."""
    _, tokenizer = minilm()
    tokens = tokenizer(list(sentences), padding=True, return_tensors="np")
    return {name: np.asarray(values, np.int32) for name, values in tokens.items()}
