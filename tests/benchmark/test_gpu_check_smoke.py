"""The whole GPU check without a GPU, with the packages that its documentation lists and no others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gpu_check
import pytest
from gpu_check_parts import catalog

# Takes all packages out of sight but those named, as on a machine that has no others.
HIDE_OTHER_PACKAGES = """
import importlib.metadata, os, re, sys

names = os.environ["VISIBLE_PACKAGES"].split()
found = importlib.metadata.packages_distributions().items()
hidden = {module for module, owners in found if not {re.sub("[-_.]+", "-", each).lower() for each in owners} & {*names}}
hidden -= sys.stdlib_module_names


class Visible:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, *arguments):
        return None if name.partition(".")[0] in hidden else self.finder.find_spec(name, *arguments)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = map(Visible, sys.meta_path)
"""


def packages_of_the_check() -> list[str]:
    """The packages that benchmark/README.md lists, in the form in which distributions are compared."""
    readme = (Path(gpu_check.__file__).parent / "README.md").read_text()
    block = readme.split("<!-- packages of gpu_check.py -->")[1].split("```")[1].replace("\\\n", " ")
    listed = re.findall(r"--target site (.+)", block)
    assert len(listed) == 2
    return " ".join(listed).split()


@pytest.mark.slow
def test_smoke_run_on_the_cpu_with_the_listed_packages_alone(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDE_OTHER_PACKAGES)
    visible = ["tensorflow", "tensorflow-cpu", "openvino", "onnxruntime", "tf-opt", *packages_of_the_check()]
    output = tmp_path / "out.json"
    command = [sys.executable, gpu_check.__file__, "--smoke", "--allow-cpu", "--engines", "openvino-*", "onnxruntime-*"]
    command += ["--folder", str(tmp_path), "--output", str(output)]
    # The driver shows no GPU to a process that may use none.
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "VISIBLE_PACKAGES": " ".join(visible)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == 0, result.stderr
    content = json.loads(output.read_text())
    assert content["failed"] == []
    names = [catalog.REFERENCE, "onnxruntime-cpu-fp32", "openvino-fp32"]
    measured = sorted((row["engine"], row["batch"], row["copies"]) for row in content["rows"])
    assert measured == sorted((name, batch, "host") for name in names for batch, _ in catalog.SMOKE_POINTS)
    assert all(entry["maximum_absolute"] < 1e-4 for entry in content["accuracy"])
    assert content["environment"]["no_gpu"]
    assert "| batch | tensorflow-cpu | openvino-fp32 | onnxruntime-cpu-fp32 |" in result.stdout
