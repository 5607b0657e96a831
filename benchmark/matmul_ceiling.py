"""The machine's own ceiling: the rate of large matrix products, in each precision that the processor has.

    python benchmark/matmul_ceiling.py [--threads 2]

prints JSON: GFLOP/s by precision (a multiplication and an addition are 2), null with a reason where there is no
hardware. fp32 is the better of TensorFlow's and OpenVINO's; bf16 and int8 are OpenVINO's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np

CHAIN = 4
"""So many products one after the other, so that what comes before the first and after the last is a small part."""

RUNS = 6


def best_rate(run: Callable[[], Any], operations: float) -> float:
    """Returns the highest rate of several runs, in GFLOP/s; the first one only warms up."""
    seconds = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return operations / min(seconds[1:]) / 1e9


def tensorflow_rate(threads: int, size: int) -> float:
    """Returns TensorFlow's fp32 rate for one product of size × size matrices in a Session."""
    import tensorflow as tf

    config = tf.compat.v1.ConfigProto(intra_op_parallelism_threads=threads)
    with tf.Graph().as_default(), tf.compat.v1.Session(config=config) as session:
        left, right = (session.run(tf.random.normal([size, size], seed=seed)) for seed in (1, 2))
        a, b = (tf.compat.v1.placeholder(tf.float32, [size, size]) for _ in range(2))
        # Reduced to one number, so that fetching the product is not part of the time.
        function = session.make_callable(tf.reduce_max(tf.matmul(a, b)), [a, b])
        return best_rate(lambda: function(left, right), 2 * size**3)


def openvino_rate(threads: int, size: int, precision: str) -> float:
    """Returns OpenVINO's rate over a chain of products with constant matrices.

    Args:
        threads: Number of threads.
        size: Rows and columns of each matrix.
        precision: "fp32", "bf16" or "int8"; for int8 each product has both sides quantized to 8 bits.
    """
    import openvino
    from openvino import opset13 as ops

    def quantized(value: Any, levels: int, limit: float) -> Any:
        low, high = np.float32(-limit), np.float32(limit)
        return ops.fake_quantize(value, low, high, low, high, levels) if precision == "int8" else value

    random = np.random.default_rng(0)
    value = parameter = ops.parameter([size, size], np.float32)
    for _ in range(CHAIN):
        # Scaled so that values keep their size from one product to the next.
        weights = (random.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32)
        right = quantized(ops.constant(weights), 255, 4 / np.sqrt(size))
        value = ops.matmul(quantized(value, 256, 4.0), right, False, True)
    model = openvino.Model([ops.reduce_max(value, np.array([0, 1]))], [parameter])
    properties = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    request = openvino.Core().compile_model(model, "CPU", properties).create_infer_request()
    fed = random.standard_normal((size, size)).astype(np.float32)
    return best_rate(lambda: request.infer([fed], share_inputs=True), 2 * CHAIN * size**3)


def ceilings(threads: int, size: int) -> dict[str, Any]:
    """Returns {"gflops": {precision: rate or None}, "reasons": {precision: why there is none}}."""
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    rates: dict[str, float | None] = {
        "fp32": max(tensorflow_rate(threads, size), openvino_rate(threads, size, "fp32")),
        "int8": openvino_rate(threads, size, "int8"),
        "bf16": None,
    }
    reasons = {}
    if "BF16" in capabilities:
        rates["bf16"] = openvino_rate(threads, size, "bf16")
    else:
        reasons["bf16"] = f"OpenVINO computes in {', '.join(capabilities)} on this processor"
    return {"gflops": rates, "reasons": reasons}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--size", type=int, default=2048, help="rows and columns of each matrix")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    print(json.dumps(ceilings(arguments.threads, arguments.size)))


if __name__ == "__main__":
    main()
