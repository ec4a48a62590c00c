"""Starts the far side: ``python -I -S bootstrap.py CONNECTION_FD OWNER_PID``.

The far side runs on the standard library alone, whatever is installed beside the owner, and starts
in a tenth of a second. So the packages above it are entered as bare names, without their
``__init__``; its modules import each other by the same names as everywhere else.
"""

import sys
from os.path import abspath, dirname

_here = dirname(abspath(__file__))
for _name, _path in (
    ("turnwise", dirname(dirname(_here))),
    ("turnwise.sandbox", dirname(_here)),
    ("turnwise.sandbox.namespaces", _here),
):
    _package = type(sys)(_name)
    _package.__path__ = [_path]
    sys.modules[_name] = _package

from turnwise.sandbox.namespaces.janitor import main  # noqa: E402

main(int(sys.argv[1]), int(sys.argv[2]))
