"""Attention blocks as different libraries write them, of two heads of size 4, for the tests of several passes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from tests.passes.onnx.pass_checks import model_of

INPUTS = "float[B, S, 8] x, float[B, S] mask"

SPLIT = """
    q = MatMul(x, wq)  q4 = Reshape(q, heads)  {scaled_query}  qt = Transpose <perm=[0, 2, 1, 3]> ({query})
    k = MatMul(x, wk)  k4 = Reshape(k, heads)  kt = Transpose <perm=[0, 2, 3, 1]> (k4)
    v = MatMul(x, wv)  v4 = Reshape(v, heads)  vt = Transpose <perm=[0, 2, 1, 3]> (v4)
"""
JOIN = "ot = Transpose <perm=[0, 2, 1, 3]> (o)  y = Reshape(ot, joined)"
PLAIN_SPLIT = SPLIT.format(scaled_query="", query="q4")
ADDED_MASK = "mu = Unsqueeze(mask, middle)  mn = Sub(one, mu)  ma = Mul(mn, minus_big)"

HUGGING_FACE = f"""
    {ADDED_MASK} {PLAIN_SPLIT}
    s = MatMul(qt, kt)  c = Mul(s, scale)  a = Add(c, ma)  p = Softmax <axis=-1> (a)  o = MatMul(p, vt)  {JOIN}
"""
"""BERT, ELECTRA: the scores are scaled, then the mask is added."""

DISTILBERT = f"""
    {ADDED_MASK} {SPLIT.format(scaled_query="qs = Mul(q4, scale)", query="qs")}
    s = MatMul(qt, kt)  a = Add(ma, s)  p = Softmax <axis=3> (a)  o = MatMul(p, vt)  {JOIN}
"""
"""The query is scaled; here the mask is the first operand, too."""

KERAS = f"""
    mu = Unsqueeze(mask, middle)  mc = Cast <to=9> (mu) {SPLIT.format(scaled_query="qs = Mul(scale, q4)", query="qs")}
    s = MatMul(qt, kt)  a = Where(mc, s, minus_big)  p = Softmax <axis=-1> (a)  z = Where(mc, p, zero)
    o = MatMul(z, vt)  {JOIN}
"""
"""Scores are replaced by a big negative number, and probabilities by 0."""

BOTH_SCALED = f"""
    {PLAIN_SPLIT} ks = Mul(kt, two)  qs = Div(qt, four)
    s = MatMul(qs, ks)  c = Mul(s, scale)  p = Softmax <axis=-1> (c)  o = MatMul(p, vt)  {JOIN}
"""
"""No mask, and scalings of query, key and scores."""

CONSTANTS = {
    "heads": np.array([0, 0, 2, 4]),
    "joined": np.array([0, 0, 8]),
    "middle": np.array([1, 2]),
    "scale": np.float32(0.5),
    "one": np.float32(1),
    "two": np.float32(2),
    "four": np.float32(4),
    "zero": np.float32(0),
    "minus_big": np.float32(-1e4),
}


def attention(
    body: str, outputs: str = "float[B, S, 8] y", opset: int = 20, inputs: str = INPUTS, **constants: Any
) -> ir.Model:
    """Returns a model of one of the bodies above; weights are random."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(8, 8)).astype(np.float32) for name in ("wq", "wk", "wv")}
    words = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    used = {name: value for name, value in {**CONSTANTS, **weights, **constants}.items() if name in words}
    return model_of(f"g ({inputs}) => ({outputs}) {{ {body} }}", opset, **used)


def mask_feeds() -> list[dict[str, Any]]:
    """Returns feeds with masks that leave some, all and no positions."""
    random = np.random.default_rng(0)
    some = (np.arange(5)[None] < np.array([[3], [5]])).astype(np.float32)
    masks = [some, np.ones((1, 4), np.float32), np.stack([np.zeros(3), np.ones(3)]).astype(np.float32)]
    return [{"x": random.normal(size=(*mask.shape, 8)).astype(np.float32), "mask": mask} for mask in masks]
