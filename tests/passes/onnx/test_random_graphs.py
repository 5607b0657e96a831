"""Random graphs made of blocks that look like the ones the passes know, with something changed here and there."""

from __future__ import annotations

import math
import re

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.passes.onnx.attention_graphs import BOTH_SCALED, DISTILBERT, HUGGING_FACE, KERAS
from tests.passes.onnx.attention_graphs import CONSTANTS as ATTENTION_CONSTANTS
from tests.passes.onnx.pass_checks import model_of, random_feeds, session_of
from tests.passes.onnx.test_fuse_gelu import CONSTANTS as GELU_CONSTANTS
from tests.passes.onnx.test_fuse_gelu import EXACT, TANH
from tests.passes.onnx.test_fuse_layer_normalization import KERAS as KERAS_NORM
from tests.passes.onnx.test_fuse_layer_normalization import MOMENTS, ONE_OVER, POOLED, POWER, TENSORFLOW, TEXTBOOK
from tf_opt.onnx_target import OnnxTarget
from tf_opt.passes.onnx.pass_base import OnnxPipeline
from tf_opt.passes.onnx.pipeline import canonical_passes

RANDOM = np.random.default_rng(0)
CONSTANTS = {
    **{name: np.float32(value) for name, value in GELU_CONSTANTS.items()},
    **ATTENTION_CONSTANTS,
    "gamma": RANDOM.normal(size=8).astype(np.float32),
    "beta": RANDOM.normal(size=(1, 1, 8)).astype(np.float32),
    "epsilon": np.float32(1e-3),
    "minus_half": np.float32(-0.5),
    "scale": np.float32(math.sqrt(0.5)),
    "split": np.array([0, 0, 2, 4]),
    "flat": np.array([-1, 8]),
    "b24": RANDOM.normal(size=(2, 4)).astype(np.float32),
    **{name: RANDOM.normal(scale=0.4, size=(8, 8)).astype(np.float32) for name in ("wq", "wk", "wv", "w")},
}
"""What blocks read by name; no block assigns these names."""

DENSE = "m = MatMul(x, w)  y = Add(gamma, m)"
SPLIT_DENSE = "m = MatMul(x, w)  r = Reshape(m, split)  a = Add(r, b24)  h = Shape <start=0, end=2> (x)"
SPLIT_DENSE += "  t = Concat <axis=0> (h, eight)  y = Reshape(a, t)"
TENSORDOT = "f = Reshape(x, flat)  m = MatMul(f, w)  h = Shape(x)  y = Reshape(m, h)"
CONSTANTS["eight"] = np.array([8])

BLOCKS = [
    *EXACT.values(),
    *TANH.values(),
    *(moments + rest for moments in (MOMENTS, POOLED) for rest in (TENSORFLOW, KERAS_NORM, TEXTBOOK, POWER, ONE_OVER)),
    HUGGING_FACE,
    DISTILBERT,
    KERAS,
    BOTH_SCALED,
    DENSE,
    SPLIT_DENSE,
    TENSORDOT,
    "y = Add(x, x0)",
    "y = Tanh(x)",
]
"""Each reads x of shape [B, S, 8] (and mask), and computes y of the same shape."""

CHANGES = [
    (r"\bhalf\b", "one"),
    (r"\bone\b", "two"),
    (r"\bk\b(?=,)", "c"),
    (r"axes=\[-1\]", "axes=[1]"),
    (r"\bgamma\b", "half"),
    (r"\bepsilon\b", "gamma"),
    (r"Sub\((\w+), (\w+)\)", r"Sub(\2, \1)"),
    (r"Mul\((\w+), (\w+)\)", r"Mul(\2, \1)"),
    (r"Add\((\w+), (\w+)\)", r"Add(\2, \1)"),
    (r"Add\((\w+), (\w+)\)", r"Sub(\1, \2)"),
    (r"Div\((\w+), (\w+)\)", r"Mul(\1, \2)"),
    ("Sqrt", "Exp"),
    ("Erf", "Tanh"),
    (r"axis=-1", "axis=2"),
    (r"\bminus_big\b", "one"),
    (r"\bzero\b", "half"),
]
"""What a block may be changed by: some keep its meaning, most do not."""

TARGETS = [
    OnnxTarget(name="17"),
    OnnxTarget(name="20", opset=20, gelu=True),
    OnnxTarget(name="23", opset=23, gelu=True, attention="onnx"),
    OnnxTarget(name="contributed", opset=20, gelu=True, attention="microsoft", merge_qkv=True, infer_shapes=True),
]

block = st.tuples(
    st.sampled_from(BLOCKS),
    st.one_of(st.none(), st.tuples(st.sampled_from(CHANGES), st.integers(1, 2))),
    st.one_of(st.none(), st.tuples(st.integers(0, 30), st.sampled_from(["output", "reader"]))),
)


def assemble(blocks):
    """Returns a model in which each block reads what the one before it computes, and the outputs besides y."""
    body, current, taps = "", "x0", []
    for number, (text, change, tap) in enumerate(blocks):
        if change is not None:
            (pattern, replacement), times = change
            text = re.sub(pattern, replacement, text, count=times)
        assigned = set(re.findall(r"(\w+) = ", text))
        names = {name: f"{name}_{number}" for name in assigned} | {"x": current}
        text = re.sub(r"\b\w+\b(?! ?[<(])", lambda match, names=names: names.get(match[0], match[0]), text)
        body += text + "\n"
        if tap is not None:
            inner = sorted(assigned - {"y"})
            if inner:
                taps.append((names[inner[tap[0] % len(inner)]], tap[1]))
        current = names["y"]
    outputs = [current]
    for index, (name, kind) in enumerate(taps):
        if kind == "reader":
            body += f"tap_{index} = Identity({name})\n"
            body += f"tapped_{index} = Cast <to=1> (tap_{index})\n"
            name = f"tapped_{index}"
        outputs.append(name)
    words = set(re.findall(r"\w+", body))
    used = {name: value for name, value in CONSTANTS.items() if name in words}
    declared = ", ".join(dict.fromkeys(outputs))
    model = model_of(f"g (float[B, S, 8] x0, float[B, S] mask) => ({declared}) {{ {body} }}", 17, **used)
    # The types of the outputs are what follows from the operators.
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(ir.serde.serialize_model(model)))


@pytest.mark.slow
@settings(max_examples=120)
@given(blocks=st.lists(block, min_size=1, max_size=3), target=st.sampled_from(TARGETS))
def test_outputs_stay_what_they_are(blocks, target):
    model = assemble(blocks)
    feeds = random_feeds(model, [{"B": 2, "S": 3}, {"B": 1, "S": 4}])
    session = None
    try:
        session = session_of(model)
        expected = [session.run(None, feed) for feed in feeds]
    except Exception:  # The change made a model of it that has no meaning.
        return
    changed = model.clone()
    OnnxPipeline(canonical_passes(target)).run(changed)
    again = session_of(changed)
    for feed, wanted in zip(feeds, expected, strict=True):
        for one, other in zip(wanted, again.run(None, feed), strict=True):
            assert one.shape == other.shape
            if np.isfinite(one).all() and np.abs(one).max(initial=0) < 1e3:
                np.testing.assert_allclose(other, one, rtol=2e-3, atol=2e-4)
