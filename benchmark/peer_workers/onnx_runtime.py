"""ONNX Runtime: the model as exported, after its transformer optimizer, and with weights quantized by it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from peer_workers.protocol import INPUTS, OUTPUTS, Array, Peer, Points, cpu_flags, read_config, serve


class OnnxRuntimePeer(Peer):
    """Options: "optimizer" and "int8", both by onnxruntime's own tools and in this order."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        details: dict[str, Any] = {"onnxruntime": onnxruntime.__version__}
        path = folder / "tensorflow.onnx"
        if options.get("optimizer"):
            path, details["optimizer"] = optimized(folder)
        if options.get("int8"):
            path, details["quantization"] = quantized(path)
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = threads
        session_options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, session_options, providers=["CPUExecutionProvider"])
        types = {each.name: each.type for each in self._session.get_inputs()}
        self._dtypes = {name: np.int64 if types[name] == "tensor(int64)" else np.int32 for name in INPUTS}
        return {**details, "model": path.name}

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        self._feeds = {
            name: {each: feed[each].astype(self._dtypes[each]) for each in INPUTS} for name, feed in feeds.items()
        }

    def run(self, feed: str) -> tuple[Any, Any]:
        """See `Peer.run`."""
        hidden, pooled = self._session.run(list(OUTPUTS), self._feeds[feed])
        return hidden, pooled


def optimized(folder: Path) -> tuple[Path, dict[str, int]]:
    """Returns the model after onnxruntime.transformers.optimizer, and how many of which fusion it found.

    PyTorch's export is what its patterns are written for; in what tf2onnx makes of the TensorFlow graph it finds none.
    """
    from onnxruntime.transformers import optimizer

    source = folder / "torch.onnx"
    if not source.exists():
        source = folder / "tensorflow.onnx"
    target = source.with_name(f"{source.stem}.optimized.onnx")
    counts = target.with_suffix(".json")
    if not counts.exists():
        config = read_config(folder)
        model = optimizer.optimize_model(
            str(source),
            model_type="bert",
            num_heads=config["num_attention_heads"],
            hidden_size=config["hidden_size"],
            # Level 0: the Session applies its own fusions when it loads. Higher levels need torch and fuse the same.
            opt_level=0,
        )
        _write(target, model.save_model_to_file)
        found = {name: count for name, count in model.get_fused_operator_statistics().items() if count}
        counts.write_text(json.dumps(found))
    return target, json.loads(counts.read_text())


def quantized(source: Path) -> tuple[Path, str]:
    """Returns the model with weights quantized to int8; activations are quantized as they come."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # Without VNNI, sums of two products of 8 bits overflow 16 bits, and weights of 7 bits keep the accuracy.
    reduce_range = not cpu_flags() & {"avx512_vnni", "avx_vnni"}
    target = source.with_name(f"{source.stem}.int8{'.7bit' if reduce_range else ''}.onnx")
    if not target.exists():
        _write(
            target,
            lambda path: quantize_dynamic(
                source,
                path,
                weight_type=QuantType.QInt8,
                reduce_range=reduce_range,
                # The optimizer's own ops stop ONNX's type inference; everything that is multiplied here is fp32.
                extra_options={"DefaultTensorType": TensorProto.FLOAT, "MatMulConstBOnly": True},
            ),
        )
    return target, f"dynamic, weights of {7 if reduce_range else 8} bits"


def _write(target: Path, write: Any) -> None:
    temporary = target.with_suffix(f".{os.getpid()}.onnx")
    write(str(temporary))
    temporary.rename(target)


if __name__ == "__main__":
    serve(OnnxRuntimePeer())
