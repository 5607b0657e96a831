"""Which parts of a tensor a node takes."""

from __future__ import annotations

import numpy as np

from tests.passes.onnx.pass_checks import model_of
from tf_opt.passes.onnx.taken_parts import takes_one


def test_one_position():
    texts = {
        "y = Gather<axis=1>(x, index)": True,
        "y = Gather<axis=1>(x, both)": False,
        "y = Gather<axis=1>(x, i)": False,
        "y = Slice(x, zero, one, one)": True,
        "y = Slice(x, minus_one, far, one)": True,
        "y = Slice(x, minus_one, zero, one)": False,
        "y = Slice(x, zero, two, one)": False,
        "y = Slice(x, zero, far, one)": False,
        "y = Slice(x, zero, one_two, one_two)": False,
    }
    for text, expected in texts.items():
        model = model_of(
            f"g (float[B, S, 8] x, int64[2] i) => (float y) {{ {text} }}",
            index=np.array([3], np.int64),
            both=np.array([0, 1], np.int64),
            zero=np.array([0], np.int64),
            one=np.array([1], np.int64),
            two=np.array([2], np.int64),
            one_two=np.array([1, 2], np.int64),
            far=np.array([2**31 - 1], np.int64),
            minus_one=np.array([-1], np.int64),
        )
        if "one_two" in text:
            model.graph[0].replace_input_with(1, model.graph[0].inputs[2])
        assert takes_one(model.graph[0], 3) is expected, text
