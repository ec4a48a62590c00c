"""How much memory the environments of sessions hold in this process, as far as closing them would free it.

The collector of garbage knows what every object refers to. From what outlives each session (the modules, the
environments' classes, the server itself) everything is marked that can be reached without passing through
a session or through work in progress: tasks that sessions share, caches, code. What can then still be reached
from a session's environment, its snapshots and its running tool is the session's. What two of them hold, as
forks do, counts for the one that was opened first; so all weights together are never more than there is.

Numbers are Python's own (``sys.getsizeof``), with the data of arrays and tensors; what a library keeps beside
its objects is not in them. Memory may be short now, so an object is marked by one byte for the 16 bytes of
addresses that it begins in, which takes a tenth of a set of addresses. A large one is kept until all is
weighed, so that nothing takes its place meanwhile and passes for it. The walk is made in the event loop, a
millisecond between two turns of it, or as long as the last turn took, so that it keeps up with who is busy
taking memory. From a thread it would hold the interpreter's lock for longer at a time.
"""

from __future__ import annotations

import asyncio
import gc
import math
import sys
import time
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from turnwise.envs.session import Session

STRETCH = 0.001
"""Seconds of walking between two turns of the event loop, at least."""
BATCH = 256
"""Objects between two looks at the clock."""
PASSING = (
    Session,
    asyncio.Future,
    types.CoroutineType,
    types.GeneratorType,
    types.AsyncGeneratorType,
    types.FrameType,
    types.TracebackType,
)
"""What is reached through these is not shared: they end with a session or a call."""
LARGE = 64 << 10
"""Bytes of an object that is kept until all is weighed."""
OF_C = (types.MethodDescriptorType, types.WrapperDescriptorType)


async def weigh(sessions: Sequence[Session], shared: Iterable[object], enough: float = math.inf) -> list[int]:
    """Bytes that each session holds; where that is more than ``enough``, at least so many. What can be
    reached from ``shared``, from a module or from an environment's class is nobody's."""
    everything = [session.held() for session in sessions]
    scales = _Scales()
    weights = [scales.put(held) for held in everything]
    classes = {type(one) for held in everything for one in held}
    await scales.walk([sys.modules, *classes, *shared], math.inf, through_passing=False)
    for number, held in enumerate(everything):
        weights[number] += await scales.walk(gc.get_referents(*held), enough)
    return weights


@dataclass(frozen=True, slots=True)
class _Kind:
    """How objects of a type are weighed."""

    size: Callable[[Any], int]
    entered: bool
    """Whether what one refers to belongs to it."""
    passing: bool
    more: Callable[[Any], Sequence[object]] | None
    """What one holds without the collector's knowledge."""


class _Scales:
    """Weighs objects, each once."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        """By MiB of addresses."""
        self._kinds: dict[type, _Kind] = {}
        self._kept: list[object] = []
        self._until = time.perf_counter() + STRETCH
        """When others have their turn."""

    def put(self, objects: Iterable[object]) -> int:
        """Mark these alone; their bytes."""
        return sum(self._size(one, kind) for one, kind in self._new(objects))

    async def walk(self, roots: Iterable[object], enough: float, *, through_passing: bool = True) -> int:
        """Mark what is reached from here and was not before; its bytes. Ends where that is enough."""
        pending, size = list(roots), 0
        while pending and size <= enough:
            batch = pending[-BATCH:]
            del pending[-BATCH:]
            entered = []
            for one, kind in self._new(batch):
                size += self._size(one, kind)
                if kind.entered and (through_passing or not kind.passing):
                    entered.append(one)
                    if kind.more is not None:
                        pending += kind.more(one)
            pending += gc.get_referents(*entered)
            if (began := time.perf_counter()) > self._until:
                await asyncio.sleep(0)
                now = time.perf_counter()
                self._until = now + max(STRETCH, now - began)
        return size

    def _size(self, one: object, kind: _Kind) -> int:
        size = kind.size(one)
        if size >= LARGE:
            self._kept.append(one)
        return size

    def _new(self, objects: Iterable[object]) -> list[tuple[object, _Kind]]:
        pages, kinds, new = self._pages, self._kinds, []
        for one in objects:
            place = id(one) >> 4
            page = pages.get(place >> 16)
            if page is None:
                page = pages[place >> 16] = bytearray(1 << 16)
            if not page[place & 0xFFFF]:
                page[place & 0xFFFF] = 1
                kind = kinds.get(type(one))
                if kind is None:
                    kind = kinds[type(one)] = _kind(type(one))
                new.append((one, kind))
        return new


def _kind(kind: type) -> _Kind:
    """Asks the type alone: an object may answer for itself whatever it likes, and do anything meanwhile."""
    size: Callable[[Any], int] = _own_size
    more: Callable[[Any], Sequence[object]] | None = None
    torch = sys.modules.get("torch")  # imported by whoever has tensors
    if issubclass(kind, np.ndarray):
        more = _behind
    elif issubclass(kind, getattr(torch, "Tensor", ())):
        more = _storage
    elif issubclass(kind, getattr(torch, "UntypedStorage", ())):
        size = _in_storage
    elif not isinstance(type.__getattribute__(kind, "__sizeof__"), OF_C):
        size = object.__sizeof__  # a method in Python may count what it refers to as well, or fail
    entered = not issubclass(kind, asyncio.AbstractEventLoop)
    return _Kind(size, entered, issubclass(kind, PASSING), more)


def _own_size(one: object) -> int:
    try:
        return sys.getsizeof(one)
    except Exception:  # noqa: BLE001  whatever an object answers that cannot say, others are weighed
        return 0


def _behind(array: np.ndarray[Any, Any]) -> Sequence[object]:
    """What an array is a view of, and its objects."""
    objects = list(array.flat) if array.dtype == object else []
    return [array.base, *objects]


def _storage(tensor: Any) -> Sequence[object]:
    try:
        return [tensor.untyped_storage()]
    except (NotImplementedError, RuntimeError):
        return []  # a sparse one, or one without memory


def _in_storage(storage: Any) -> int:
    return int(storage.nbytes()) if storage.device.type == "cpu" else 0
