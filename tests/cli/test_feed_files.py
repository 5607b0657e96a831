"""Texts are read as JSON Lines has it."""

from __future__ import annotations

import json
from pathlib import Path

from tf_opt.cli.feed_files import read_texts


def test_lines_end_where_json_lines_end(tmp_path: Path) -> None:
    texts = ["a\u2028line separator", "a\u0085next line", "a\x1cfile separator\x0b"]
    file = tmp_path / "texts.jsonl"
    lines = [json.dumps(text, ensure_ascii=False) for text in texts[:2]] + [json.dumps(texts[2])]
    file.write_bytes("\r\n".join(lines).encode() + b"\n\n")
    assert read_texts(file) == texts


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_bytes('"a"\n{"text": "b"}'.encode("utf-8-sig"))
    assert read_texts(file) == ["a", "b"]
