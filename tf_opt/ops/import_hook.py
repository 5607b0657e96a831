"""Loads the op when TensorFlow is imported.

A module of its own: importing it costs nothing, and `python -m tf_opt.ops.build` does not find its module imported
already by the package.
"""

from __future__ import annotations

import warnings


def register_when_tensorflow_is_imported() -> None:
    """Loads the op as soon as `tensorflow` is imported, at once where it already is.

    A GraphDef with engine nodes can then be imported by any process that imported tf_opt. A failure must not break
    `import tensorflow`: it becomes a warning with the text of the `OpBuildError`, and `tf_opt.ops.load()` raises it.
    """
    from wrapt import register_post_import_hook

    register_post_import_hook(_load_after_import, "tensorflow")


def _load_after_import(module: object) -> None:
    del module
    from tf_opt.errors import OpBuildError
    from tf_opt.ops.build import load

    try:
        load()
    except OpBuildError as error:
        warnings.warn(str(error), RuntimeWarning, stacklevel=2)
