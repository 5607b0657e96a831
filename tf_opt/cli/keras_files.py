"""Loads `.keras` files, with the Keras that wrote them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from tf_opt.errors import EnginePackageMissingError, FreezeError


def load_model(path: Path) -> Any:
    """Returns the model of a `.keras` file.

    Raises:
        EnginePackageMissingError: Keras 2 wrote the file, and tf-keras is not installed.
        FreezeError: The file is damaged, or it needs classes or functions that Keras does not know.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            version = str(json.loads(archive.read("metadata.json")).get("keras_version", "3"))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise FreezeError(
            f"{path} is no Keras model: {error}. Expected what model.save('model.keras') writes, whole."
        ) from error
    keras = _keras_of(version)
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Whatever a layer raises from its configuration.
        raise FreezeError(
            f"Keras {keras.__version__} does not load {path}: {str(error).strip().splitlines()[0]} Where the model has "
            "layers of its own, export it with model.export(folder) as a SavedModel, which carries them."
        ) from error


def _keras_of(version: str) -> Any:
    """Returns the module: `keras` is Keras 3 whatever TF_USE_LEGACY_KERAS says, `tf_keras` is Keras 2."""
    if not version.startswith("2."):
        import keras

        return keras
    try:
        import tf_keras
    except ImportError as error:
        raise EnginePackageMissingError(
            f"Keras {version} wrote this model. Install it with: pip install tf-keras"
        ) from error
    return tf_keras
