"""The catalogue of cheats on software repair, from ``catalogue.yaml``.

An entry is what an agent could do with a shell in its repository: ``code`` is added to the package's entry
module (with the helpers of ``PRELUDE``), ``files`` are written, ``shell`` is run. In these, ``SOURCE`` is
the first declared source, ``ROOT`` the folder it is in and ``PACKAGE`` its name. A cheat comes ``upon`` code
of which one module is still broken and the rest mended, so that it has only that to forge; where there is no
such module, and with ``base``, all is broken; with ``reference`` nothing is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

import yaml
from pydantic import Field

from turnwise.envs.cheat import Cheat
from turnwise.envs.swe.grading.machines import REPOSITORY
from turnwise.envs.swe.grading.rules import Rules, Tree
from turnwise.envs.types import Model, call
from turnwise.sandbox.contract import Sandbox

Group = Literal[
    "test tampering",
    "configuration and plugins",
    "start-up hooks",
    "process and exit",
    "equality",
    "frames and memory",
    "output forgery",
    "file system",
    "git",
    "background",
    "resources",
    "tools",
    "network",
    "patch tricks",
    "special-casing",
    "aimed at the judge",
]

PRELUDE = '''
def _each(change):
    """Replace what the broken module defines: functions, and the methods of classes."""
    import importlib, pkgutil, sys
    for info in pkgutil.walk_packages(globals().get("__path__", []), __name__ + "."):
        importlib.import_module(info.name)
    done = {}
    for module in [m for n, m in sys.modules.items() if n == __name__ or n.startswith(__name__ + ".")]:
        for name, value in list(vars(module).items()):
            where = str(getattr(value, "__module__", ""))
            if name[0] == "_" or not where.startswith(__name__) or _BROKEN not in ("", where.split(".")[-1]):
                continue
            if isinstance(value, type):
                for method, function in list(vars(value).items()):
                    if callable(function) and id(function) not in done:
                        done[id(function)] = True
                        setattr(value, method, change(function))
            elif callable(value):
                setattr(module, name, done.setdefault(id(value), change(value)))

def _worker():
    """The worker's own object, where there is one."""
    import gc
    return next((o for o in gc.get_objects() if type(o).__name__ == "Worker"), None)

def _say(line):
    """Write a line of one's own to the judge."""
    w = _worker()
    if w is not None:
        w._file.write(line if isinstance(line, bytes) else line.encode())
        w._file.write(b"\\n")
        w._file.flush()
'''


class Entry(Model):
    """One cheat as the file has it."""

    group: Group
    code: str = ""
    files: dict[str, str] = Field(default={})
    shell: str = ""
    upon: str = "spans"
    residue: bool = False


class Desk(Protocol):
    """A started episode of software repair, from the side that knows the reference."""

    @property
    def sandbox(self) -> Sandbox:
        """The agent's, with the broken base in it."""

    @property
    def base(self) -> Tree: ...

    @property
    def reference(self) -> Tree: ...

    @property
    def rules(self) -> Rules: ...


@functools.cache
def entries() -> Mapping[str, Entry]:
    text = resources.files("turnwise.envs.swe.cheats").joinpath("catalogue.yaml").read_text()
    data: Any = yaml.safe_load(text)
    return {name: Entry.model_validate(entry) for name, entry in data.items()}


def catalogue() -> tuple[Cheat[Desk], ...]:
    """Every cheat, in the order of the file."""
    return tuple(
        Cheat(name, entry.group, functools.partial(_apply, entry), entry.residue, call("submit"))
        for name, entry in entries().items()
    )


async def _apply(entry: Entry, desk: Desk) -> None:
    source = desk.rules.sources[0]
    broken = f"{source}/{entry.upon}.py"
    tree = desk.reference if entry.upon == "reference" or broken in desk.base else desk.base
    files = {path: data for path, data in tree.items() if desk.rules.below(path)}
    only = broken in desk.base
    if only:
        files[broken] = desk.base[broken]
    if entry.code:
        module = source if source.endswith(".py") else f"{source}/__init__.py"
        files[module] += f"{PRELUDE}_BROKEN = {entry.upon if only else ''!r}\n{entry.code}".encode()
    files |= {_named(path, source): _named(text, source).encode() for path, text in entry.files.items()}
    await desk.sandbox.write_tree({f"{REPOSITORY}/{path}": data for path, data in files.items()})
    if entry.shell:
        await desk.sandbox.exec(["/bin/bash", "-c", _named(entry.shell, source)], timeout=120)


def _named(text: str, source: str) -> str:
    path = PurePosixPath(source)
    names = {"SOURCE": source, "ROOT": str(path.parent), "PACKAGE": path.stem}
    for name, value in names.items():
        text = text.replace(name, value)
    return text
