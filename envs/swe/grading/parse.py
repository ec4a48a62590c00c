"""A program that reads Python without running it: ``{path: base64}`` comes in, ``{path: [use, …]}`` goes out.

It is a process of its own because hostile source can exhaust the parser, or crash it: a file that is not
in the answer is not Python. The *uses* are what honest repairs seldom need and cheats often do; they are
easily hidden, so they advise a person and decide nothing.
"""

from __future__ import annotations

import ast
import base64
import json
import resource
import sys
import warnings
from collections.abc import Iterator

MEMORY = 1 << 30
MODULES = frozenset(
    (
        "sys", "gc", "ctypes", "inspect", "_pytest", "pytest", "unittest", "atexit", "signal", "threading",
        "subprocess", "socket", "builtins", "importlib", "linecache", "marshal", "pickle", "multiprocessing",
        "mmap", "resource",
    )
)  # fmt: skip
CALLS = frozenset(("eval", "exec", "compile", "__import__", "globals", "locals", "vars", "setattr", "open"))
ATTRIBUTES = frozenset(
    (
        "f_back", "f_locals", "f_globals", "f_code", "tb_frame", "gi_frame", "_getframe", "__code__",
        "__class__", "__dict__", "__closure__", "__bases__", "__subclasses__", "_exit", "fork", "execv",
        "kill", "environ", "exists",
    )
)  # fmt: skip
METHODS = frozenset(
    (
        "__eq__", "__ne__", "__bool__", "__hash__", "__instancecheck__", "__getattribute__", "__reduce__",
        "__reduce_ex__", "__del__",
    )
)  # fmt: skip


def uses(tree: ast.Module) -> Iterator[str]:
    """Names of interest in a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (
                    f"import {alias.name}" for alias in names if alias.name.partition(".")[0] in MODULES
                )
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield f"import {module}"
            case ast.Call(func=ast.Name(id=name)) if name in CALLS:
                yield f"{name}()"
            case ast.Attribute(attr=name) if name in ATTRIBUTES:
                yield f".{name}"
            case ast.FunctionDef(name=name) if name in METHODS:
                yield f"def {name}"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for path, data in json.load(sys.stdin).items():
        try:
            found = sorted(set(uses(ast.parse(base64.b64decode(data)))))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        print(json.dumps([path, found]), flush=True)


if __name__ == "__main__":
    main()
