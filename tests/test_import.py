"""`import tf_opt` is quick and loads no heavy package; its public names are there all the same."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from types import ModuleType

import pytest

import tf_opt
from tf_opt import errors

HEAVY_PACKAGES = {"keras", "numpy", "onnx", "onnxruntime", "openvino", "tensorflow", "tensorrt", "tf2onnx", "tf_keras"}
LAZY_NAMES = [name for name in tf_opt.__all__ if name not in {"__version__", "errors"}]
NAMES_OF_SUBMODULES_TOO = [each.name for each in pkgutil.iter_modules(tf_opt.__path__) if each.name in LAZY_NAMES]

MAXIMUM_MODULES = 350
"""Python 3.11 has loaded 212 after `import tf_opt`, nearly all of its own; a package more brings hundreds."""

IMPORT_AND_REPORT = """
import json, sys
import tf_opt
print(json.dumps(sorted(sys.modules)))
"""

# Imports tf_opt as if for the first time. TensorFlow stays loaded, which a process for each case would load again.
FORGET = """
import sys
def forget():
    for module in [module for module in sys.modules if module.partition(".")[0] == "tf_opt"]:
        del sys.modules[module]
"""


def run_python(code: str) -> str:
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def test_import_loads_little() -> None:
    modules = json.loads(run_python(IMPORT_AND_REPORT))
    assert "tf_opt" in modules
    assert HEAVY_PACKAGES.isdisjoint(module.partition(".")[0] for module in modules)
    assert len(modules) < MAXIMUM_MODULES


def test_every_public_name_resolves_as_the_first_one() -> None:
    # Modules that import each other in a circle show it only where the wrong one is imported first.
    code = f"""{FORGET}
for name in {tf_opt.__all__}:
    forget()
    import tf_opt
    getattr(tf_opt, name)
    print(name)
"""
    assert run_python(code).split() == tf_opt.__all__


@pytest.mark.parametrize("name", LAZY_NAMES)
def test_public_name_is_no_module(name: str) -> None:
    value = getattr(tf_opt, name)
    assert not isinstance(value, ModuleType)
    assert value.__name__ == name


def test_star_import_gives_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from tf_opt import *", namespace)
    assert set(tf_opt.__all__) <= set(namespace)


def test_public_names_are_sorted_and_listed() -> None:
    assert tf_opt.__all__ == sorted(tf_opt.__all__)
    assert set(tf_opt.__all__) <= set(dir(tf_opt))


def test_submodule_does_not_hide_the_public_name() -> None:
    assert "random_feeds" in NAMES_OF_SUBMODULES_TOO  # Otherwise the rest tests nothing.
    code = f"""{FORGET}
import importlib, types
for name in {NAMES_OF_SUBMODULES_TOO}:
    for first in ["import tf_opt.NAME", "from tf_opt import NAME", "from tf_opt.NAME import *", "import tf_opt"]:
        forget()
        exec(first.replace("NAME", name))
        importlib.import_module("tf_opt." + name)
        scope = {{}}
        exec("import tf_opt; from tf_opt import NAME as value".replace("NAME", name), scope)
        assert scope["value"] is getattr(scope["tf_opt"], name), first
        assert not isinstance(scope["value"], types.ModuleType), first
        assert isinstance(sys.modules["tf_opt." + name], types.ModuleType), first
        print("checked")
"""
    assert run_python(code).split() == ["checked"] * 4 * len(NAMES_OF_SUBMODULES_TOO)


def test_other_submodules_are_attributes() -> None:
    assert run_python("import tf_opt.options as options; print(options.__name__)").strip() == "tf_opt.options"


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'freeze_kerras'.*Did you mean 'freeze_keras'"):
        tf_opt.freeze_kerras  # noqa: B018
    with pytest.raises(ImportError):
        exec("from tf_opt import no_such_name_at_all")


def test_errors_is_the_module() -> None:
    assert tf_opt.errors is errors


def test_version_is_the_installed_one() -> None:
    code = "import importlib.metadata, tf_opt; print(importlib.metadata.version('tf_opt') == tf_opt.__version__)"
    assert run_python(code).strip() == "True"
