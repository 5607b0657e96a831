"""What is wrong on a command line, or with the files it names: exit code, message, and nothing written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import numpy as np
import pytest

from tests.cli.conftest import Invoke, Models
from tf_opt.engines import openvino

ERROR, USAGE = 1, 2

Arguments: TypeAlias = Callable[[Models, Path], list[Any]]
"""Makes a command line from the models and an empty folder."""


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def folder(path: Path, **files: str | bytes) -> Path:
    path.mkdir()
    for name, text in files.items():
        write(path / name.replace("_DOT_", "."), text)
    return path


def optimize(source: Any, target: Any, *more: Any) -> list[Any]:
    return ["optimize", source, target, "--no-cache", *more]


MODELS: dict[str, tuple[Arguments, int, list[str]]] = {
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
        lambda m, t: optimize(m.graph, t / "out", "--output", "probabilties"),
        ERROR,
        ["'probabilties'", "Did you mean", "probabilities"],
    ),
    "a signature of a graph": (
        lambda m, t: optimize(m.graph, t / "out", "--signature", "serving_default"),
        USAGE,
        ["--signature", "only a SavedModel has one; this is a frozen graph"],
    ),
    "an output of a SavedModel": (
        lambda m, t: optimize(m.saved_model, t / "out", "--output", "y"),
        USAGE,
        ["--output", "a signature keeps all of its outputs"],
    ),
    "other models to compare": (
        lambda m, t: ["compare", m.graph, m.hugging_face],
        ERROR,
        ["take different inputs", "'x'", "'input_ids'"],
    ),
    "other models to measure": (
        lambda m, t: ["benchmark", m.hugging_face, m.graph, "--batch", "1"],
        ERROR,
        ["take different inputs"],
    ),
    "no model at all": (lambda m, t: ["analyze", t / "nothing"], ERROR, ["There is no"]),
}

RESULTS: dict[str, tuple[Arguments, int, list[str]]] = {
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
        ["is a file, which a SavedModel folder does not replace"],
    ),
    "is a folder where a file goes": (
        lambda m, t: optimize(m.graph, folder(t / "out.pb"), "--overwrite"),
        ERROR,
        ["is a folder, which a graph in a file does not replace"],
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
    "holds the model": (
        lambda m, t: optimize(m.saved_model, m.folder, "--overwrite"),
        ERROR,
        ["contains the model"],
    ),
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

OPTIONS: dict[str, tuple[Arguments, int, list[str]]] = {
    "engine": (
        lambda m, t: optimize(m.graph, t / "out", "--engine", "openvin"),
        USAGE,
        ["--engine", "'openvin' is none of", "Did you mean 'openvino'"],
    ),
    "engine of several": (
        lambda m, t: optimize(m.graph, t / "out", "--engine", "openvino,auto"),
        USAGE,
        ["without 'auto' and 'fastest'"],
    ),
    "precision": (
        lambda m, t: optimize(m.graph, t / "out", "--precision", "fp23"),
        USAGE,
        ["--precision", "'fp23' is none of", "Did you mean 'fp32'"],
    ),
    "mask": (
        lambda m, t: optimize(m.graph, t / "out", "--skip-padding", "mask"),
        ERROR,
        ["skip_padding is 'mask', which is no input"],
    ),
    "option": (lambda m, t: optimize(m.graph, t / "out", "--precison", "fp32"), USAGE, ["--precison"]),
    "command": (lambda m, t: ["optimise", m.graph, t / "out"], USAGE, ["optimise"]),
    "missing argument": (lambda m, t: ["optimize", m.graph], USAGE, ["OUT"]),
    "dump folder": (
        lambda m, t: optimize(m.graph, t / "out", "--dump", write(t / "file", "x")),
        USAGE,
        ["--dump"],
    ),
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

FEEDS: dict[str, tuple[Arguments, int, list[str]]] = {
    "malformed shape": (
        lambda m, t: optimize(m.graph, t / "out", "--shape", "x=1y16"),
        USAGE,
        ["--shape", "is no size"],
    ),
    "shape without an input": (lambda m, t: optimize(m.graph, t / "out", "--shape", "1x16"), USAGE, ["names no input"]),
    "range that goes down": (
        lambda m, t: optimize(m.graph, t / "out", "--shape", "x=8..1x16"),
        USAGE,
        ["go upwards"],
    ),
    "shape of an unknown input": (
        lambda m, t: optimize(m.graph, t / "out", "--shape", "xs=1x16"),
        ERROR,
        ["no input 'xs'", "Did you mean 'x'"],
    ),
    "shape of another rank": (
        lambda m, t: optimize(m.graph, t / "out", "--shape", "x=1x16x2"),
        ERROR,
        ["[1, 16, 2] does not fit the input x:0"],
    ),
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
    "damaged arrays": (
        lambda m, t: optimize(m.graph, t / "out", "--feeds", write(t / "a.npz", b"PK\x03\x04x")),
        ERROR,
        ["a.npz is no file of arrays"],
    ),
    "arrays of objects": (
        lambda m, t: optimize(m.graph, t / "out", "--feeds", npz(t / "a.npz", x=np.array([{}], dtype=object))),
        ERROR,
        ["it holds Python objects"],
    ),
    "arrays that lack an input": (
        lambda m, t: optimize(m.graph, t / "out", "--feeds", npz(t / "a.npz", y=np.zeros(3))),
        ERROR,
        ["a.npz", "The graph has no input 'y'"],
    ),
    "arrays of the wrong dtype": (
        lambda m, t: optimize(m.graph, t / "out", "--feeds", npz(t / "a.npz", x=np.zeros([3, 16]))),
        ERROR,
        ["has dtype float64, expected float32"],
    ),
    "arrays for a SavedModel of another input": (
        lambda m, t: optimize(m.saved_model, t / "out", "--feeds", npz(t / "a.npz", z=np.zeros([3, 16]))),
        ERROR,
        ["no input 'z'", "at the signature 'serving_default'"],
    ),
    "a broken line of texts": (
        lambda m, t: optimize(
            m.hugging_face,
            t / "out",
            "--tokenizer",
            m.hugging_face,
            "--texts",
            write(t / "a.jsonl", '"a man"\n{"text":\n'),
        ),
        ERROR,
        ["a.jsonl, line 2"],
    ),
    "a line without a text": (
        lambda m, t: optimize(
            m.hugging_face, t / "out", "--tokenizer", m.hugging_face, "--texts", write(t / "a.jsonl", '{"txt": "a"}')
        ),
        ERROR,
        ["a.jsonl, line 1", "'txt'"],
    ),
    "no texts": (
        lambda m, t: optimize(
            m.hugging_face, t / "out", "--tokenizer", m.hugging_face, "--texts", write(t / "a.jsonl", "\n")
        ),
        ERROR,
        ["holds no text"],
    ),
    "texts without a tokenizer": (
        lambda m, t: optimize(m.hugging_face, t / "out", "--texts", m.texts),
        USAGE,
        ["--texts", "needs --tokenizer"],
    ),
    "a tokenizer folder that is missing": (
        lambda m, t: optimize(m.hugging_face, t / "out", "--texts", m.texts, "--tokenizer", t / "none"),
        ERROR,
        ["There is no folder", "holds the tokenizer"],
    ),
    "a tokenizer folder without one": (
        lambda m, t: optimize(m.hugging_face, t / "out", "--texts", m.texts, "--tokenizer", m.saved_model),
        ERROR,
        ["holds no tokenizer"],
    ),
    "a damaged tokenizer": (
        lambda m, t: optimize(
            m.hugging_face, t / "out", "--texts", m.texts, "--tokenizer", folder(t / "t", tokenizer_DOT_json="{")
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
        lambda m, t: optimize(
            m.hugging_face, t / "out", "--texts", m.texts, "--tokenizer", m.hugging_face, "--maximum-length", "65"
        ),
        ERROR,
        ["--maximum-length is 65", "64 tokens at most"],
    ),
    "an unknown mask": (lambda m, t: ["compare", m.graph, m.graph, "--mask", "mask"], ERROR, ["mask"]),
}

CASES = {
    f"{group} {name}": case
    for group, cases in (("model", MODELS), ("result", RESULTS), ("option", OPTIONS), ("feeds", FEEDS))
    for name, case in cases.items()
}


def tree(path: Path) -> dict[str, bytes]:
    return {str(each.relative_to(path)): each.read_bytes() if each.is_file() else b"" for each in path.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_is_refused_with_a_message_and_nothing_written(
    name: str, models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, code, parts = CASES[name]
    arguments = make(models, tmp_path)
    monkeypatch.setenv("TF_OPT_CACHE_DIR", str(tmp_path / "cache"))
    before = tree(tmp_path), tree(models.folder)
    result = invoke(*arguments)
    # Long messages are folded into a box where the command line itself is wrong.
    message = " ".join(result.stderr.replace("│", " ").split())
    assert result.exit_code == code, result.output
    assert [part for part in parts if part not in message] == []
    assert result.stdout == ""
    assert "Traceback" not in message
    assert (tree(tmp_path), tree(models.folder)) == before


def test_a_folder_that_cannot_be_written(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not by its permissions, which root does not heed.
    denying = SimpleNamespace(access=lambda path, mode: False, W_OK=os.W_OK, X_OK=os.X_OK)
    monkeypatch.setattr("tf_opt.cli.output_paths.os", denying)
    result = invoke(*optimize(models.graph, tmp_path / "out"))
    assert result.exit_code == ERROR
    assert "cannot be written to" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_engine_whose_package_is_missing(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tf_opt.engines.is_installed", lambda package: package != "onnxruntime")
    result = invoke(*optimize(models.graph, tmp_path / "out", "--engine", "onnxruntime"))
    assert result.exit_code == ERROR
    assert "needs the package 'onnxruntime', which is not installed. Install it with: pip install" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_engine_without_its_gpu(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tf_opt.engines.is_installed", lambda package: True)
    monkeypatch.setattr("tf_opt.engines.tensorrt.cuda.unavailable_reason", lambda: "There is no NVIDIA driver.")
    result = invoke(*optimize(models.graph, tmp_path / "out", "--engine", "tensorrt"))
    assert result.exit_code == ERROR
    assert "cannot run on this machine: There is no NVIDIA driver" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_precision_without_hardware(
    models: Models, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> str:
        return "the CPU has no AVX512-BF16"

    monkeypatch.setattr(openvino.OpenVINOBackend, "precision_refusal", refuse)
    for option in (["--precision", "bf16"], ["--16-bit"]):
        result = invoke(*optimize(models.graph, tmp_path / "out", "--engine", "openvino", *option))
        assert result.exit_code == ERROR
        assert "AVX512-BF16" in result.stderr
        assert list(tmp_path.iterdir()) == []


def test_a_traceback_is_shown_where_it_is_asked_for(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    for arguments, environment in ((["--verbose"], {}), ([], {"TF_OPT_TRACEBACK": "1"})):
        result = invoke("analyze", tmp_path / "none", *arguments, env=environment)
        assert result.exit_code == ERROR
        assert "Traceback (most recent call last)" in result.stderr
        assert "Error: There is no" in result.stderr


def test_what_nobody_foresaw_is_one_line(models: Models, invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **keywords: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr("tf_opt.freeze.load_graph_def", fail)
    result = invoke("analyze", models.graph)
    assert result.exit_code == ERROR
    assert result.stderr == "Error: RuntimeError: the disk is on fire (--verbose shows where it came from)\n"


def test_a_graph_that_is_cut_short(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    content = models.graph.read_bytes()
    result = invoke("inspect", write(tmp_path / "cut.pb", content[: len(content) // 2]))
    assert result.exit_code == ERROR
    assert "cut.pb is no GraphDef" in result.stderr


def test_a_saved_model_without_its_variables(models: Models, tmp_path: Path, invoke: Invoke) -> None:
    shutil.copytree(models.optimized, tmp_path / "net")
    shutil.rmtree(tmp_path / "net" / "variables")
    result = invoke("compare", models.saved_model, tmp_path / "net")
    assert result.exit_code == ERROR
    assert "TensorFlow cannot load the SavedModel" in result.stderr
