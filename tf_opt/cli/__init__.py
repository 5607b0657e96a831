"""The command line `tf-opt`: one file a command, and one for each idea that several commands share.

Nothing here imports TensorFlow before a command needs it, so that `--help`, `--version` and completion are quick, and
so that what TensorFlow reads from the environment can be set according to the models that the user names.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the program; Ctrl-C while it is still being imported ends it as quietly as later."""
    try:
        from tf_opt.cli.program import run

        run()
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
