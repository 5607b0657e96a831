"""PyTorch: transformers' BertModel with the same weights, eager and through torch.compile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from peer_workers.protocol import INPUTS, Array, Peer, Points, require_bf16, serve


class TorchPeer(Peer):
    """Options: "bf16" and "compile"."""

    def load(self, folder: Path, threads: int, points: Points, options: Mapping[str, Any]) -> dict[str, Any]:
        """See `Peer.load`."""
        if options.get("bf16"):
            require_bf16()
        torch.set_num_threads(threads)
        self._model = load_model(folder)
        if options.get("bf16"):
            self._model = self._model.to(torch.bfloat16)
        self._compile = bool(options.get("compile"))
        self._forward: Any = self._model
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def prepare(self, feeds: Mapping[str, Mapping[str, Array]], seconds_to_settle: float) -> None:
        """See `Peer.prepare`."""
        self._feeds = {
            name: {each: torch.from_numpy(feed[each].astype("int64")) for each in INPUTS}
            for name, feed in feeds.items()
        }
        if self._compile:
            from torch._inductor import config

            # Weights become constants, which may be laid out anew. Without it only their shapes are known.
            config.freezing = True
            # One shape after the other, each compiled for itself: otherwise the second one makes it dynamic.
            torch._dynamo.reset()
            self._forward = torch.compile(self._model, dynamic=False)

    def run(self, feed: str) -> tuple[Any, Any]:
        """See `Peer.run`."""
        with torch.no_grad():  # Freezing asks for this rather than for inference_mode.
            outputs = self._forward(**self._feeds[feed])
        return outputs.last_hidden_state, outputs.pooler_output

    def arrays(self, outputs: tuple[Any, Any]) -> tuple[Array, Array]:
        """See `Peer.arrays`."""
        hidden, pooled = (output.float().numpy() for output in outputs)
        return hidden, pooled


def load_model(folder: Path, attention: str = "sdpa") -> Any:
    """Returns the BertModel of a model folder, every weight taken from its file.

    Args:
        folder: The model's files.
        attention: transformers' attn_implementation; "sdpa" is its default and its fastest on a CPU.

    Raises:
        RuntimeError: A weight is missing or left over.
    """
    config = transformers.BertConfig.from_json_file(folder / "config.json")
    model = transformers.BertModel._from_config(config, attn_implementation=attention)
    model.load_state_dict(load_file(folder / "weights.safetensors"), strict=True)
    return model.eval()


if __name__ == "__main__":
    serve(TorchPeer())
