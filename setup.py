"""Maps passes/ to tf_opt.passes and, where TensorFlow is at hand, compiles the native op ahead of time.

Everything else is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

PREBUILT = Path("tf_opt", "ops", "_prebuilt")


class BuildNativeOp(build_ext):
    """Compiles the op into tf_opt/ops/_prebuilt, in place of the extension modules that setuptools would compile."""

    def run(self) -> None:
        if self.inplace or getattr(self, "editable_mode", False):
            return  # The sources of an editable install change, so that the op is compiled when it is first used.
        package_root = Path(self.build_lib).resolve()
        output = package_root / PREBUILT
        output.mkdir(parents=True, exist_ok=True)
        # The copy in the build folder is run, not the checkout: only there is passes/ inside tf_opt/.
        command = [sys.executable, "-m", "tf_opt.ops.build", "--output", str(output)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package_root), *sys.path])}
        completed = subprocess.run(
            command, cwd=package_root, env=environment, capture_output=True, text=True, check=False
        )
        if completed.returncode != 0:
            reason = (completed.stderr.strip() or completed.stdout.strip() or "no message").splitlines()[-1]
            print(f"warning: the native op was not compiled, it will be at first use: {reason}", file=sys.stderr)
        for lock in output.glob(".*.lock"):
            lock.unlink()

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / PREBUILT).glob("*")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


def tensorflow_is_installed() -> bool:
    """True in a build environment with TensorFlow, which pip's isolated one is not (`--no-build-isolation` is)."""
    return importlib.util.find_spec("tensorflow") is not None


setup(
    packages=[
        *find_packages(include=["tf_opt", "tf_opt.*"]),
        "tf_opt.passes",
        *(f"tf_opt.passes.{package}" for package in find_packages("passes")),
    ],
    package_dir={"tf_opt": "tf_opt", "tf_opt.passes": "passes"},
    # The extension has no sources: it says that the wheel holds machine code, and so belongs to one platform.
    ext_modules=[Extension("tf_opt.ops._prebuilt", sources=[])] if tensorflow_is_installed() else [],
    cmdclass={"build_ext": BuildNativeOp},
)
