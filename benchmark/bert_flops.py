"""How much arithmetic a BERT is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def bert_flops(config: Mapping[str, Any], batch: int, sequence: int) -> float:
    """Returns the floating point operations of the matrix products of one run; a multiplication and an addition are 2.

    With T = batch × sequence tokens, hidden size h, inner size f and sequence s, a layer has

    - the projections to Q, K, V and back: 4 products [T, h] × [h, h], 8 T h²
    - scores and their product with V: 2 products of s rows and columns for each token, 4 T s h
    - the feed-forward block: [T, h] × [h, f] and [T, f] × [f, h], 4 T h f

    which for f = 4 h is the 24 T h² + 4 T s h of Narayanan et al., "Efficient Large-Scale Language Model Training on
    GPU Clusters Using Megatron-LM" (2021), appendix. The pooler adds 2 h² for each row. Everything else (LayerNorm,
    softmax, GELU, lookups) is left out, as there: below 1% of BERT-base.

    Args:
        config: Hugging Face's configuration of the model.
        batch: Rows.
        sequence: Tokens of each row.
    """
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    tokens = batch * sequence
    layer = 8 * tokens * hidden**2 + 4 * tokens * sequence * hidden + 4 * tokens * hidden * inner
    return float(config["num_hidden_layers"] * layer + 2 * batch * hidden**2)
