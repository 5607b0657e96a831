"""The Makefile explains what is missing, notices an environment out of date, and pins versions that are allowed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run_make(*arguments: str) -> subprocess.CompletedProcess[str]:
    # The variables of the make that runs these tests (-j, -n, VENV) are not for the one that is tested.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
    return subprocess.run(
        ["make", "-C", str(ROOT), *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize("target", ["demo", "test", "test-fast", "lint", "bench", "format", "venv", "clean"])
def test_target_exists_and_is_listed(target: str) -> None:
    assert run_make("--dry-run", target).returncode == 0
    assert re.search(rf"make {target} +\w", run_make("help").stdout)


def test_unknown_target_fails() -> None:
    assert run_make("--dry-run", "no-such-target").returncode != 0


def test_python_without_venv_is_explained(tmp_path: Path) -> None:
    result = run_make("venv", f"VENV={tmp_path / 'venv'}", "PYTHON=/bin/false")
    assert result.returncode != 0
    assert "apt-get install python3 python3-venv" in result.stderr
    assert "/bin/false" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_missing_compiler_is_explained(tmp_path: Path) -> None:
    # A stand-in for the environment's Python, so that none has to be made to get this far.
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/bin/true")
    result = run_make("venv", f"VENV={tmp_path / 'venv'}", "CXX=no-such-compiler")
    assert result.returncode != 0
    assert "apt-get install g++" in result.stderr


def test_moved_environment_is_out_of_date(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 3.11.7 /elsewhere\n")
    python.chmod(0o755)
    stamp = tmp_path / "venv" / ".installed"
    stamp.write_text("3.11.7 /elsewhere\n")
    up_to_date = run_make("--dry-run", "venv", f"VENV={tmp_path / 'venv'}")
    assert "pip install" not in up_to_date.stdout
    stamp.write_text("3.11.7 /before\n")
    assert "pip install" in run_make("--dry-run", "venv", f"VENV={tmp_path / 'venv'}").stdout


def test_constraints_are_within_what_the_package_allows() -> None:
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate():
                pinned[_normal(requirement.name)] = next(iter(requirement.specifier)).version
    # These are for machines with a GPU, and not installed by the Makefile.
    for_gpus = ("tensorrt", "onnxruntime-gpu")
    declared = [Requirement(text) for text in requires("tf_opt") or [] if not text.startswith(for_gpus)]
    assert {_normal(requirement.name) for requirement in declared} <= set(pinned)
    for requirement in declared:
        assert requirement.specifier.contains(pinned[_normal(requirement.name)]), requirement


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
