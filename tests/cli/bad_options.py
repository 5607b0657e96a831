"""Command lines that are wrong in their options or feeds: arguments, exit code, parts of the message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.cli.bad_paths import (
    ERROR,
    USAGE,
    Arguments,
    Case,
    archive,
    flipped,
    folder,
    npy,
    npz,
    optimize,
    with_options,
    write,
)


def on_feeds(make: Callable[[Path], Path]) -> Arguments:
    """Optimizes the graph on the feeds of a file that `make` writes."""
    return lambda m, t: optimize(m.graph, t / "out", "--feeds", make(t / "a.npz"))


def on_texts(content: str | bytes) -> Arguments:
    """Optimizes the graph of tokens on a file of texts."""
    return lambda m, t: optimize(
        m.tokens, t / "out", "--tokenizer", m.hugging_face, "--texts", write(t / "a.jsonl", content)
    )


def with_text_options(*options: str) -> Arguments:
    """Optimizes the graph of tokens on the texts with these options."""
    return lambda m, t: optimize(m.tokens, t / "out", "--tokenizer", m.hugging_face, "--texts", m.texts, *options)


OPTIONS: dict[str, Case] = {
    "engine": (
        with_options("--engine", "openvin"),
        USAGE,
        ["--engine", "'openvin' is none of", "Did you mean 'openvino'"],
    ),
    "engine of several": (with_options("--engine", "openvino,auto"), USAGE, ["without 'auto' and 'fastest'"]),
    "precision": (
        with_options("--precision", "fp23"),
        USAGE,
        ["--precision", "'fp23' is none of", "Did you mean 'fp32'"],
    ),
    "mask": (with_options("--skip-padding", "mask"), ERROR, ["skip_padding is 'mask', which is no input"]),
    "op": (with_options("--denied-op", "Sofmax"), ERROR, ["denied_ops has 'Sofmax'", "Did you mean 'Softmax'"]),
    "op of a SavedModel": (
        lambda m, t: optimize(m.saved_model, t / "out", "--supported-op", "Matmul"),
        ERROR,
        ["supported_list has 'Matmul'", "Did you mean 'MatMul'"],
    ),
    "op to analyze": (lambda m, t: ["analyze", m.saved_model, "--denied-op", "Sofmax"], ERROR, ["'Sofmax'"]),
    "node": (with_options("--denied-node", "logit"), ERROR, ["denied_nodes has 'logit'", "Did you mean 'logits'"]),
    "node of int8": (
        with_options("--precision", "int8", "--quantization-denied-node", "*/pooler/*"),
        ERROR,
        ["quantization.denied_nodes has '*/pooler/*'"],
    ),
    "input of a profile": (
        with_options("--tensorrt-profile", "ids=1x16:1x16:8x16"),
        ERROR,
        ["The shape profile names 'ids'", "The inputs are: 'x'"],
    ),
    "option": (with_options("--precison", "fp32"), USAGE, ["--precison"]),
    "command": (lambda m, t: ["optimise", m.graph, t / "out"], USAGE, ["optimise"]),
    "missing argument": (lambda m, t: ["optimize", m.graph], USAGE, ["OUT"]),
    "dump folder": (lambda m, t: optimize(m.graph, t / "out", "--dump", write(t / "file", "x")), USAGE, ["--dump"]),
    "batch sizes": (lambda m, t: ["benchmark", m.graph, "--batch", "1,0"], USAGE, ["--batch", "no list of sizes"]),
    "sequence lengths": (lambda m, t: ["benchmark", m.graph, "--sequence", "a"], USAGE, ["--sequence"]),
    "sequence of a model without one": (
        lambda m, t: ["benchmark", m.graph, "--sequence", "16"],
        ERROR,
        ["--sequence has nothing to say"],
    ),
    "sizes beside shapes": (
        lambda m, t: ["benchmark", m.graph, "--batch", "1", "--shape", "x=1x16"],
        USAGE,
        ["feeds come from one place"],
    ),
    "kind of cache": (
        lambda m, t: ["cache", "clear", "--kind", "optimisations", "--yes"],
        USAGE,
        ["'optimisations' is none of", "Did you mean 'optimizations'"],
    ),
}

FEEDS: dict[str, Case] = {
    "malformed shape": (with_options("--shape", "x=1y16"), USAGE, ["--shape", "is no size"]),
    "shape without an input": (with_options("--shape", "1x16"), USAGE, ["names no input"]),
    "range that goes down": (with_options("--shape", "x=8..1x16"), USAGE, ["go upwards"]),
    "shape of an unknown input": (with_options("--shape", "xs=1x16"), ERROR, ["no input 'xs'", "Did you mean 'x'"]),
    "shape of another rank": (with_options("--shape", "x=1x16x2"), ERROR, ["[1, 16, 2] does not fit the input x:0"]),
    "two sources": (
        lambda m, t: optimize(m.graph, t / "out", "--shape", "x=1x16", "--feeds", m.arrays),
        USAGE,
        ["--feeds and --shape", "one place"],
    ),
    "missing arrays": (
        lambda m, t: optimize(m.graph, t / "out", "--feeds", t / "a.npz"),
        ERROR,
        ["a.npz cannot be read"],
    ),
    "damaged arrays": (on_feeds(lambda file: write(file, b"PK\x03\x04x")), ERROR, ["a.npz is damaged"]),
    "text instead of arrays": (
        on_feeds(lambda file: write(file, "x: 1, 2, 3")),
        ERROR,
        ["a.npz is no .npz archive", "begins with b'x: 1, '"],
    ),
    "an empty file of arrays": (on_feeds(lambda file: write(file, "")), ERROR, ["a.npz is empty"]),
    "arrays that are cut short": (
        lambda m, t: optimize(
            m.graph, t / "out", "--feeds", write(t / "a.npz", m.arrays.read_bytes()[: m.arrays.stat().st_size // 2])
        ),
        ERROR,
        ["a.npz is damaged"],
    ),
    "arrays with a flipped bit": (
        lambda m, t: optimize(m.graph, t / "out", "--feeds", write(t / "a.npz", flipped(m.arrays.read_bytes(), 150))),
        ERROR,
        ["a.npz is damaged: Bad CRC-32"],
    ),
    "a single array": (
        on_feeds(lambda file: npy(file, np.zeros([3, 16], np.float32))),
        ERROR,
        ["a.npz holds a single array without a name"],
    ),
    "an archive without arrays": (on_feeds(lambda file: npz(file)), ERROR, ["a.npz holds no array"]),
    "an archive of other files": (
        on_feeds(lambda file: archive(file, x="text")),
        ERROR,
        ["a.npz holds 'x', which is no array"],
    ),
    "a folder of arrays": (on_feeds(lambda file: folder(file)), ERROR, ["a.npz cannot be read: Is a directory"]),
    "arrays of the wrong shape": (
        on_feeds(lambda file: npz(file, x=np.zeros([3, 5], np.float32))),
        ERROR,
        ["a.npz", "has shape [3, 5], expected [?, 16]"],
    ),
    "arrays of the wrong rank": (
        on_feeds(lambda file: npz(file, x=np.zeros([16], np.float32))),
        ERROR,
        ["a.npz", "has rank 1"],
    ),
    "arrays of objects": (
        on_feeds(lambda file: npz(file, x=np.array([{}], dtype=object))),
        ERROR,
        ["a.npz holds Python objects"],
    ),
    "arrays that lack an input": (
        on_feeds(lambda file: npz(file, y=np.zeros(3))),
        ERROR,
        ["a.npz", "The graph has no input 'y'"],
    ),
    "arrays of the wrong dtype": (
        on_feeds(lambda file: npz(file, x=np.zeros([3, 16]))),
        ERROR,
        ["has dtype float64, expected float32"],
    ),
    "arrays for a SavedModel of another input": (
        lambda m, t: optimize(m.saved_model, t / "out", "--feeds", npz(t / "a.npz", z=np.zeros([3, 16]))),
        ERROR,
        ["The signature 'serving_default'", "a.npz", "no input 'z'"],
    ),
    "a broken line of texts": (on_texts('"a man"\n{"text":\n'), ERROR, ["a.jsonl, line 2"]),
    "a line without a text": (on_texts('{"txt": "a"}'), ERROR, ["a.jsonl, line 1", "'txt'"]),
    "no texts": (on_texts("\n"), ERROR, ["holds no text"]),
    "an empty file of texts": (on_texts(""), ERROR, ["a.jsonl holds no text"]),
    "texts in another encoding": (
        on_texts('"a"\n"für"'.encode("latin-1")),
        ERROR,
        ["a.jsonl, line 2: no UTF-8 text", "Store the file as UTF-8"],
    ),
    "texts in UTF-16": (on_texts('"a man"'.encode("utf-16")), ERROR, ["a.jsonl, line 1: no UTF-8 text"]),
    "a line with a list": (on_texts('"a"\n\n["b"]'), ERROR, ["a.jsonl, line 3: list is no text"]),
    "texts for what the tokenizer does not give": (
        with_text_options("--text-input", "input_id=input_ids"),
        ERROR,
        ["--text-input names 'input_id'", "Did you mean 'input_ids'"],
    ),
    "texts for an input that is not there": (
        with_text_options("--text-input", "input_ids=ids"),
        ERROR,
        ["--text-input names the input 'ids'", "It has "],
    ),
    "texts without a tokenizer": (
        lambda m, t: optimize(m.tokens, t / "out", "--texts", m.texts),
        ERROR,
        ["--texts needs --tokenizer for 'input_ids', which is int32"],
    ),
    "a tokenizer folder that is missing": (
        lambda m, t: optimize(m.tokens, t / "out", "--texts", m.texts, "--tokenizer", t / "none"),
        ERROR,
        ["There is no folder", "holds the tokenizer"],
    ),
    "a tokenizer folder without one": (
        lambda m, t: optimize(m.tokens, t / "out", "--texts", m.texts, "--tokenizer", m.saved_model),
        ERROR,
        ["holds no tokenizer"],
    ),
    "a damaged tokenizer": (
        lambda m, t: optimize(
            m.tokens, t / "out", "--texts", m.texts, "--tokenizer", folder(t / "t", tokenizer_DOT_json="{")
        ),
        ERROR,
        ["does not load"],
    ),
    "texts for a model without ids": (
        lambda m, t: optimize(m.graph, t / "out", "--texts", m.texts, "--tokenizer", m.hugging_face),
        ERROR,
        ["The tokenizer gives nothing called 'x'", "--text-input"],
    ),
    "texts longer than the model takes": (
        with_text_options("--maximum-length", "65"),
        ERROR,
        ["--maximum-length is 65", "64 tokens at most"],
    ),
    "an unknown mask": (lambda m, t: ["compare", m.graph, m.graph, "--mask", "mask"], ERROR, ["mask"]),
}
