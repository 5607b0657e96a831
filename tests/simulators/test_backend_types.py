"""Checks the TensorRT backend's types against the real bindings of each version it supports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.simulators.real_bindings import stubs_or_skip
from tests.simulators.tensorrt.generate_stubs import VERSIONS
from tf_opt.ops import cache_directory

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]

# A call of each of these stands in the backend; none of them is a method of the bindings.
MISSPELT = {
    ".build_serialized_network(": ".build_serialised_network(",
    ".execute_async_v3(": ".execute_async_v2(",
    ".set_input_shape(": ".set_binding_shape(",
    ".deserialize_cuda_engine(": ".deserialize_engine(",
}

Check = Callable[[Path, str], str]


@pytest.fixture(scope="module")
def check() -> Check:
    """Returns what mypy says about the backend in an installed tree, against the stubs of a version."""
    # Kept between runs: most of the time goes into NumPy's types. `make lint` has looked at them, too.
    cache, of_lint = cache_directory() / "mypy", REPOSITORY / ".mypy_cache"
    if not cache.exists() and of_lint.is_dir():
        shutil.copytree(of_lint, cache)

    def run(tree: Path, version: str) -> str:
        search = os.pathsep.join((str(tree), str(stubs_or_skip(version))))
        command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache), str(tree / "tf_opt/engines/tensorrt")]
        environment = {**os.environ, "MYPYPATH": search}
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=REPOSITORY, env=environment, timeout=600
        )
        assert result.stdout, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="module")
def installed_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tf_opt as it is installed, with passes/ inside, and without the backend.

    One for all checks: mypy keeps what it found by path, and looks at the rest of tf_opt once.
    """
    folder = tmp_path_factory.mktemp("installed")
    package = folder / "tf_opt"
    (package / "engines").mkdir(parents=True)
    for source in (*(REPOSITORY / "tf_opt").iterdir(), REPOSITORY / "passes"):
        if source.name != "engines":
            (package / source.name).symlink_to(source)
    for source in (REPOSITORY / "tf_opt/engines").iterdir():
        if source.name != "tensorrt":
            (package / "engines" / source.name).symlink_to(source)
    return folder


@pytest.fixture
def tree(installed_tree: Path) -> Iterator[Path]:
    """The installed tree with the backend as a copy that the test may change."""
    backend = installed_tree / "tf_opt/engines/tensorrt"
    shutil.copytree(REPOSITORY / "tf_opt/engines/tensorrt", backend)
    yield installed_tree
    shutil.rmtree(backend)


@pytest.mark.parametrize("version", VERSIONS)
def test_backend_is_correct_against_the_real_bindings(check: Check, tree: Path, version: str) -> None:
    assert check(tree, version).startswith("Success: no issues found")


@pytest.mark.parametrize("version", VERSIONS)
def test_misspelt_calls_are_errors(check: Check, tree: Path, version: str) -> None:
    """Shows that the backend's calls are checked, and not calls of Any."""
    for right, wrong in MISSPELT.items():
        found = [path for path in tree.glob("tf_opt/engines/tensorrt/*.py") if right in path.read_text()]
        assert found, right
        for path in found:
            path.write_text(path.read_text().replace(right, wrong))

    said = check(tree, version)

    for wrong in MISSPELT.values():
        assert re.search(rf'has no attribute "{wrong.strip(".(")}"', said), (wrong, said)
