"""Where the time of BERT in int8 goes: OpenVINO's and ONNX Runtime's own profiles of the models that tf_opt makes.

Five engines run the same BERT: tf_opt's fp32 and int8 models in OpenVINO and in ONNX Runtime, and, as the peer that
quantizes activations as they come, tf_opt's fp32 model for ONNX Runtime with weights quantized by
`onnxruntime.quantization.quantize_dynamic`. Each is first run without a profile, in turns with the others; wall and
processor time are medians. Then the engine's counters say what share of its time each kind of work takes.

    python benchmark/int8_profile.py [--layers 12] [--rounds 7] [--output benchmark/results/int8_profile.json]
"""

from __future__ import annotations

import argparse
import collections
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "examples" / "01_bert"), str(ROOT / "benchmark")]

import bert_models  # Sets what has to be set before TensorFlow is imported.
import numpy as np
import tensorflow as tf
from peer_workers.protocol import cpu_flags

import tf_opt
from tf_opt.engines.onnxruntime.session import session_options
from tf_opt.environment import describe_environment
from tf_opt.files import write_text
from tf_opt.terminal import default_console

POINTS = ((1, 16), (1, 128), (8, 128))
CALIBRATION = ((4, 128), (4, 64))
KINDS = (
    # The first whose words a name has; names of operators and of OpenVINO's kernels, in lower case.
    ("attention", ("attention", "scaleddotproduct", "sdpa")),
    ("matrix products", ("matmul", "gemm", "fullyconnected", "fusedmatmul")),
    ("quantize and dequantize", ("quantize", "fakequantize")),
    ("layer normalization", ("layernorm", "mvn", "normalization", "rms")),
    ("softmax", ("softmax",)),
    ("gelu", ("gelu", "erf")),
    (
        "shapes and layouts",
        ("transpose", "reshape", "reorder", "concat", "gather", "split", "squeeze", "shape", "cast"),
    ),
)
OTHER = "other"
FLAGS = {"avx2", "avx_vnni", "avx512_vnni"}

console = default_console()

Run = Callable[[], Any]
Profile = Callable[[], dict[str, float]]


def kind_of(name: str) -> str:
    """Returns the kind of work that an operator or kernel does."""
    lower = name.lower()
    return next((kind for kind, words in KINDS if any(word in lower for word in words)), OTHER)


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """Returns the share of each kind of work in the time of all operators, largest first."""
    total = sum(seconds.values())
    kinds: collections.Counter[str] = collections.Counter()
    for name, each in seconds.items():
        kinds[kind_of(name)] += each / total
    return dict(kinds.most_common())


def dumped_model(frozen: tf_opt.FrozenGraph, engine: str, precision: str, folder: Path) -> Path:
    """Returns the ONNX file that an engine got; its weights lie beside it."""
    optimizer = tf_opt.Tf2TrtOpt(
        engine=engine, precision=precision, adopt="always", strict=True, progress=False, cache=False, dump_dir=folder
    )
    feeds = [tf_opt.random_feeds(frozen, batch=batch, sequence=length)[0] for batch, length in CALIBRATION]
    optimizer.optimize(frozen, feeds)
    (path,) = folder.glob(f"*/segments/*_{engine}_{precision}.onnx")
    return path


def inputs_of(path: Path, batch: int, sequence: int) -> dict[str, Any]:
    """Returns arrays for what enters the engine: embeddings (random numbers) and a mask of ones."""
    import onnx

    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for value in onnx.load(str(path), load_external_data=False).graph.input:
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        dims = [dim.dim_value for dim in kind.shape.dim]
        shape = [dims[axis] or (batch, sequence)[axis] for axis in range(len(dims))]
        arrays[value.name] = (
            np.ones(shape, dtype) if np.issubdtype(dtype, np.integer) else random.standard_normal(shape).astype(dtype)
        )
    return arrays


def openvino_side(path: Path, inputs: Mapping[str, Any], threads: int) -> tuple[Run, Profile]:
    """Returns what runs OpenVINO, and what runs it once and gives seconds by kind of kernel."""
    import openvino

    options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    core = openvino.Core()
    model = core.read_model(str(path))
    plain = core.compile_model(model, "CPU", options).create_infer_request()
    counting = core.compile_model(model, "CPU", {**options, "PERF_COUNT": True}).create_infer_request()

    def profile() -> dict[str, float]:
        counting.infer(inputs)
        seconds: collections.Counter[str] = collections.Counter()
        for entry in counting.get_profiling_info():
            seconds[entry.node_type] += entry.real_time.total_seconds()
        return dict(seconds)

    return lambda: plain.infer(inputs), profile


