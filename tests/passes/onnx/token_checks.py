"""Small encoders as ONNX text, masks of every kind, and the check that packing changes nothing at real tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from tests.passes.onnx.pass_checks import Feed, apply_pass, model_of, session_of
from tf_opt.passes.onnx.skip_padding import SkipPadding

HIDDEN, HEADS, SIZE = 8, 2, 4

SHAPES = ((1, 5), (3, 7), (4, 1), (2, 8))
"""Batch and sequence; 8 is HIDDEN, which must not be taken for a number of positions."""

ADDED_MASK = """
    real = Cast<to=1>(mask)
    wide = Unsqueeze(real, axes_1_2)
    absent = Sub(one, wide)
    bias = Mul(absent, minus)
    masked = Add(scores, bias)
    weights = Softmax<axis=-1>(masked)
"""
"""The mask as Hugging Face's models add it to the scores."""

SELECTED_MASK = """
    real = Cast<to=9>(mask)
    wide = Unsqueeze(real, axes_1_2)
    masked = Where(wide, scores, minus)
    raw = Softmax<axis=-1>(masked)
    weights = Where(wide, raw, zero)
"""
"""The mask as Keras selects scores by it."""

ATTENTION = """
    q = MatMul(x, wq)    k = MatMul(x, wk)    v0 = MatMul(x, wv)
    v = Add(v0, bv)
    q4 = Reshape(q, split)    k4 = Reshape(k, split)    v4 = Reshape(v, split)
    qt = Transpose<perm=[0, 2, 1, 3]>(q4)
    kt = Transpose<perm=[0, 2, 3, 1]>(k4)
    vt = Transpose<perm=[0, 2, 1, 3]>(v4)
    products = MatMul(qt, kt)
    scores = Mul(products, scale)
    {mask}
    mixed = MatMul(weights, vt)
    back = Transpose<perm=[0, 2, 1, 3]>(mixed)
    joined = Reshape(back, join)
    dense = MatMul(joined, wo)
    sum = Add(dense, x)
    normal = LayerNormalization<axis=-1>(sum, gamma, beta)
    wide_layer = MatMul(normal, w1)
    active = Relu(wide_layer)
    narrow = MatMul(active, w2)
"""
"""One layer; reads x and mask, writes normal and narrow."""

PRODUCTS = 6
"""Matrix products with weights in ATTENTION."""

RESIDUAL = "y = Add(narrow, normal)"
"""The usual end of ATTENTION."""


def encoder(
    ends: str,
    outputs: str = "float[B, S, 8] y",
    mask: str = ADDED_MASK,
    mask_type: str = "int64[B, S]",
    x_type: str = "float[B, S, 8]",
    **constants: Any,
) -> ir.Model:
    """Returns one layer of a transformer.

    Args:
        ends: Nodes behind the layer.
        outputs: The graph's outputs.
        mask: How the mask gets into the scores.
        mask_type: Type of the input "mask".
        x_type: Type of the input "x".
        constants: More constants, or other values of the layer's own.
    """
    random = np.random.default_rng(7)

    def weight(*shape: int) -> np.ndarray[Any, Any]:
        return (random.normal(size=shape) / 2).astype(np.float32)

    known: dict[str, Any] = {
        "wq": weight(8, 8),
        "wk": weight(8, 8),
        "wv": weight(8, 8),
        "bv": weight(8),
        "wo": weight(8, 8),
        "w1": weight(8, 16),
        "w2": weight(16, 8),
        "gamma": weight(8) + 1,
        "beta": weight(8),
        "split": np.array([0, 0, HEADS, SIZE], np.int64),
        "join": np.array([0, 0, HIDDEN], np.int64),
        "scale": np.float32(0.5),
        "one": np.float32(1),
        "zero": np.float32(0),
        "minus": np.float32(-10000),
        "axes_1_2": np.array([1, 2], np.int64),
    }
    known.update(constants)
    text = f"g ({x_type} x, {mask_type} mask) => ({outputs}) {{ {ATTENTION.format(mask=mask)} {ends} }}"
    used = {name: array for name, array in known.items() if name in text.replace("(", " ").replace(",", " ")}
    return model_of(text, **used)


