"""Maps the top-level folder passes/ to the package tf_opt.passes; everything else is in pyproject.toml."""

from setuptools import setup

setup(
    packages=["tf_opt", "tf_opt.engines", "tf_opt.ops", "tf_opt.passes", "tf_opt.passes.tf", "tf_opt.passes.onnx"],
    package_dir={"tf_opt": "tf_opt", "tf_opt.passes": "passes"},
)
