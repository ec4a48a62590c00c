"""What a test imports of the package: names that stand for something in whichever worker is asked.

They are made of the suite's *surface*, what the reference offers, before any worker exists; so a
submission has no say in what a test file gets when it is imported. A class is a real class, so that
``isinstance`` and ``pytest.raises`` work, and an exception class has its builtin bases.
"""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from turnwise.envs.swe.grading.judge.handles import Handle, classes_of
from turnwise.envs.swe.grading.judge.link import NotSplittable

if TYPE_CHECKING:
    from turnwise.envs.swe.grading.judge.session import Session

Reference = tuple[str, str]
"""A module and a path in it; the path of a module itself is empty."""


class Remote:
    """Anything that stands for a name of the package."""


class RemoteFunction(Remote):
    """A function, called in the worker."""

    def __init__(self, session: Session, reference: Reference) -> None:
        self.__dict__["_reference"], self.__dict__["_session"] = reference, session

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._session.call(self, args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "__name__":
            return self._reference[1].rpartition(".")[2]
        return _ask_for(self._session, self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise NotSplittable("the package under test cannot be patched")

    def __repr__(self) -> str:
        return f"<{'.'.join(self._reference)} of the package under test>"


class RemoteClass(type, Remote):
    """The type of the package's classes as a test has them."""

    _reference: Reference
    _session: Session

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> RemoteClass:
        if "_reference" not in namespace:
            raise NotSplittable(f"class {name} derives from a class of the package under test")
        return super().__new__(mcs, name, bases, namespace)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls._session.call(cls, args, kwargs)

    def __getattr__(cls, name: str) -> Any:
        return _ask_for(cls._session, cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        raise NotSplittable("the package under test cannot be patched")

    def __instancecheck__(cls, instance: Any) -> bool:
        if isinstance(instance, Handle):
            return cls._reference in classes_of(instance)
        return type.__instancecheck__(cls, instance)

    def __iter__(cls) -> Any:
        return iter(cls._session.current.ask("list", [cls]))

    def __getitem__(cls, key: Any) -> Any:
        return cls._session.current.ask("getitem", [cls, key])


class RemoteModule(types.ModuleType, Remote):
    """A module; the import system may attach its submodules, and nobody anything else."""

    def __init__(self, session: Session, name: str, contents: dict[str, Any], values: frozenset[str]) -> None:
        super().__init__(name, "Stands for a module of the package under test.")
        self.__dict__.update(contents, _reference=(name, ""), _session=session, _values=values, __path__=[])

    def __getattr__(self, name: str) -> Any:
        if name in self._values:  # asked anew of each worker
            return self._session.get(self, name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if not isinstance(value, RemoteModule) and not name.startswith("__"):
            raise NotSplittable("the package under test cannot be patched")
        self.__dict__[name] = value


def reference_of(value: Any) -> Reference | None:
    """What a name of the package stands for; None for anything else."""
    if isinstance(value, Remote):
        reference: Reference = value._reference  # type: ignore[attr-defined]  # each kind of Remote has one
        return reference
    return None


def _ask_for(session: Session, target: Any, name: str) -> Any:
    if name.startswith(("__", "_pytest", "pytest")):  # what tools look for in any object
        raise AttributeError(name)
    return session.get(target, name)
