"""OpenVINO by hand: the model compiled for each shape, in fp32, bf16 or, quantized by nncf, int8."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from peer_workers.protocol import INPUTS, OUTPUTS, Array, Peer, Points, UnavailableError, read_config, serve

CALIBRATION_SAMPLES, CALIBRATION_LENGTH = 8, 128
"""Random ids carry nothing that more samples could teach."""


class OpenVinoPeer(Peer):
    """Option "precision": "fp32", "bf16" or "int8"."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        self._core = openvino.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        precision = options["precision"]
        if precision == "bf16" and "BF16" not in capabilities:
            raise UnavailableError(
                f"OpenVINO computes in {', '.join(capabilities)} on this processor; bf16 would be emulated in fp32"
            )
        # What int8 leaves in floating point is as fast as the processor allows.
        floating = "bf16" if precision != "fp32" and "BF16" in capabilities else "f32"
        self._properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": floating,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Pinned threads wait for their core where anything else runs on it: up to a third slower on a busy machine.
            "ENABLE_CPU_PINNING": False,
        }
        details = {"openvino": metadata.version("openvino"), "floating point": floating}
        path = folder / "tensorflow.onnx"
        if precision == "int8":
            path = self._quantized(folder, path)
            details["nncf"] = metadata.version("nncf")
        self._model = self._core.read_model(path)
        return {**details, "model": path.name}

    def _quantized(self, folder: Path, source: Path) -> Path:
        target = folder / "nncf.xml"
        if not target.exists():
            import nncf

            config, random, samples = read_config(folder), np.random.default_rng(1), []
            length = min(CALIBRATION_LENGTH, config["max_position_embeddings"])
            for _ in range(CALIBRATION_SAMPLES):
                ids = random.integers(1, config["vocab_size"], (1, length)).astype(np.int32)
                types = (np.arange(length) >= random.integers(length)).astype(np.int32)[None]
                samples.append(dict(zip(INPUTS, (ids, np.ones_like(ids), types), strict=True)))
            model = self._core.read_model(source)
            quantized = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
            temporary = folder / f"nncf.{os.getpid()}.xml"
            openvino.save_model(quantized, temporary, compress_to_fp16=False)
            temporary.with_suffix(".bin").rename(target.with_suffix(".bin"))
            temporary.rename(target)
        return target

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        self._request: Any = None  # Frees the engine of the shape before.
        shape = next(iter(feeds.values()))["input_ids"].shape
        model = self._model.clone()
        model.reshape({name: list(shape) for name in INPUTS})
        self._request = self._core.compile_model(model, "CPU", self._properties).create_infer_request()
        types = {name: model.input(name).get_element_type().to_dtype() for name in INPUTS}
        self._feeds = {name: {each: feed[each].astype(types[each]) for each in INPUTS} for name, feed in feeds.items()}

    def run(self, feed: str) -> tuple[Any, Any]:
        """See `Peer.run`."""
        results = self._request.infer(self._feeds[feed], share_inputs=True, share_outputs=True)
        return results[OUTPUTS[0]], results[OUTPUTS[1]]


if __name__ == "__main__":
    serve(OpenVinoPeer())
