"""Exports the BERT of a model folder from PyTorch to ONNX; runs in the environment that has PyTorch.

python -m peer_workers.torch_export FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from peer_workers.torch_bert import load_model

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("last_hidden_state", "pooler_output")


class _Positional(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        outputs = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return outputs.last_hidden_state, outputs.pooler_output


def main() -> None:
    """Writes torch.onnx into the folder given on the command line."""
    folder = Path(sys.argv[1])
    # ONNX Runtime's optimizer knows the plain form of attention, not the fused one.
    model = _Positional(load_model(folder, attention="eager"))
    example = torch.tensor([[3, 2, 5, 4]] * 2)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    axes = {0: "batch", 1: "sequence"}
    target, temporary = folder / "torch.onnx", folder / "torch.onnx.part"
    torch.onnx.export(
        model,
        (example, mask, torch.zeros_like(example)),
        str(temporary),
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_axes={**dict.fromkeys(INPUTS, axes), OUTPUTS[0]: axes, OUTPUTS[1]: {0: "batch"}},
        opset_version=17,
        # The exporter by tracing, whose graphs are the ones that the optimizer's patterns were written for.
        dynamo=False,
    )
    temporary.rename(target)


if __name__ == "__main__":
    main()
