"""For every test: code that runs in an event loop may not block it.

A coroutine that blocks stalls every other episode. How long it blocks depends on the machine, so nothing
is timed here: the standard library's blocking calls are replaced, for the session, by ones that fail at
once where the calling thread runs an event loop and the call would wait. They still work in threads
(``asyncio.to_thread``) and in tests that are not async.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import io
import os
import select
import selectors
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, to make as to try, depends on the machine.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=2000, help="Requests of each fuzz test, for a long run.")


Call = tuple[Any, ...]
"""The positional arguments of a call, ``self`` first where it is a method."""


def always(call: Call, options: dict[str, Any]) -> bool:
    return True


def still_running(call: Call, options: dict[str, Any]) -> bool:
    process: subprocess.Popen[Any] = call[0]
    return process.poll() is None


def alive(call: Call, options: dict[str, Any]) -> bool:
    thread: threading.Thread = call[0]
    return thread.is_alive()


def unset(call: Call, options: dict[str, Any]) -> bool:
    event: threading.Event = call[0]
    return not event.is_set()


def blocking_socket(call: Call, options: dict[str, Any]) -> bool:
    sock: socket.socket = call[0]
    return sock.gettimeout() != 0


def waits_for_child(call: Call, options: dict[str, Any]) -> bool:
    return not call[1] & os.WNOHANG


def waits_for_events(call: Call, options: dict[str, Any]) -> bool:
    return options.get("timeout", call[-1] if isinstance(call[-1], int | float) else None) != 0


def pipe_without_partner(call: Call, options: dict[str, Any]) -> bool:
    """Opening a named pipe waits for the other end, unless told not to."""
    flags = call[1] if len(call) > 1 and isinstance(call[1], int) else 0
    if isinstance(call[0], int) or flags & os.O_NONBLOCK:
        return False
    try:
        return stat.S_ISFIFO(os.stat(call[0]).st_mode)
    except OSError:
        return False


BLOCKING: list[tuple[Any, str, Callable[[Call, dict[str, Any]], bool]]] = [
    (time, "sleep", always),
    (os, "system", always),
    (os, "wait", always),
    (os, "waitpid", waits_for_child),
    (os, "open", pipe_without_partner),
    (io, "open", pipe_without_partner),
    (builtins, "open", pipe_without_partner),
    (subprocess, "run", always),
    (subprocess, "call", always),
    (subprocess.Popen, "wait", still_running),
    (subprocess.Popen, "communicate", still_running),
    (threading.Thread, "join", alive),
    (threading.Event, "wait", unset),
    (threading.Condition, "wait", always),
    (socket, "getaddrinfo", always),
    (select, "select", waits_for_events),
    (selectors.DefaultSelector, "select", waits_for_events),
    *(
        (socket.socket, name, blocking_socket)
        for name in ("connect", "accept", "recv", "recv_into", "recvfrom")
    ),
]


def guarded(name: str, original: Callable[..., Any], waits: Callable[[Call, dict[str, Any]], bool]) -> Any:
    """The call, failing the test where it would block a running event loop."""

    @functools.wraps(original)
    def call(*args: Any, **options: Any) -> Any:
        if asyncio._get_running_loop() is not None and waits(args, options):
            caller = sys._getframe(1).f_globals.get("__name__", "").partition(".")[0]
            if caller not in ("asyncio", "threading"):  # the loop's own waiting, a thread's own starting
                pytest.fail(
                    f"{name} blocks the event loop: await its asyncio counterpart or asyncio.to_thread"
                )
        return original(*args, **options)

    return call


@pytest.fixture(scope="session", autouse=True)
def no_blocking_calls() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for owner, name, waits in BLOCKING:
            label = f"{owner.__name__}.{name}"
            patch.setattr(owner, name, guarded(label, getattr(owner, name), waits))
        yield
