"""Makes ``import PACKAGE`` in a test file give proxies, for the package under test and nothing else."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from turnwise.envs.swe.grading.judge.rebuilt import BUILTIN, said
from turnwise.envs.swe.grading.judge.remote import Reference, RemoteClass, RemoteFunction, RemoteModule
from turnwise.envs.swe.grading.judge.session import Session

Entry = tuple[str, str, Sequence[Reference]]
"""A name, what it stands for (module, class, exception, function or value), and where that is defined;
for a class its bases follow."""
Surface = Mapping[str, Sequence[Entry]]
"""What each module of the reference offers."""


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Serves every module of the surface. Another module of the package does not exist."""

    def __init__(self, packages: Sequence[str], surface: Surface) -> None:
        self._packages, self._surface = frozenset(packages), surface
        self.public = public_names(surface)
        self._classes: dict[Reference, RemoteClass] = {}
        self._session: Session | None = None

    def install(self, session: Session) -> dict[Reference, type]:
        """Begin to serve; the package's exception classes by name. What pytest has of it, pytest keeps."""
        for name in [name for name in sys.modules if self._owns(name)]:
            del sys.modules[name]
        self._session = session
        sys.meta_path.insert(0, self)
        kinds = [(what, places) for entries in self._surface.values() for _, what, places in entries]
        for what, places in kinds:
            if what in ("class", "exception") and self._owns(places[0][0]):
                self._class(session, places, what == "exception")
        exceptions = {places[0] for what, places in kinds if what == "exception" and self._owns(places[0][0])}
        return {self.public[place]: self._classes[place] for place in exceptions}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not self._owns(fullname):
            return None
        if fullname not in self._surface:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        if self._session is None:
            raise RuntimeError("the finder is not installed")
        entries = self._surface[spec.name]
        values = frozenset(name for name, what, _ in entries if what == "value")
        contents = {
            name: self._content(self._session, (spec.name, name), what, places[0])
            for name, what, places in entries
            if what not in ("value", "module")
        }
        return RemoteModule(self._session, spec.name, contents, values)

    def exec_module(self, module: ModuleType) -> None:
        """Modules are attributes of others where the reference has them as such."""
        for name, what, places in self._surface[module.__name__]:
            if what == "module" and (places[0][0] in self._surface or _of_the_library(places[0][0])):
                module.__dict__[name] = importlib.import_module(places[0][0])

    def _owns(self, module: str) -> bool:
        return module.partition(".")[0] in self._packages

    def _content(self, session: Session, name: Reference, what: str, place: Reference) -> Any:
        if place in self._classes:
            return self._classes[place]
        if _of_the_library(place[0]):
            value: Any = importlib.import_module(place[0])
            for part in place[1].split("."):
                value = getattr(value, part, None)
            if value is not None:
                return value
        return RemoteFunction(session, name)

    def _class(self, session: Session, mro: Sequence[Reference], exception: bool) -> RemoteClass:
        place = mro[0]
        if place not in self._classes:
            reference = self.public.setdefault(place, place)
            namespace: dict[str, Any] = {"_reference": reference, "_session": session, "__module__": place[0]}
            bases: tuple[type, ...] = ()
            if exception:
                namespace["__str__"] = said
                bases = self._bases(session, mro)
            self._classes[place] = RemoteClass(reference[1].rpartition(".")[2], bases, namespace)
        return self._classes[place]

    def _bases(self, session: Session, mro: Sequence[Reference]) -> tuple[type, ...]:
        """Of an exception: its nearest class of the package, and a builtin that this does not imply."""
        found: list[type] = []
        for at, (module, name) in enumerate(mro[1:], 1):
            base: type | None = BUILTIN.get(name) if module == "builtins" else None
            if self._owns(module):
                base = self._class(session, mro[at:], True)
            if base is not None and not any(issubclass(other, base) for other in found):
                found.append(base)
        return tuple(found) or (Exception,)


def public_names(surface: Surface) -> dict[Reference, Reference]:
    """Where each class is defined, and a name by which tests can know it."""
    names: dict[Reference, Reference] = {}
    for module, entries in surface.items():
        for name, what, places in entries:
            if what in ("class", "exception"):
                names.setdefault(places[0], (module, name))
    return names


def _of_the_library(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names