def masks(batch: int, sequence: int, seed: int = 0) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yields masks [batch, sequence] of 0 and 1 with their names: every way in which rows can be padded."""
    random = np.random.default_rng(seed)
    full = np.ones((batch, sequence), np.int64)
    right = (np.arange(sequence) < random.integers(1, sequence + 1, (batch, 1))).astype(np.int64)
    empty_rows = right.copy()
    empty_rows[batch // 2 :] = 0
    last = np.zeros_like(full)
    last[-1, -1] = 1
    yield "full", full
    yield "right", right
    yield "left", right[:, ::-1].copy()
    yield "holes", random.integers(0, 2, (batch, sequence))
    yield "empty rows", empty_rows
    yield "nothing but the last", last
    yield "nothing", np.zeros_like(full)


def feed_of(model: ir.Model, mask: np.ndarray[Any, Any], name: str = "mask", seed: int = 0) -> Feed:
    """Returns random inputs for a mask; named dimensions B and S are the mask's."""
    random = np.random.default_rng(seed)
    size = {"B": mask.shape[0], "S": mask.shape[-1]}
    feed: Feed = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        assert value.dtype is not None
        shape = [dim if isinstance(dim, int) else size[str(dim.value)] for dim in value.shape]
        drawn = mask.reshape(shape) if value.name == name else random.normal(size=shape)
        feed[str(value.name)] = drawn.astype(value.dtype.numpy())
    return feed


def pack(
    model: ir.Model,
    *,
    mask: str = "mask",
    products: int | None = None,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    compares: Sequence[str] = ("tokens",),
    atol: float = 1e-5,
) -> ir.Model:
    """Skips padding in a copy of a model, checks the promises of the pass, and returns the copy.

    Args:
        model: The model.
        mask: Name of its mask.
        products: How many matrix products have to be packed; None for any number above 0.
        shapes: Batch and sequence of the feeds.
        compares: What each output is: "tokens" (equal at real positions, 0 at padded ones), "queries" (the same of
            attention's weights), "first" (of the first token: equal where that is real), "rows" (equal in every row
            with a token), "all" (equal everywhere).
        atol: Tolerance of equality.
    """
    full = [feed_of(model, np.ones(shape, np.int64), mask, seed) for seed, shape in enumerate(shapes)]
    packed = apply_pass(SkipPadding(mask), model, feeds=full, atol=atol, changes=products)
    assert products is not None or any("skip_padding" in str(node.name) for node in packed.graph)
    before, after = session_of(model), session_of(packed)
    for shape in shapes:
        for kind, mask_values in masks(*shape):
            feed = feed_of(model, mask_values, mask)
            outputs = zip(compares, before.run(None, feed), after.run(None, feed), strict=True)
            for compare, expected, actual in outputs:
                assert actual.shape == expected.shape
                _compare(compare, expected, actual, mask_values.astype(bool), f"{kind}, {shape}", atol)
    return packed


def pack_without_check(model: ir.Model) -> ir.Model:
    """Skips padding in a copy of a model by its input "mask" and returns the copy; something has to be skipped."""
    packed = model.clone()
    assert SkipPadding("mask").run(packed) > 0
    return packed


def _compare(
    kind: str,
    expected: np.ndarray[Any, Any],
    actual: np.ndarray[Any, Any],
    real: np.ndarray[Any, Any],
    where: str,
    atol: float,
) -> None:
    if kind == "queries":
        expected, actual, kind = expected.swapaxes(1, 2), actual.swapaxes(1, 2), "tokens"
    if kind == "tokens":
        np.testing.assert_allclose(actual[real], expected[real], atol=atol, rtol=1e-4, err_msg=where)
        assert not actual[~real].any(), where
        return
    rows = {"first": real[:, 0], "rows": real.any(axis=1), "all": np.ones(len(real), bool)}[kind]
    np.testing.assert_allclose(actual[rows], expected[rows], atol=atol, rtol=1e-4, err_msg=where)
