"""The BERT of the GPU check is a BERT, of the real sizes, in the form that engines are made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gpu_check_parts import bert


def bert_by_hand(weights: bert.Weights, ids: Any, mask: Any, types: Any, heads: int) -> tuple[Any, Any]:
    """BERT in float64, written from its definition."""
    from math import erf

    w = {name: values.astype(np.float64) for name, values in weights.items()}
    batch, length = ids.shape

    def norm(x: Any, name: str) -> Any:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + bert.EPSILON)
        return x * w[f"{name}/gamma"] + w[f"{name}/beta"]

    def dense(x: Any, name: str) -> Any:
        return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def split(x: Any) -> Any:
        return x.reshape(batch, length, heads, -1).swapaxes(1, 2)

    x = norm(w["word"][ids] + w["type"][types] + w["position"][:length], "embeddings")
    for layer in (name.partition("/")[0] for name in weights if name.endswith("/query/kernel")):
        query, key, value = (split(dense(x, f"{layer}/{name}")) for name in ("query", "key", "value"))
        scores = query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1]) - 10000.0 * (1 - mask[:, None, None, :])
        exponentials = np.exp(scores - scores.max(-1, keepdims=True))
        context = (exponentials / exponentials.sum(-1, keepdims=True)) @ value
        x = norm(x + dense(context.swapaxes(1, 2).reshape(x.shape), f"{layer}/attention"), f"{layer}/attention")
        inner = dense(x, f"{layer}/inner")
        inner = 0.5 * inner * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
        x = norm(x + dense(inner, f"{layer}/output"), f"{layer}/output")
    return x, np.tanh(dense(x[:, 0], "pooler"))


def test_graph_is_bert() -> None:
    import tensorflow as tf

    weights = bert.random_weights(bert.TINY)
    random = np.random.default_rng(0)
    ids = random.integers(0, bert.TINY["vocab_size"], (2, 7)).astype(np.int32)
    mask = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)
    types = random.integers(0, 2, (2, 7)).astype(np.int32)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(bert.graph_def(bert.TINY, weights), name="")
        with tf.compat.v1.Session(graph=graph) as session:
            feed = {"input_ids:0": ids, "attention_mask:0": mask, "token_type_ids:0": types}
            found = session.run(["Identity:0", "Identity_1:0"], feed)
    wanted = bert_by_hand(weights, ids, mask, types, bert.TINY["num_attention_heads"])
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_graph_has_the_forms_that_engines_fuse() -> None:
    import tf_opt
    from tf_opt.graph_checks import frozen_from_graph_def

    graph = frozen_from_graph_def(bert.graph_def(bert.TINY, bert.random_weights(bert.TINY)), ["Identity", "Identity_1"])
    optimizer = tf_opt.Tf2TrtOpt(engine="openvino", adopt="always", cache=False)
    optimizer.optimize(graph, tf_opt.random_feeds(graph, batch=1, sequence=8))
    [segment] = optimizer.report.segments
    assert segment.adopted
    assert dict(segment.patterns) == {"attention": 2, "layer_normalization": 5, "gelu": 2}


def test_weights_are_the_same_in_each_process() -> None:
    first, second = bert.random_weights(bert.TINY), bert.random_weights(bert.TINY)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert not np.array_equal(first["layer_0/query/kernel"], first["layer_1/query/kernel"])
    assert {values.dtype.name for values in first.values()} == {"float32"}
    assert sum(values.nbytes for values in first.values()) == bert.weight_bytes(bert.TINY)


@pytest.mark.parametrize(("model", "millions"), [(bert.BASE, 109.5), (bert.LARGE, 335.1)])
def test_sizes_are_the_real_ones(model: dict[str, int], millions: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting:
        """Makes views of one number instead of a gigabyte."""

        def standard_normal(self, shape: tuple[int, ...], dtype: Any) -> Any:
            return np.broadcast_to(np.zeros((), dtype), shape)

    sizes: list[int] = []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: Counting())
    for name, values in bert.random_weights({**model, "vocab_size": 2, "num_hidden_layers": 1}).items():
        sizes.append(values.size * (model["num_hidden_layers"] if name.startswith("layer_") else 1))
    words = (model["vocab_size"] - 2) * model["hidden_size"]
    assert (sum(sizes) + words) / 1e6 == pytest.approx(millions, abs=0.05)
