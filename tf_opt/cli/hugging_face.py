"""Loads a TensorFlow model or a tokenizer from a Hugging Face folder, without PyTorch and without a network."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from tf_opt.errors import EnginePackageMissingError, FreezeError, TokenizerError

_INSTALL = "pip install 'transformers>=4.57,<5' tf-keras safetensors"
_LONGEST_REASON = 300
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
)


def load_model(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """Returns the TFPreTrainedModel of a folder with config.json and weights, and what a user should know of it.

    Raises:
        EnginePackageMissingError: transformers with TensorFlow classes is not installed.
        FreezeError: The configuration names no architecture with TensorFlow classes, or the weights do not fit.
    """
    transformers = _transformers()
    file = folder / "config.json"
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
        # Without this key, the kind of model would be guessed from the name of the folder.
        if not isinstance(described, dict) or "model_type" not in described:
            raise ValueError("it has no 'model_type'")
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise FreezeError(f"{file} describes no model of Hugging Face: {_first_line(error)}") from error
    model_class = _model_class(transformers, config, folder)
    try:
        files = _torch_files(folder)
        if files is None:
            model, info = model_class.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        else:
            model, info = _from_torch_files(model_class, config, files)
    except (OSError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise FreezeError(
            f"The weights in {folder} do not load as {model_class.__name__}: {_first_line(error)} They have to be "
            "whole, and those of the model that config.json describes."
        ) from error
    missing = list(info["missing_keys"])
    if not missing:
        return model, ()
    # A sentence encoder is often stored without its pooler; whoever fetches that should know.
    some = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return model, (f"{folder} lacks the weights {some}: they are random.",)


def load_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer of a folder.

    Raises:
        EnginePackageMissingError: transformers is not installed.
        TokenizerError: There is none, or it does not load.
    """
    check_tokenizer_folder(folder)
    transformers = _transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # Each kind of tokenizer raises errors of its own, Rust's among them.
        raise TokenizerError(f"The tokenizer in {folder} does not load: {_first_line(error)}") from error


def check_tokenizer_folder(folder: Path) -> None:
    """Raises TokenizerError where a folder holds nothing that a tokenizer is read from."""
    if not folder.is_dir():
        raise TokenizerError(f"There is no folder {str(folder)!r}. Name the one that holds the tokenizer.")
    if not any((folder / name).exists() for name in _TOKENIZER_FILES):
        raise TokenizerError(
            f"{folder} holds no tokenizer: none of {', '.join(_TOKENIZER_FILES)}. tokenizer.save_pretrained(folder) "
            "writes one."
        )


def _transformers() -> Any:
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise EnginePackageMissingError(
            f"Models and tokenizers of Hugging Face need packages that are not installed: {_INSTALL}"
        ) from error
    if not hasattr(transformers, "TFPreTrainedModel"):
        raise EnginePackageMissingError(
            f"transformers {transformers.__version__} has no TensorFlow models. Install one that has: {_INSTALL}"
        )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def _model_class(transformers: Any, config: Any, folder: Path) -> Any:
    """Returns the TensorFlow class of what was stored, or the bare model of its kind where that has none."""
    for name in getattr(config, "architectures", None) or ():
        found = getattr(transformers, f"TF{name.removeprefix('TF')}", None)
        if found is not None:
            return found
    mapping = getattr(transformers, "TF_MODEL_MAPPING", {})
    if type(config) in mapping:
        return mapping[type(config)]
    raise FreezeError(
        f"{folder} holds a {config.model_type!r}, for which Hugging Face has no TensorFlow class. Export it as "
        "a SavedModel."
    )


def _torch_files(folder: Path) -> list[Path] | None:
    """Returns the files whose tensors are named as in PyTorch; None where from_pretrained reads the folder."""
    if list(folder.glob("tf_model*.h5")):
        return None
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    else:
        preferred = folder / "model.safetensors"
        files = [preferred if preferred.exists() else sorted(folder.glob("*.safetensors"))[0]]
    with safe_open(files[0], framework="numpy") as opened:
        return None if (opened.metadata() or {}).get("format") == "tf" else files


def _from_torch_files(model_class: Any, config: Any, files: list[Path]) -> tuple[Any, dict[str, Any]]:
    # from_pretrained would ask for PyTorch here, which nothing needs: the arrays are the same.
    from safetensors.numpy import load_file

    utilities: Any = importlib.import_module("transformers.modeling_tf_pytorch_utils")
    model = model_class(config)
    arrays = {name: array for file in files for name, array in load_file(file).items()}
    _, info = utilities.load_pytorch_state_dict_in_tf2_model(
        model, arrays, tf_inputs=model.dummy_inputs, allow_missing_keys=True, output_loading_info=True
    )
    if len(info["missing_keys"]) * 2 > len(model.weights):
        raise ValueError(f"{len(info['missing_keys'])} of {len(model.weights)} weights are missing.")
    return model, info


def _first_line(error: BaseException) -> str:
    """Returns the first line of a message as a sentence; some go on with a list of all there is."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if len(text) > _LONGEST_REASON:
        text = f"{text[:_LONGEST_REASON].rsplit(' ', 1)[0]} …"
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
