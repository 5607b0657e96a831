"""A small network with convolutions of all kinds, and its feeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from tests.quantization.segments import Feed, model_of, nodes

KINDS = ("strided", "depthwise", "grouped", "dilated", "pointwise")


def filters(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(seed).normal(size=shape) / np.sqrt(np.prod(shape[1:]))
    return values.astype(np.float32)


def channels(seed: int, count: int, axes: int = 2) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(seed).normal(loc=0.5, size=(1, count, *(1,) * axes))
    return values.astype(np.float32)


def network() -> ir.Model:
    """A strided, a depthwise, a grouped and a dilated convolution, a shortcut, and a pointwise one."""
    model = model_of(
        """g (float[B, 3, 16, 16] input_0) => (float[B, 32] output_0) {
            c0 = Conv <auto_pad = "SAME_UPPER", strides = [2, 2]> (input_0, w0, b0)
            m0 = Mul (c0, f0)
            n0 = Add (m0, g0)
            a0 = Relu (n0)
            c1 = Conv <group = 16, pads = [1, 1, 1, 1]> (a0, w1)
            n1 = Add (c1, g1)
            a1 = Clip (n1, zero, six)
            c2 = Conv <group = 4, pads = [0, 0, 1, 1]> (a1, w2, b2)
            a2 = Relu (c2)
            c3 = Conv <dilations = [2, 2], pads = [2, 2, 2, 2]> (a2, w3)
            sum = Add (c3, a0)
            a3 = Relu (sum)
            c4 = Conv (a3, w4)
            a4 = Relu (c4)
            mean = GlobalAveragePool (a4)
            output_0 = Flatten (mean)
        }""",
        w0=filters(0, 16, 3, 3, 3),
        b0=channels(1, 16).reshape(-1),
        f0=channels(2, 16),
        g0=channels(3, 16),
        w1=filters(4, 16, 1, 3, 3),
        g1=channels(5, 16),
        zero=np.float32(0),
        six=np.float32(6),
        w2=filters(6, 16, 4, 2, 2),
        b2=channels(7, 16).reshape(-1),
        w3=filters(8, 16, 16, 3, 3),
        w4=filters(9, 32, 16, 1, 1),
    )
    for node, kind in zip(nodes(model, "Conv"), KINDS, strict=True):
        node.name = kind
    return model


def images(count: int, seed: int = 0) -> list[Feed]:
    random = np.random.default_rng(seed)
    return [{"input_0": random.normal(0.3, size=(2, 3, 16, 16)).astype(np.float32)} for _ in range(count)]
