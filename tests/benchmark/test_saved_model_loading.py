from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import bert_models
import pytest
import saved_model_loading
import tensorflow as tf


@pytest.mark.slow
def test_figures_of_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serving_module, kept = bert_models.serving_module, []

    def without_layers(model: Any) -> tf.Module:
        # Keras traces each of its layers alone, which takes longer than all else here; that such a SavedModel can be
        # optimized is shown by tests/saved_model/test_kinds.py.
        module, written = serving_module(model), tf.Module()
        written.parameters, written.serve = model.variables, module.serve
        kept.append(module)  # Its functions know it by a weak reference.
        return written

    monkeypatch.setattr(bert_models, "serving_module", without_layers)
    output = tmp_path / "result.json"
    arguments = ["saved_model_loading.py", "--layers", "1", "--rounds", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    saved_model_loading.main()
    content = json.loads(output.read_text())
    assert set(content["models"]) == {"original", "optimized"}
    for figures in content["models"].values():
        assert figures["load"] > 0 < figures["first_answer"]
        assert figures["bytes"] > 1_000_000
    assert 0 < content["engine_bytes"] < 1_000_000
