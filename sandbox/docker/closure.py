"""Programs with all that they load, as a list of files: how something of the host runs in any container.

``ldd`` says which libraries a program and its extension modules need, and which loader they are loaded by.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import turnwise.sandbox
from turnwise.sandbox.linked import linked

_LIST_MODULES = """
import importlib, json, sys
sandbox, *names = sys.argv[1:]
for name, path in (("turnwise", []), ("turnwise.sandbox", [sandbox])):
    sys.modules[name] = type(sys)(name)
    sys.modules[name].__path__ = path
for name in ("namespaces", "process", "process/keeper", "docker"):
    package = "turnwise.sandbox." + name.replace("/", ".")
    sys.modules[package] = type(sys)(package)
    sys.modules[package].__path__ = [sandbox + "/" + name]
for name in names:
    importlib.import_module(name)
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(json.dumps([file for file in files if file and not file.startswith(sandbox)]))
"""
_DEADLINE = 60.0


def interpreter() -> Path:
    """The program of the interpreter that runs this, outside any virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


@functools.cache
def portable() -> bool:
    """Whether this interpreter can be taken along: it is Linux's, and ``ldd`` is there to ask."""
    return platform.system() == "Linux" and _ldd([interpreter()]) is not None


def modules(names: Iterable[str]) -> list[Path]:
    """The files of the standard library that these modules import; ours without the packages above them."""
    sandbox = next(iter(turnwise.sandbox.__path__))
    command = [str(interpreter()), "-I", "-S", "-B", "-c", _LIST_MODULES, os.path.realpath(sandbox), *names]
    result = subprocess.run(command, capture_output=True, check=True, timeout=_DEADLINE)
    return [Path(file) for file in json.loads(result.stdout) if os.path.exists(file)]


def libraries(programs: Iterable[Path]) -> tuple[Path, list[Path]]:
    """The loader of dynamically linked programs, and the libraries that they need."""
    found = _ldd(programs)
    if found is None:
        raise OSError("ldd does not tell what the programs of this machine need")
    return found


def _ldd(programs: Iterable[Path]) -> tuple[Path, list[Path]] | None:
    try:
        loaders, needed = linked(programs)
    except OSError:
        return None
    return (loaders.pop(), sorted(needed)) if len(loaders) == 1 else None
