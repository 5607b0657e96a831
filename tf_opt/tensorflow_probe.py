"""Imports TensorFlow with tf_opt's op in a process of its own, and prints what came of it as JSON.

A TensorFlow that is broken can end the process that imports it, and its import compiles the op; `tf_opt.doctor` wants
to survive the one and to show the other.

    python -m tf_opt.tensorflow_probe
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def probe() -> dict[str, Any]:
    """Returns TensorFlow's version, what it was built for, and where the op's library is or why there is none."""
    from tf_opt.ops import build  # Importing TensorFlow compiles the op from now on, where it has to be.

    started = time.time()
    import tensorflow as tf

    found: dict[str, Any] = {
        "version": tf.__version__,
        "cuda_build": bool(tf.sysconfig.get_build_info().get("is_cuda_build", False)),
        "gpus": [device.name for device in tf.config.list_physical_devices("GPU")],
    }
    try:
        build.load()
        path = build.library_path()
        found["op_library"] = str(path)
        found["op_compiled_now"] = path.stat().st_mtime >= started
    except Exception as error:  # Whatever it is, it is the answer.
        found["op_error"] = f"{type(error).__name__}: {error}"
    return found


def main() -> int:
    """Prints one line of JSON to standard output, and nothing else."""
    # TensorFlow and its plugins print to both streams while they load.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    answers.write(json.dumps(probe()) + "\n")
    answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
