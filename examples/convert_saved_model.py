"""Converts a SavedModel, and shows that its signatures give the same answers as before.

    python examples/convert_saved_model.py                      # a small model that is made here
    python examples/convert_saved_model.py IN OUT               # your model, measured on made-up feeds
    python examples/convert_saved_model.py IN OUT --feeds feeds.npz --precision int8 --no-fallback

feeds.npz holds an array for each input of the signatures, by its name.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from rich.table import Table

import tf_opt
from tf_opt.terminal import default_console

console = default_console()


def demonstration_model(folder: Path) -> None:
    """Writes a SavedModel with a signature for probabilities and one for the layer before."""
    weights = [tf.random.stateless_normal(shape, (0, 1)) / 16.0 for shape in ((64, 512), (512, 512), (512, 8))]

    class Model(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = [tf.Variable(weight) for weight in weights]

        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="features")])
        def embed(self, features: Any) -> dict[str, Any]:
            hidden = tf.nn.gelu(features @ self.weights[0])
            return {"embedding": tf.nn.gelu(hidden @ self.weights[1])}

        @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="features")])
        def classify(self, features: Any) -> dict[str, Any]:
            return {"probabilities": tf.nn.softmax(self.embed(features)["embedding"] @ self.weights[2])}

    model = Model()
    tf.saved_model.save(model, str(folder), signatures={"serving_default": model.classify, "embed": model.embed})


def compare_signatures(original: Path, optimized: Path, feeds: list[dict[str, Any]] | None) -> Table:
    """Runs each signature of both models, and returns a table of the largest differences."""
    before, after = tf.saved_model.load(str(original)), tf.saved_model.load(str(optimized))
    table = Table("signature", "output", "shape", "largest difference")
    for name, function in before.signatures.items():
        try:
            feed = feeds[0] if feeds else tf_opt.random_feeds(tf_opt.freeze_saved_model(original, name))[0]
        except tf_opt.errors.FreezeError as error:
            table.add_row(name, "", "", f"not run: {error}")
            continue
        tensors = {key: tf.constant(value) for key, value in feed.items()}
        expected, found = function(**tensors), after.signatures[name](**tensors)
        for key, value in expected.items():
            difference = np.abs(value.numpy().astype(float) - found[key].numpy().astype(float)).max()
            table.add_row(name, key, "×".join(map(str, value.shape)), f"{difference:.2g}")
    return table


def convert(original: Path, optimized: Path, arguments: argparse.Namespace) -> None:
    """Converts, prints the report, and compares."""
    feeds = None
    if arguments.feeds is not None:
        feeds = [dict(np.load(arguments.feeds).items())]
    report = tf_opt.optimize_saved_model(
        original,
        optimized,
        feeds=feeds,
        precision=arguments.precision,
        fallback=not arguments.no_fallback,
        overwrite=arguments.overwrite,
    )
    report.print(console)
    console.print(compare_signatures(original, optimized, feeds))


def main() -> int:
    """Converts the given model, or a small one in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original", metavar="IN", type=Path, nargs="?", help="the SavedModel to read")
    parser.add_argument("optimized", metavar="OUT", type=Path, nargs="?", help="the folder to write")
    parser.add_argument("--feeds", type=Path, help="an .npz file with an array for each input")
    parser.add_argument("--precision", default="fp32", help="fp32, fp16, bf16, int8 or auto")
    parser.add_argument("--no-fallback", action="store_true", help="drop original nodes, and weights only they read")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    arguments = parser.parse_args()
    if (arguments.original is None) != (arguments.optimized is None):
        parser.error("give both IN and OUT, or neither of them")
    try:
        if arguments.original is not None:
            convert(arguments.original, arguments.optimized, arguments)
        else:
            with tempfile.TemporaryDirectory() as folder:
                demonstration_model(Path(folder, "original"))
                convert(Path(folder, "original"), Path(folder, "optimized"), arguments)
    except (tf_opt.errors.TfOptError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