def onnxruntime_side(path: Path, inputs: Mapping[str, Any], threads: int) -> tuple[Run, Profile]:
    """Returns what runs ONNX Runtime, and what runs it twice and gives seconds by operator of the second run."""
    import onnxruntime

    def session(**attributes: Any) -> Any:
        options = session_options(threads, "cpu")
        for name, value in attributes.items():
            setattr(options, name, value)
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    plain = session()

    def profile() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            counting = session(enable_profiling=True, profile_file_prefix=f"{folder}/profile")
            for _ in range(2):
                counting.run(None, dict(inputs))
            events = json.loads(Path(counting.end_profiling()).read_text())
        begins = [event["ts"] for event in events if event["name"] == "model_run"]
        seconds: collections.Counter[str] = collections.Counter()
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= max(begins):
                seconds[event["args"]["op_name"]] += event["dur"] / 1e6
        return dict(seconds)

    return lambda: plain.run(None, dict(inputs)), profile


def quantized_dynamically(path: Path, folder: Path) -> Path:
    """Returns the model with int8 weights whose activations are quantized as they come."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = folder / "dynamic.onnx"
    quantize_dynamic(
        path,
        target,
        weight_type=QuantType.QInt8,
        # Without VNNI, sums of two products of 8 bits overflow 16 bits.
        reduce_range=not cpu_flags() & {"avx512_vnni", "avx_vnni"},
        extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
    )
    return target


def timed(runs: Mapping[str, Run], rounds: int) -> dict[str, dict[str, float]]:
    """Returns medians of wall and processor time in seconds; the sides take turns."""
    wall: dict[str, list[float]] = {name: [] for name in runs}
    processor: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            run()
            used, started = time.process_time(), time.perf_counter()
            run()
            if index:  # The first round warms up.
                wall[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - used)
    return {
        name: {"median": statistics.median(wall[name]), "processor_median": statistics.median(processor[name])}
        for name in runs
    }


def main() -> None:
    """Measures, prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="12 is BERT-base; all layers are alike")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=tf.config.threading.get_intra_op_parallelism_threads() or 2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmark" / "results" / "int8_profile.json")
    arguments = parser.parse_args()
    frozen = tf_opt.freeze_keras(bert_models.random_bert(num_hidden_layers=arguments.layers))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        paths = {
            f"{engine}-{precision}": dumped_model(frozen, engine, precision, Path(temporary) / f"{engine}-{precision}")
            for engine in ("openvino", "onnxruntime")
            for precision in ("fp32", "int8")
        }
        paths["onnxruntime-dynamic-int8"] = quantized_dynamically(paths["onnxruntime-fp32"], Path(temporary))
        for batch, sequence in POINTS:
            sides = {
                name: (openvino_side if name.startswith("openvino") else onnxruntime_side)(
                    path, inputs_of(path, batch, sequence), arguments.threads
                )
                for name, path in paths.items()
            }
            times = timed({name: run for name, (run, _) in sides.items()}, arguments.rounds)
            for name, (_, profile) in sides.items():
                seconds = profile()
                row = {"engine": name, "batch": batch, "sequence": sequence, **times[name], "shares": shares(seconds)}
                rows.append({**row, "seconds_by_operator": dict(collections.Counter(seconds).most_common(12))})
                parts = ", ".join(f"{kind} {share:.0%}" for kind, share in row["shares"].items() if share >= 0.01)
                console.print(
                    f"{name} {batch}×{sequence}: {times[name]['median'] * 1e3:.1f} ms, processor "
                    f"{times[name]['processor_median'] * 1e3:.1f} ms; {parts}"
                )
    content = {
        "command": f"python benchmark/int8_profile.py --layers {arguments.layers} --rounds {arguments.rounds}",
        "environment": {
            **describe_environment(),
            "cpu_flags": sorted(cpu_flags() & FLAGS),
        },
        "threads": arguments.threads,
        "layers": arguments.layers,
        "rows": rows,
    }
    write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    console.print(f"Written to {arguments.output}")


if __name__ == "__main__":
    main()
