"""Writes one BERT, in the form that each peer reads, into a folder: the same weights for all of them.

graph.pb             the frozen TensorFlow graph
weights.safetensors  its weights under the names of PyTorch's BertModel
config.json          its configuration, as transformers reads it
tensorflow.onnx      the TensorFlow graph as tf2onnx converts it
torch.onnx           the same BERT as PyTorch exports it (written by torch_export.py)
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("last_hidden_state", "pooler_output")
ONNX_OPSET = 17


def model_folder(parent: Path, config: Mapping[str, Any]) -> Path:
    """Returns the folder of the model with this configuration (what differs from BERT-base)."""
    name = "bert-base" if not config else hashlib.sha256(json.dumps(dict(config), sort_keys=True).encode()).hexdigest()
    return parent / name[:12]


def write_model(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes everything that this environment can write; does nothing where it is there already."""
    if (folder / "config.json").exists():
        return
    sys.path.insert(0, str(ROOT / "examples" / "01_bert"))
    import bert_models  # Sets what has to be set before TensorFlow is imported.
    from safetensors.numpy import save_file

    import tf_opt

    folder.mkdir(parents=True, exist_ok=True)
    model = bert_models.random_bert(**config)
    _randomize(model.variables)
    save_file({torch_name(each.name): torch_array(each) for each in model.variables}, folder / "weights.safetensors")
    frozen = tf_opt.freeze_keras(model)
    keys = tuple(info.key for info in frozen.inputs), tuple(info.key for info in frozen.outputs)
    if keys != (INPUTS, OUTPUTS):
        raise RuntimeError(f"The model has the inputs and outputs {keys}; expected {(INPUTS, OUTPUTS)}.")
    frozen.save(folder / "graph.pb")
    _write_onnx(frozen, folder / "tensorflow.onnx")
    # Last, so that its presence says that the rest is complete.
    (folder / "config.json").write_text(model.config.to_json_string(use_diff=False))


def _randomize(variables: Any) -> None:
    """Gives biases and LayerNorms values other than 0 and 1, so that a weight under a wrong name shows."""
    random = np.random.default_rng(0)
    for variable in variables:
        if re.search(r"/(bias|beta|gamma):0$", variable.name):
            noise = 0.1 * random.standard_normal(variable.shape)
            variable.assign((variable.name.endswith("gamma:0") + noise).astype(np.float32))


def torch_name(name: str) -> str:
    """Returns the name in PyTorch's BertModel of a variable of Hugging Face's TFBertModel.

    Example:
        >>> torch_name("tf_bert_model/bert/encoder/layer_._3/output/LayerNorm/gamma:0")
        'encoder.layer.3.output.LayerNorm.weight'
    """
    path = name.removesuffix(":0").partition("/bert/")[2].replace("layer_._", "layer/").split("/")
    names = {"kernel": "weight", "gamma": "weight", "beta": "bias", "embeddings": "weight"}
    return ".".join([*path[:-1], names.get(path[-1], path[-1])])


def torch_array(variable: Any) -> np.ndarray[Any, Any]:
    """Returns a variable's values as PyTorch lays them out: the matrices of its linear layers are transposed."""
    values = variable.numpy()
    return np.ascontiguousarray(values.T if variable.name.endswith("/kernel:0") else values)


def _write_onnx(frozen: Any, path: Path) -> None:
    import onnx
    import tf2onnx

    from tf_opt.passes.tf.erfc_to_erf import ErfcToErf
    from tf_opt.passes.tf.pass_base import Border

    # tf2onnx knows no Erfc, of which TensorFlow makes GELU; the rest of the graph is left to it.
    border = Border(inputs=INPUTS, outputs=frozen.output_names)
    graph_def = ErfcToErf().run(frozen.graph_def, border).graph_def
    model, _ = tf2onnx.convert.from_graph_def(
        graph_def,
        name="bert",
        input_names=list(frozen.input_names),
        output_names=list(frozen.output_names),
        opset=ONNX_OPSET,
    )
    for old, new in zip((*frozen.input_names, *frozen.output_names), (*INPUTS, *OUTPUTS), strict=True):
        _rename(model.graph, old, new)
    onnx.save(model, path)


def _rename(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
    for value in (*graph.input, *graph.output):
        if value.name == old:
            value.name = new


def write_feeds(path: Path, config: Mapping[str, Any], batch: int, sequence: int, count: int) -> None:
    """Writes the feeds of one point: `check_<input>`, partly padded, and `<number>_<input>`, full.

    What is timed has no padding: every peer then has the same work, whatever it does about masks.

    Args:
        path: An .npz file.
        config: Configuration of the model.
        batch: Rows.
        sequence: Tokens of each row.
        count: How many different full feeds.
    """
    random = np.random.default_rng((batch, sequence))
    arrays = {}
    for name in ("check", *map(str, range(count))):
        lengths = random.integers((sequence + 1) // 2, sequence + 1, batch) if name == "check" else [sequence] * batch
        arrays[f"{name}_input_ids"] = random.integers(1, config["vocab_size"], (batch, sequence)).astype(np.int32)
        arrays[f"{name}_attention_mask"] = (np.arange(sequence) < np.reshape(lengths, (-1, 1))).astype(np.int32)
        split = random.integers(0, sequence + 1, (batch, 1))
        arrays[f"{name}_token_type_ids"] = (np.arange(sequence) >= split).astype(np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
