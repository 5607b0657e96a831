"""Scripts in benchmark/ find their neighbours because Python runs them from there; tests import them the same way."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmark"))
