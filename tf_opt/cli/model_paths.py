"""Tells what kind of model lies at a path, without TensorFlow: what is set before its import depends on that."""

from __future__ import annotations

import enum
from pathlib import Path

from tf_opt.errors import ModelPathError, did_you_mean

ACCEPTED = (
    "Accepted are a SavedModel folder (with saved_model.pb), a frozen graph (.pb, or .pbtxt as text), a Keras model "
    "(.keras), and a Hugging Face folder (config.json with tf_model.h5 or *.safetensors)."
)


_SUFFIXES = (".pb", ".pbtxt", ".keras")
"""How the names of files end that may be models."""


class ModelKind(enum.Enum):
    """What a path holds; the value is how it is called."""

    SAVED_MODEL = "SavedModel"
    GRAPH = "frozen graph"
    KERAS = "Keras model"
    HUGGING_FACE = "Hugging Face folder"

    @property
    def has_signatures(self) -> bool:
        """Whether there may be several ways to call the model."""
        return self is ModelKind.SAVED_MODEL


def kind_of(path: Path) -> ModelKind:
    """Returns what kind of model lies at `path`.

    Raises:
        ModelPathError: There is nothing, or nothing that is known; the message lists what is accepted.
    """
    if not path.exists():
        raise ModelPathError(f"There is no {str(path)!r}.{_nearest(path)} {ACCEPTED}")
    if path.is_dir():
        return _kind_of_folder(path)
    if path.name in ("saved_model.pb", "saved_model.pbtxt"):
        raise ModelPathError(f"{path} is a part of a SavedModel. Name its folder instead: {path.parent}")
    suffix = path.suffix.lower()
    if suffix in (".pb", ".pbtxt"):
        return ModelKind.GRAPH
    if suffix == ".keras":
        return ModelKind.KERAS
    hint = ""
    if suffix in (".h5", ".hdf5"):
        hint = " A Keras model is stored in the current format by model.save('model.keras')."
    elif suffix == ".onnx":
        hint = " ONNX models run in ONNX Runtime or OpenVINO as they are."
    raise ModelPathError(f"{path} is of no known kind.{hint} {ACCEPTED}")


def _kind_of_folder(path: Path) -> ModelKind:
    names = sorted(entry.name for entry in path.iterdir())
    if "saved_model.pb" in names or "saved_model.pbtxt" in names:
        return ModelKind.SAVED_MODEL
    if "config.json" in names:
        if weight_files(path):
            return ModelKind.HUGGING_FACE
        hint = "no weights: neither tf_model.h5 nor a file *.safetensors"
        if any(name.startswith("pytorch_model") for name in names):
            hint += ". What it has is pickled by PyTorch; store it with save_pretrained(safe_serialization=True)"
        raise ModelPathError(f"{path} holds a config.json, but {hint}. {ACCEPTED}")
    if not names:
        raise ModelPathError(f"{path} is an empty folder. {ACCEPTED}")
    some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    raise ModelPathError(f"{path} is a folder without a model; it holds {some}. {ACCEPTED}")


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of a Hugging Face folder that hold weights which load without PyTorch."""
    found = [*folder.glob("tf_model*.h5"), *folder.glob("model*.safetensors"), *folder.glob("*.safetensors")]
    return sorted(set(found))


def _nearest(path: Path) -> str:
    try:
        entries = [each for each in path.parent.iterdir() if each.is_dir() or each.suffix.lower() in _SUFFIXES]
        return did_you_mean(path.name, [each.name for each in entries])
    except OSError:
        return ""
