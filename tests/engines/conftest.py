"""What several files of this folder run: ONNX Runtime's engines, the op's own and the one in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.engines.native_engine import NativeEngine, native_functions
from tf_opt.engines.onnxruntime import load_engine
from tf_opt.ops.python_runtime import EngineDefinition

Loader = Callable[[EngineDefinition], Any]


@pytest.fixture(params=["native", "python"])
def load(request: pytest.FixtureRequest) -> Loader:
    """Loads an engine of the op's own runtime, or of the one in Python: both hold to the same."""
    if request.param == "python":
        return load_engine
    native_functions()
    return NativeEngine
