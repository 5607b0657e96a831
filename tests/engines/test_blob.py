"""The container of stored engines, as Python reads and writes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tf_opt.engines.blob import FORMAT_VERSION, MAGIC, EngineBlob
from tf_opt.errors import EngineBlobCorruptError, EngineBlobVersionError

HEADER = {"runtime": "openvino", "tf_opt_version": "0.1.0", "library_version": "2026.4.1", "inputs": [], "outputs": []}


@given(payload=st.binary(max_size=200), note=st.text(max_size=20))
def test_round_trip(payload: bytes, note: str) -> None:
    blob = EngineBlob(header={**HEADER, "note": note}, payload=payload)

    assert EngineBlob.unpack(blob.pack()) == blob


def test_layout_is_the_documented_one() -> None:
    packed = EngineBlob(header=HEADER, payload=b"PAYLOAD").pack()

    header_length = int.from_bytes(packed[12:16], "little")
    payload_at = 16 + header_length + 8
    assert packed[:8] == MAGIC == b"TFOPTENG"
    assert int.from_bytes(packed[8:12], "little") == FORMAT_VERSION == 1
    assert int.from_bytes(packed[payload_at - 8 : payload_at], "little") == 7
    assert packed[payload_at:-4] == b"PAYLOAD"


def test_equal_engines_have_equal_bytes() -> None:
    backwards = dict(reversed(HEADER.items()))

    assert EngineBlob(header=HEADER, payload=b"x").pack() == EngineBlob(header=backwards, payload=b"x").pack()


@given(position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(position: int, flip: int) -> None:
    packed = bytearray(EngineBlob(header=HEADER, payload=b"PAYLOAD").pack())
    packed[position % len(packed)] ^= flip

    with pytest.raises((EngineBlobCorruptError, EngineBlobVersionError)):
        EngineBlob.unpack(bytes(packed))


@given(length=st.integers(min_value=0))
def test_any_truncation_is_noticed(length: int) -> None:
    packed = EngineBlob(header=HEADER, payload=b"PAYLOAD").pack()

    with pytest.raises(EngineBlobCorruptError):
        EngineBlob.unpack(packed[: length % len(packed)])


def test_bytes_after_the_end_are_noticed() -> None:
    with pytest.raises(EngineBlobCorruptError, match="payload should have"):
        EngineBlob.unpack(EngineBlob(header=HEADER, payload=b"PAYLOAD").pack() + b"\0")


def test_other_version_says_what_to_do() -> None:
    packed = bytearray(EngineBlob(header=HEADER).pack())
    packed[8] = 2

    with pytest.raises(EngineBlobVersionError, match=r"format version 2.*reads version 1.*install the tf_opt"):
        EngineBlob.unpack(bytes(packed))


def test_header_without_a_required_key_is_refused() -> None:
    incomplete = {key: value for key, value in HEADER.items() if key != "runtime"}

    with pytest.raises(ValueError, match="lacks runtime"):
        EngineBlob(header=incomplete).pack()
