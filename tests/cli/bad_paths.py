"""Command lines that are wrong in the models or results that they name: arguments, exit code, parts of the message."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tests.cli.conftest import Models

ERROR, USAGE = 1, 2

Arguments: TypeAlias = Callable[[Models, Path], list[Any]]
"""Makes a command line from the models and an empty folder."""

Case: TypeAlias = tuple[Arguments, int, list[str]]
"""A command line, its exit code, and what stands in the message."""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def npy(path: Path, array: Any) -> Path:
    with path.open("wb") as file:
        np.save(file, array)
    return path


def archive(path: Path, **files: str) -> Path:
    with zipfile.ZipFile(path, "w") as written:
        for name, text in files.items():
            written.writestr(name, text)
    return path


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


def link(path: Path, aim: Path) -> Path:
    path.symlink_to(aim)
    return path


def folder(path: Path, **files: str | bytes) -> Path:
    path.mkdir()
    for name, text in files.items():
        write(path / name.replace("_DOT_", "."), text)
    return path


def optimize(source: Any, target: Any, *more: Any) -> list[Any]:
    return ["optimize", source, target, "--no-cache", *more]


def with_options(*options: str) -> Arguments:
    """Optimizes the graph with these options."""
    return lambda m, t: optimize(m.graph, t / "out", *options)


MODELS: dict[str, Case] = {
    "missing": (
        lambda m, t: optimize(m.folder / "net.bp", t / "out"),
        ERROR,
        [
            "There is no",
            "net.bp",
            "Did you mean 'net.pb'",
            "Accepted are a SavedModel folder",
            ".keras",
            "Hugging Face",
        ],
    ),
    "of unknown kind": (
        lambda m, t: optimize(write(t / "model.onnx", "x"), t / "out"),
        ERROR,
        ["of no known kind", "Accepted are"],
    ),
    "a damaged graph": (
        lambda m, t: optimize(write(t / "net.pb", b"\xff\xff\xff\xff"), t / "out"),
        ERROR,
        ["net.pb is no GraphDef"],
    ),
    "a part of a SavedModel": (
        lambda m, t: optimize(m.saved_model / "saved_model.pb", t / "out"),
        ERROR,
        ["is a part of a SavedModel", "Name its folder instead"],
    ),
    "an empty folder": (lambda m, t: optimize(folder(t / "empty"), t / "out"), ERROR, ["is an empty folder"]),
    "a folder of something else": (
        lambda m, t: optimize(folder(t / "notes", a_DOT_txt="x"), t / "out"),
        ERROR,
        ["is a folder without a model", "it holds a.txt"],
    ),
    "a damaged SavedModel": (
        lambda m, t: optimize(folder(t / "bad", saved_model_DOT_pb=b"\xff\xff\xff"), t / "out"),
        ERROR,
        ["saved_model.pb is damaged"],
    ),
    "a damaged Keras model": (
        lambda m, t: optimize(write(t / "net.keras", "x"), t / "out"),
        ERROR,
        ["net.keras is no Keras model"],
    ),
    "a Hugging Face folder without weights": (
        lambda m, t: optimize(folder(t / "bert", config_DOT_json="{}"), t / "out"),
        ERROR,
        ["no weights: neither tf_model.h5 nor"],
    ),
    "a Hugging Face folder of PyTorch's pickles": (
        lambda m, t: optimize(folder(t / "bert", config_DOT_json="{}", pytorch_model_DOT_bin="x"), t / "out"),
        ERROR,
        ["pickled by PyTorch", "safe_serialization=True"],
    ),
    "a Hugging Face folder of no known model": (
        lambda m, t: optimize(folder(t / "bert", config_DOT_json="{}", model_DOT_safetensors="x"), t / "out"),
        ERROR,
        ["config.json describes no model of Hugging Face"],
    ),
    "a signature that is not there": (
        lambda m, t: optimize(m.saved_model, t / "out", "--signature", "serving_defalt"),
        ERROR,
        ["has no signature 'serving_defalt'", "Did you mean 'serving_default'", "'half'"],
    ),
    "tags that are not there": (
        lambda m, t: optimize(m.saved_model, t / "out", "--tag", "train"),
        ERROR,
        ["has no graph with the tags train", "serve"],
    ),
    "an output that is not there": (
        with_options("--output", "probabilties"),
        ERROR,
        ["'probabilties'", "Did you mean", "probabilities"],
    ),
    "a signature of a graph": (
        with_options("--signature", "serving_default"),
        USAGE,
        ["--signature", "only a SavedModel has one; this is a frozen graph"],
    ),
    "an output of a SavedModel": (
        lambda m, t: optimize(m.saved_model, t / "out", "--output", "y"),
        USAGE,
        ["--output", "a signature keeps all of its outputs"],
    ),
    "other models to compare": (
        lambda m, t: ["compare", m.graph, m.tokens],
        ERROR,
        ["take different inputs", "'x'", "'input_ids'"],
    ),
    "other models to measure": (
        lambda m, t: ["benchmark", m.tokens, m.graph, "--batch", "1"],
        ERROR,
        ["take different inputs"],
    ),
    "no model at all": (lambda m, t: ["analyze", t / "nothing"], ERROR, ["There is no"]),
}

RESULTS: dict[str, Case] = {
    "is there": (
        lambda m, t: optimize(m.graph, folder(t / "out", a_DOT_txt="x")),
        ERROR,
        ["out is there already", "--overwrite"],
    ),
    "is there as a file": (
        lambda m, t: optimize(m.graph, write(t / "out.pb", "x")),
        ERROR,
        ["out.pb is there already"],
    ),
    "is something else that must not go": (
        lambda m, t: optimize(m.graph, folder(t / "out", a_DOT_txt="x"), "--overwrite"),
        ERROR,
        ["no SavedModel; it is not replaced"],
    ),
    "is a file where a folder goes": (
        lambda m, t: optimize(m.graph, write(t / "out", "x"), "--overwrite"),
        ERROR,
        ["is no folder but a file, which a SavedModel folder does not replace"],
    ),
    "is a folder where a file goes": (
        lambda m, t: optimize(m.graph, folder(t / "out.pb"), "--overwrite"),
        ERROR,
        ["is a folder, which a file does not replace"],
    ),
    "is the model": (
        lambda m, t: optimize(m.saved_model, m.saved_model / ".." / "net", "--overwrite"),
        ERROR,
        ["is the model itself"],
    ),
    "lies in the model": (
        lambda m, t: optimize(m.saved_model, m.saved_model / "assets" / "out"),
        ERROR,
        ["lies inside of the model"],
    ),
    "holds the model": (lambda m, t: optimize(m.saved_model, m.folder, "--overwrite"), ERROR, ["contains the model"]),
    "has no folder": (
        lambda m, t: optimize(m.graph, t / "missing" / "out"),
        ERROR,
        ["The folder", "missing", "is not there"],
    ),
    "has a file for a folder": (
        lambda m, t: optimize(m.graph, write(t / "file", "x") / "out"),
        ERROR,
        ["is no folder"],
    ),
    "cannot be made": (lambda m, t: optimize(m.graph, "/proc/out"), ERROR, ["/proc/out cannot be written"]),
    "is a file that cannot be made": (
        lambda m, t: optimize(m.graph, "/proc/out.pb"),
        ERROR,
        ["/proc/out.pb cannot be written"],
    ),
    "has too long a name": (lambda m, t: optimize(m.graph, t / ("n" * 250)), ERROR, ["File name too long"]),
    "is a link": (
        lambda m, t: optimize(m.graph, link(t / "out", m.saved_model), "--overwrite"),
        ERROR,
        ["out is a symbolic link to", "links are not replaced"],
    ),
    "is a link to nothing": (
        lambda m, t: optimize(m.graph, link(t / "out.pb", t / "nothing")),
        ERROR,
        ["out.pb is a symbolic link to"],
    ),
    "has a report that is a link": (
        lambda m, t: optimize(m.graph, t / "out", "--report", link(t / "r.html", t / "nothing"), "--overwrite"),
        ERROR,
        ["r.html is a symbolic link to"],
    ),
    "has a report that is a folder": (
        lambda m, t: optimize(m.graph, t / "out", "--report", folder(t / "r.html"), "--overwrite"),
        ERROR,
        ["r.html is a folder"],
    ),
    "has a report that cannot be made": (
        with_options("--report", "/proc/r.html"),
        ERROR,
        ["/proc/r.html cannot be written"],
    ),
    "has a dump that cannot be made": (with_options("--dump", "/proc/dump"), ERROR, ["/proc/dump cannot be written"]),
    "has a dump in it": (
        lambda m, t: optimize(m.graph, t / "out", "--dump", t / "out" / "dump"),
        ERROR,
        ["--dump", "lies in the result"],
    ),
    "has a dump in the model": (
        lambda m, t: optimize(m.saved_model, t / "out", "--dump", m.saved_model / "dump"),
        ERROR,
        ["dump lies inside of the model"],
    ),
    "has a cache that cannot be made": (
        lambda m, t: ["optimize", m.graph, t / "out", "--cache-dir", write(t / "file", "x") / "cache"],
        ERROR,
        ["file is no folder"],
    ),
    "has a timing cache that cannot be made": (
        with_options("--tensorrt-timing-cache", "/proc/timings"),
        ERROR,
        ["/proc/timings cannot be written"],
    ),
    "is of another form": (lambda m, t: optimize(m.graph, t / "out.onnx"), ERROR, ["a result is a SavedModel folder"]),
    "has a report of no known form": (
        lambda m, t: optimize(m.graph, t / "out", "--report", t / "report.pdf"),
        USAGE,
        ["--report", ".html, .json, .txt"],
    ),
    "has a report that is there": (
        lambda m, t: optimize(m.graph, t / "out", "--report", write(t / "report.html", "x")),
        ERROR,
        ["report.html is there already"],
    ),
    "has a report without a folder": (
        lambda m, t: optimize(m.graph, t / "out", "--report", t / "missing" / "report.html"),
        ERROR,
        ["is not there"],
    ),
}
