"""Starts a program of this package on its own: ``python -I -B bootstrap.py MODULE ARGUMENT``.

The worker runs where nothing of this project is installed, and the judge should not take the time to
import all of it. So the packages above are entered as bare names, without their ``__init__``; the modules
lie beside this file and import each other by the same names as everywhere else.
"""

import importlib
import sys
from os.path import abspath, dirname

PACKAGE = "turnwise.envs.swe.grading"


def enter_packages() -> None:
    """Make the packages above known by their names alone."""
    parts = PACKAGE.split(".")
    for end in range(1, len(parts) + 1):
        package = type(sys)(".".join(parts[:end]))
        package.__path__ = [dirname(abspath(__file__))] if end == len(parts) else []
        sys.modules[package.__name__] = package


if __name__ == "__main__":
    enter_packages()
    importlib.import_module(f"{PACKAGE}.{sys.argv[1]}").main(sys.argv[2])
