"""`python -m tf_opt.cli` is `tf-opt`."""

from __future__ import annotations

from tf_opt.cli import main

if __name__ == "__main__":
    main()
