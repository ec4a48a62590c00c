"""Objects that live in a worker, as a test has them.

What an object looks like is *committed* when it is first received and again when a test hands it to a
call or calls a method on it, never because of something else the worker got to see. Attributes are read
from that. ``==`` compares what two objects look like, here: the worker is never asked whether things are
equal or true, and the truth of an object is an error. Everything else about an object is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from turnwise.envs.swe.grading.judge.link import NotSplittable

if TYPE_CHECKING:
    from turnwise.envs.swe.grading.judge.session import Conversation

_own = object.__getattribute__


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What an object looked like."""

    classes: tuple[tuple[str, str], ...]
    callable: bool
    base: tuple[Any] | None
    """The value of a subclass of a builtin."""
    state: Mapping[str, Any]
    """Attributes; empty where the worker can tell none."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """An attribute that leads back to the object ``up`` levels above."""

    up: int


class Handle:
    """An object of one worker."""

    __slots__ = ("_conversation", "_number", "_owner", "_snapshot")

    def __getattr__(self, name: str) -> Any:
        snapshot: Snapshot = _own(self, "_snapshot")
        if name in snapshot.state:
            return snapshot.state[name]
        if name.startswith("__") and name not in ("__name__", "__doc__", "__qualname__", "__module__"):
            raise AttributeError(name)
        found = _conversation(self).ask("get", [self], name=name)
        if isinstance(found, CallableHandle):
            object.__setattr__(found, "_owner", self)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delattr", name)

    # -- questions of equality and truth are not the worker's
    def __eq__(self, other: object) -> bool:
        return alike(self, other)

    def __ne__(self, other: object) -> bool:
        return not alike(self, other)

    def __hash__(self) -> int:
        snapshot: Snapshot = _own(self, "_snapshot")
        return hash(snapshot.base[0]) if snapshot.base is not None else hash(snapshot.classes[0])

    def __bool__(self) -> bool:
        raise NotSplittable("the truth of an object of the package under test")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise NotSplittable("a copy of an object of the package under test")

    # -- questions with an answer of a given type
    def __len__(self) -> int:
        return int(_exactly(int, self, "len"))

    def __contains__(self, item: Any) -> bool:
        return bool(_exactly(bool, self, "contains", item))

    def __repr__(self) -> str:
        return str(_exactly(str, self, "repr"))

    def __str__(self) -> str:
        return str(_exactly(str, self, "str"))

    def __format__(self, how: str) -> str:
        return str(_exactly(str, self, "format", how))

    def __int__(self) -> int:
        return int(_exactly(int, self, "int"))

    def __index__(self) -> int:
        return int(_exactly(int, self, "index"))

    def __float__(self) -> float:
        return float(_exactly(float, self, "float"))

    def __bytes__(self) -> bytes:
        return bytes(_exactly(bytes, self, "bytes"))

    def __lt__(self, other: Any) -> bool:
        return bool(_exactly(bool, self, "lt", other))

    def __le__(self, other: Any) -> bool:
        return bool(_exactly(bool, self, "le", other))

    def __gt__(self, other: Any) -> bool:
        return bool(_exactly(bool, self, "gt", other))

    def __ge__(self, other: Any) -> bool:
        return bool(_exactly(bool, self, "ge", other))

    # -- everything else
    def __iter__(self) -> Iterator[Any]:
        return _items(_conversation(self), _ask(self, "iter"))

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __enter__(self) -> Any:
        return _ask(self, "enter")

    def __exit__(self, *error: Any) -> None:
        if error != (None, None, None):
            raise NotSplittable("an exception inside a context manager of the package under test")
        _ask(self, "exit")


class CallableHandle(Handle):
    """An object that can be called: a bound method, say."""

    __slots__ = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _conversation(self).call(self, args, kwargs)


def _operator(name: str, *, reflected: bool = False) -> Any:
    def operate(self: Handle, *others: Any) -> Any:
        args = [*others, self] if reflected else [self, *others]
        return _conversation(self).ask(name, args)

    return operate


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "xor", "lshift", "rshift")
for _name in _BINARY:
    setattr(Handle, f"__{_name}__", _operator(_name))
    setattr(Handle, f"__r{_name}__", _operator(_name, reflected=True))
for _name in ("and", "or"):
    setattr(Handle, f"__{_name}__", _operator(f"{_name}_"))
    setattr(Handle, f"__r{_name}__", _operator(f"{_name}_", reflected=True))
for _name in ("getitem", "setitem", "delitem", "neg", "pos", "abs", "invert", "round", "divmod", "reversed"):
    setattr(Handle, f"__{_name}__", _operator(_name))


def new(conversation: Conversation, number: int, snapshot: Snapshot) -> Handle:
    handle = (CallableHandle if snapshot.callable else Handle)()
    object.__setattr__(handle, "_conversation", conversation)
    object.__setattr__(handle, "_number", number)
    object.__setattr__(handle, "_owner", None)
    object.__setattr__(handle, "_snapshot", snapshot)
    return handle


def commit(handle: Handle, snapshot: Snapshot) -> None:
    object.__setattr__(handle, "_snapshot", snapshot)


def classes_of(handle: Handle) -> tuple[tuple[str, str], ...]:
    snapshot: Snapshot = _own(handle, "_snapshot")
    return snapshot.classes


def number_of(handle: Handle, asking: Conversation) -> int:
    """Its number in its worker. Raises ``NotSplittable`` where another worker would get it."""
    if _conversation(handle) is not asking:
        raise NotSplittable("an object of one worker was given to another")
    number: int = _own(handle, "_number")
    return number


def owner_of(handle: Handle) -> Handle | None:
    """The object that a bound method was taken from, which a call of it may change."""
    owner: Handle | None = _own(handle, "_owner")
    return owner


def alike(one: Handle, other: object) -> bool:
    """Whether two objects look alike, or an object and a builtin have the same value."""
    mine: Snapshot = _own(one, "_snapshot")
    if not isinstance(other, Handle):
        return mine.base is not None and bool(mine.base[0] == other)
    theirs: Snapshot = _own(other, "_snapshot")
    if mine.base is None and (not mine.state or not theirs.state):
        raise NotSplittable(f"a {mine.classes[0][1]} shows nothing by which it could be compared")
    return (mine.classes[0], mine.base, mine.state) == (theirs.classes[0], theirs.base, theirs.state)


def copy_back(mine: Sequence[Any], theirs: Any) -> None:
    """Make the arguments of a call what the call made of them."""
    if type(theirs) is not list or len(theirs) != len(mine):
        raise ValueError("arguments that were not given")
    for old, now in zip(mine, theirs, strict=True):
        if type(old) is type(now) and isinstance(old, list | bytearray):
            old[:] = now
        elif type(old) is type(now) and isinstance(old, dict | set):
            old.clear()
            old.update(now)


def _conversation(handle: Handle) -> Conversation:
    conversation: Conversation = _own(handle, "_conversation")
    return conversation


def _ask(handle: Handle, operation: str, *args: Any) -> Any:
    return _conversation(handle).ask(operation, [handle, *args])


def _exactly(kind: type, handle: Handle, operation: str, *args: Any) -> Any:
    answer = _ask(handle, operation, *args)
    if type(answer) is not kind:
        raise NotSplittable(f"{operation} of an object gave no {kind.__name__}")
    return answer


def _items(conversation: Conversation, iterator: Any) -> Iterator[Any]:
    if not isinstance(iterator, Handle):
        raise NotSplittable("iter of an object gave no iterator")
    while True:
        try:
            yield conversation.ask("next", [iterator])
        except StopIteration:
            return
