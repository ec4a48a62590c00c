"""The judge as a process, which :mod:`.nursery` forks.

Its owner sends one line, what to do; it answers with one line for everything that happens: a worker that
it wants, one it is done with, a report of pytest's, a note of a violation, the end.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import select
import socket
import sys
from collections import deque
from typing import Any

from turnwise.envs.swe.grading.judge import plugin
from turnwise.envs.swe.grading.judge.finder import Finder
from turnwise.envs.swe.grading.judge.link import Bounds, Link
from turnwise.envs.swe.grading.judge.rebuilt import Exceptions
from turnwise.envs.swe.grading.judge.session import Session

OPTIONS = (
    "-p",
    "no:cacheprovider",
    "--noconftest",
    "-c",
    "/dev/null",
    "-q",
    "--tb=short",
    "--strict-markers",
)

CONNECT_SECONDS = 60.0


class Control:
    """The line to the owner."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        with self._socket.makefile("r") as lines:
            self.orders: dict[str, Any] = json.loads(lines.readline())
        self.violated = False

    def say(self, **message: Any) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def waits_for(self, listener: socket.socket, seconds: float) -> bool:
        """Wait for somebody to connect; not in vain for an owner that is gone, whose line is at its end."""
        ready, _, _ = select.select([listener, self._socket], [], [], seconds)
        return listener in ready

    def note(self, violation: str) -> None:
        """What a worker did that none may do: the end of this grading."""
        self.violated = True
        self.say(note=violation)


class Workers:
    """Connections to workers, each on a socket of its own, so that none can stand in for another."""

    def __init__(self, control: Control, hello: dict[str, Any]) -> None:
        self._control, self._hello = control, hello
        self._names = itertools.count()
        self._coming: deque[tuple[str, socket.socket]] = deque()
        self._bounds = Bounds(**control.orders["bounds"])

    def want(self, count: int) -> None:
        """Ask for workers until so many are on their way."""
        while len(self._coming) < count:
            path = os.path.join(self._control.orders["sockets"], f"w{next(self._names)}")
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(1)
            self._coming.append((path, listener))
            self._control.say(want=path)

    def connect(self) -> Link:
        self.want(1)
        path, listener = self._coming.popleft()
        with listener:  # the first to connect is the worker; no other connection is taken
            if not self._control.waits_for(listener, CONNECT_SECONDS):
                raise TimeoutError("no worker came")
            connection, _ = listener.accept()
        self._control.say(connected=path)
        link = Link(connection, self._hello, self._bounds, self._control.note)
        link.on_close = lambda: self._control.say(done=path)
        return link

    def close(self) -> None:
        for _, listener in self._coming:
            listener.close()


def main(descriptor: str) -> None:
    control = Control(int(descriptor))
    orders = control.orders
    resource.setrlimit(resource.RLIMIT_AS, (orders["memory"], orders["memory"]))
    surface = {
        module: [(name, what, [tuple(place) for place in places]) for name, what, places in entries]
        for module, entries in orders["surface"].items()
    }
    sys.path += orders["libraries"]
    finder = Finder(orders["packages"], surface)
    hello = {"roots": orders["roots"], "classes": [*finder.public.values()]}
    workers = Workers(control, hello)
    exceptions: dict[tuple[str, str], type] = {}
    session = Session(workers.connect, Exceptions(exceptions))
    if orders["modules"] is not None:
        control.say(surface=session.current.surface(orders["modules"], orders["packages"]))
    else:
        exceptions |= finder.install(session)
        judge(control, session, workers)
    session.end()
    workers.close()
    control.say(finished=True)


def judge(control: Control, session: Session, workers: Workers) -> None:
    os.chdir(control.orders["tests"])
    sys.path.insert(0, control.orders["tests"])
    recorder = plugin.Recorder(session, workers.want, control, control.orders)
    plugin.run([*OPTIONS, f"--rootdir={control.orders['tests']}", *control.orders["files"]], recorder)
