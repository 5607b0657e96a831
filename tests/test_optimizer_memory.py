"""How much memory an optimization takes: in a process of its own, since memory that was freed is not all given back."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path

    import numpy as np
    import tensorflow as tf

    import tf_opt

    def kibibytes(name):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1])

    random = np.random.default_rng(0)
    graph = tf.Graph()
    with graph.as_default():
        y = tf.compat.v1.placeholder(tf.float32, [None, 1280], name="x")
        for _ in range(24):
            y = tf.nn.relu(tf.matmul(y, random.normal(size=(1280, 1280)).astype(np.float32) / 25))
        tf.identity(y, name="y")
    graph_def = graph.as_graph_def()
    del graph, y
    small = tf.Graph()
    with small.as_default():  # Loads what every optimization loads, and makes the threads.
        x = tf.compat.v1.placeholder(tf.float32, [None, 16], name="x")
        tf.nn.softmax(tf.nn.relu(tf.matmul(x, random.normal(size=(16, 64)).astype(np.float32))), name="y")
    feed = {"x": random.normal(size=(4, 16)).astype(np.float32)}
    optimizer = tf_opt.Tf2TrtOpt(adopt="always", cache=False, progress=False)
    optimizer.optimize_graph_def(small.as_graph_def(), ["y"], [feed])
    Path("/proc/self/clear_refs").write_text("5")  # Sets the high-water mark back.
    before = kibibytes("VmRSS")
    feed = {"x": random.normal(size=(4, 1280)).astype(np.float32)}
    optimizer.optimize_graph_def(graph_def, ["y"], [feed])
    assert optimizer.report.engine_count == 1
    print("growth", (kibibytes("VmHWM") - before) / (24 * 1280 * 1280 * 4 / 1024))
    """
)


@pytest.mark.slow
def test_memory_grows_by_less_than_four_times_the_weights():
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the high-water mark of memory cannot be set back here: {error}")
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("growth")]
    assert 0.5 < float(line.split()[1]) < 4.0
