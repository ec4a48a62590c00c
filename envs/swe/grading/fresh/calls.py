"""What the package's tests give to its functions: ``bootstrap.py fresh.calls ORDERS``, in a sandbox.

It runs pytest and looks at every call. Of a function at the top of a module it keeps some inputs, where they
can be written down; of every function or method, which of those led to it.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from inspect import CO_OPTIMIZED, CO_VARARGS, CO_VARKEYWORDS
from types import CodeType, FrameType
from typing import Any

from turnwise.envs.swe.grading.fresh.values import written

MOST_SEEN = 32
"""Inputs of one function."""
MOST_READ = 2_000
"""Its calls that are looked at."""
MOST_TRACED = 100
"""Calls of a function whose callers are looked at."""
DEEPEST = 60
"""Callers that are looked at."""


class Watch:
    """Looks at calls. ``modules`` are the package's, by their files."""

    def __init__(self, modules: dict[str, str]) -> None:
        self._modules = modules
        self._places: dict[CodeType, tuple[str, str] | None] = {}
        self._read: Counter[CodeType] = Counter()
        self.seen: dict[str, dict[str, None]] = {}
        self.led: dict[str, set[str]] = {}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call":
            return
        place = self._place(frame.f_code)
        if place is None or self._read[frame.f_code] >= MOST_READ:
            return
        self._read[frame.f_code] += 1
        module, name = place
        entry = f"{module}:{name}"
        if _is_entry(name) and len(known := self.seen.setdefault(entry, {})) < MOST_SEEN:
            text = written(_arguments(frame))
            if text is not None:
                known[text] = None
        if self._read[frame.f_code] <= MOST_TRACED:
            self._trace(frame, entry)

    def _trace(self, frame: FrameType, entry: str) -> None:
        led = self.led.setdefault(entry, set())
        caller: FrameType | None = frame
        for _ in range(DEEPEST):
            if caller is None:
                return
            place = self._place(caller.f_code)
            if place is not None and _is_entry(place[1]):
                led.add(":".join(place))
            caller = caller.f_back

    def _place(self, code: CodeType) -> tuple[str, str] | None:
        """Module and name of the function at the top, or method, that code belongs to."""
        if code not in self._places:
            module = self._modules.get(os.path.realpath(code.co_filename))
            name = code.co_qualname
            ours = module is not None and code.co_flags & CO_OPTIMIZED and not name.startswith("<")
            self._places[code] = (str(module), name) if ours else None
        return self._places[code]


def _is_entry(name: str) -> bool:
    return "." not in name and not name.startswith("_")


def _arguments(frame: FrameType) -> tuple[list[Any], dict[str, Any]]:
    code, known = frame.f_code, frame.f_locals
    names = list(code.co_varnames)
    place = code.co_argcount
    args = [known[name] for name in names[:place]]
    kwargs = {name: known[name] for name in names[place : place + code.co_kwonlyargcount]}
    place += code.co_kwonlyargcount
    if code.co_flags & CO_VARARGS:
        args += known[names[place]]
        place += 1
    if code.co_flags & CO_VARKEYWORDS:
        kwargs |= known[names[place]]
    return args, kwargs


def main(orders_path: str) -> None:
    with open(orders_path) as file:
        orders = json.load(file)
    sys.path.insert(0, orders["site"])
    import pytest

    watch = Watch(orders["modules"])
    sys.setprofile(watch)
    pytest.main(["-p", "no:cacheprovider", "-p", "no:terminal", "--rootdir=.", *orders["files"]])
    sys.setprofile(None)
    told = {
        "seen": {name: list(texts) for name, texts in watch.seen.items() if texts},
        "led": {name: sorted(entries) for name, entries in watch.led.items()},
    }
    with open(orders["out"], "w") as file:
        json.dump(told, file)
    os._exit(0)
