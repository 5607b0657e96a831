"""Runs the test files given as arguments: the main program of the py_test targets in BUILD."""

from __future__ import annotations

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(sys.argv[1:]))
