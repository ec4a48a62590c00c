"""Starts the far side: ``python -I -S bootstrap.py CONNECTION_FD OWNER_PID``.

The far side runs on the standard library alone, whatever is installed beside the owner, and starts
in a tenth of a second. So the packages above it are entered as bare names, without their
``__init__``; its modules import each other by the same names as everywhere else.
"""

import sys
from os.path import abspath, dirname


def enter_packages() -> None:
    """Make the packages above known by their names alone."""
    here = dirname(abspath(__file__))
    for name, path in (
        ("turnwise", dirname(dirname(here))),
        ("turnwise.sandbox", dirname(here)),
        ("turnwise.sandbox.namespaces", here),
    ):
        package = type(sys)(name)
        package.__path__ = [path]
        sys.modules[name] = package


if __name__ == "__main__":
    enter_packages()
    from turnwise.sandbox.namespaces.janitor import main

    main(int(sys.argv[1]), int(sys.argv[2]))
