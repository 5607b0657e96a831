from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

from tf_opt.environment import describe_environment


def test_versions_of_what_is_installed() -> None:
    environment = describe_environment()
    assert environment["versions"]["numpy"] == metadata.version("numpy")
    assert "torch" not in environment["versions"]
    assert environment["cores"] >= 1
    assert environment["cpu"]
    assert json.loads(json.dumps(environment)) == environment


def test_nothing_is_imported_for_it() -> None:
    script = (
        "import sys; from tf_opt.environment import describe_environment as d; assert 'numpy' in d()['versions'];"
        "assert not {'tensorflow', 'openvino', 'tensorrt', 'onnxruntime'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
