"""Inference engines inside TensorFlow graphs.

The public names below are imported when they are first used (PEP 562), so that `import tf_opt` loads neither TensorFlow
nor any engine's package.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tf_opt import errors
from tf_opt.ops.import_hook import register_when_tensorflow_is_imported

if TYPE_CHECKING:
    from tf_opt.benchmarking import benchmark
    from tf_opt.comparison import compare
    from tf_opt.doctor import doctor
    from tf_opt.engines.tensorrt.settings import TensorRTSettings
    from tf_opt.freeze.models import freeze_concrete_function, freeze_keras, freeze_saved_model, load_graph_def
    from tf_opt.frozen_graph import FrozenGraph
    from tf_opt.optimizer import Tf2TrtOpt
    from tf_opt.options import Options
    from tf_opt.quantization import QuantizationSettings
    from tf_opt.random_feeds import random_feeds
    from tf_opt.readable_graph import format_graph
    from tf_opt.report.json import load_report
    from tf_opt.report.optimization import OptimizationReport
    from tf_opt.report.saved_model import SavedModelReport
    from tf_opt.saved_model.optimize import optimize_saved_model, save_saved_model
    from tf_opt.session import run
    from tf_opt.specialization import specialize
    from tf_opt.text_batches import restore_order, text_batches
    from tf_opt.tolerance import Tolerance

__version__ = "0.1.0"

__all__ = [
    "FrozenGraph",
    "OptimizationReport",
    "Options",
    "QuantizationSettings",
    "SavedModelReport",
    "TensorRTSettings",
    "Tf2TrtOpt",
    "Tolerance",
    "__version__",
    "benchmark",
    "compare",
    "doctor",
    "errors",
    "format_graph",
    "freeze_concrete_function",
    "freeze_keras",
    "freeze_saved_model",
    "load_graph_def",
    "load_report",
    "optimize_saved_model",
    "random_feeds",
    "restore_order",
    "run",
    "save_saved_model",
    "specialize",
    "text_batches",
]

_MODULE_OF = {
    "FrozenGraph": "tf_opt.frozen_graph",
    "OptimizationReport": "tf_opt.report.optimization",
    "Options": "tf_opt.options",
    "QuantizationSettings": "tf_opt.quantization",
    "TensorRTSettings": "tf_opt.engines.tensorrt.settings",
    "SavedModelReport": "tf_opt.report.saved_model",
    "Tf2TrtOpt": "tf_opt.optimizer",
    "Tolerance": "tf_opt.tolerance",
    "benchmark": "tf_opt.benchmarking",
    "compare": "tf_opt.comparison",
    "doctor": "tf_opt.doctor",
    "format_graph": "tf_opt.readable_graph",
    "freeze_concrete_function": "tf_opt.freeze.models",
    "freeze_keras": "tf_opt.freeze.models",
    "freeze_saved_model": "tf_opt.freeze.models",
    "load_graph_def": "tf_opt.freeze.models",
    "load_report": "tf_opt.report.json",
    "optimize_saved_model": "tf_opt.saved_model.optimize",
    "random_feeds": "tf_opt.random_feeds",
    "restore_order": "tf_opt.text_batches",
    "run": "tf_opt.session",
    "save_saved_model": "tf_opt.saved_model.optimize",
    "specialize": "tf_opt.specialization",
    "text_batches": "tf_opt.text_batches",
}


class _Package(ModuleType):
    """This package, in which a public name stays what it is where a submodule has the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        # After importing tf_opt.random_feeds, Python sets the submodule as the attribute `random_feeds` of the package.
        # Without this, the function of that name would turn into a module as soon as anything imports the submodule.
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{errors.did_you_mean(name, __all__)}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # From now on Python finds the name without asking here.
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package

# A graph with engine nodes can be imported only once TensorFlow knows the op. TensorFlow is not loaded for that: the op
# is registered when the user's program imports TensorFlow.
register_when_tensorflow_is_imported()
