"""The BERT of bert.py in PyTorch, on the GPU where there is one: eager, and through torch.compile.

python -m gpu_check_parts.torch_bert     serves requests (service.py)
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peer_workers.protocol import INPUTS, Array, Points, UnavailableError, read_config
from torch import Tensor
from torch.nn import functional

from gpu_check_parts.bert import EPSILON, Weights, layer_names, random_weights
from gpu_check_parts.service import CHECKED_ROWS, TimedPeer, serve_timed

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Bert(torch.nn.Module):
    """Written with the functions that PyTorch has kernels of its own for."""

    def __init__(self, config: Mapping[str, int], weights: Weights) -> None:
        super().__init__()
        self.heads = config["num_attention_heads"]
        self.layers = layer_names(config)
        # PyTorch's linear takes [outputs, inputs].
        for name, values in weights.items():
            array = values.T.copy() if name.endswith("/kernel") else values
            self.register_buffer(_buffer(name), torch.from_numpy(array))

    def weight(self, name: str) -> Tensor:
        """Returns a weight by its name in bert.py."""
        found: Tensor = getattr(self, _buffer(name))
        return found

    def dense(self, x: Tensor, name: str) -> Tensor:
        """Multiplies and adds the bias."""
        return functional.linear(x, self.weight(f"{name}/kernel"), self.weight(f"{name}/bias"))

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        """Normalizes the last axis."""
        gamma, beta = self.weight(f"{name}/gamma"), self.weight(f"{name}/beta")
        return functional.layer_norm(x, (x.shape[-1],), gamma, beta, EPSILON)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the last hidden state and the pooled output."""
        batch, length = input_ids.shape
        x = self.weight("word")[input_ids] + self.weight("type")[token_type_ids] + self.weight("position")[:length]
        x = self.layer_norm(x, "embeddings")
        mask = attention_mask[:, None, None, :] > 0
        for layer in self.layers:
            query, key, value = (
                self.dense(x, f"{layer}/{name}").view(batch, length, self.heads, -1).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            context = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
            context = context.transpose(1, 2).reshape(batch, length, -1)
            x = self.layer_norm(x + self.dense(context, f"{layer}/attention"), f"{layer}/attention")
            inner = functional.gelu(self.dense(x, f"{layer}/inner"))
            x = self.layer_norm(x + self.dense(inner, f"{layer}/output"), f"{layer}/output")
        return x, torch.tanh(self.dense(x[:, 0], "pooler"))


def _buffer(name: str) -> str:
    """Returns a name for a weight that is none of a module's own, such as "type", and has no slash."""
    return f"bert_{name.replace('/', '_')}"


class TorchPeer(TimedPeer):
    """Options: "precision" and "compile"."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if options["gpu"] and self._device == "cpu":
            raise UnavailableError(f"PyTorch {torch.__version__} sees no GPU")
        torch.set_num_threads(threads)
        # fp32 means fp32 with every engine here: TensorFloat-32 has the mantissa of fp16.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        config = read_config(folder)
        model = Bert(config, random_weights(config)).to(self._device, DTYPES[options["precision"]]).eval()
        self._model, self._compile = model, bool(options.get("compile"))
        self._forward: Any = model
        return {"torch": torch.__version__, "cuda": torch.version.cuda, "device": self._device}

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        del seconds_to_settle
        self._feeds = feeds
        if self._compile:
            # One shape after the other, each compiled for itself: otherwise the second one makes it dynamic.
            torch._dynamo.reset()
            # CUDA graphs, which is what makes small batches fast.
            mode = "reduce-overhead" if self._device == "cuda" else "default"
            self._forward = torch.compile(self._model, dynamic=False, mode=mode)
        for _ in range(3):  # Compiles, then records the CUDA graph.
            self.run("0")

    def _tensors(self, feed: str) -> list[Tensor]:
        return [torch.from_numpy(self._feeds[feed][name]).to(self._device, torch.int64) for name in INPUTS]

    def run(self, feed: str) -> tuple[Any, Any]:
        """Runs with arrays of the host in and out; see `Peer.run`."""
        with torch.inference_mode():
            hidden, pooled = self._forward(*self._tensors(feed))
            return hidden.cpu(), pooled.cpu()

    def arrays(self, outputs: tuple[Any, Any]) -> tuple[Array, Array]:
        """See `Peer.arrays`; the first rows will do."""
        hidden, pooled = (output[:CHECKED_ROWS].float().numpy() for output in outputs)
        return hidden, pooled

    def device_times(self, feed: str, runs: int) -> tuple[list[float], float, float | None]:
        """See `TimedPeer.device_times`."""
        if self._device == "cpu":
            raise UnavailableError("there is no GPU")
        seconds = []
        with torch.inference_mode():
            tensors = self._tensors(feed)
            self._forward(*tensors)
            torch.cuda.synchronize()
            for _ in range(runs):
                started = time.perf_counter()
                self._forward(*tensors)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
            started = time.perf_counter()
            for _ in range(runs):
                self._forward(*tensors)
            torch.cuda.synchronize()
        return seconds, (time.perf_counter() - started) / runs, None


if __name__ == "__main__":
    serve_timed(TorchPeer())
