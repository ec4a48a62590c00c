"""A command and its init: how it is started, and how all that it started is found and ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence

LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
KILLED = 128 + signal.SIGKILL
PATIENCE = 1.0
"""Seconds to kill all that a command started, one generation after the other."""
MANY = 1000
"""Processes that this may be: what goes on beyond both forks faster than it is killed. Of the seconds alone a
busy machine may need more."""
SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""A command meets none that is ignored: neither by Python, nor by what began us, as ``nohup`` does."""


def prctl(option: int, value: int) -> None:
    """Linux's ``prctl``; elsewhere nothing."""
    if LIBC:
        LIBC.prctl(option, *(ctypes.c_ulong(number) for number in (value, 0, 0, 0)))


def children() -> list[int]:
    """This process's children, orphans that came to it included. Elsewhere than on Linux: none."""
    found = []
    for name in os.listdir("/proc") if LIBC else []:
        with contextlib.suppress(ValueError, OSError), open(f"/proc/{int(name)}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def execute(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: str,
    limits: Mapping[str, int],
    become: Callable[[], None] = lambda: None,
) -> None:
    """Become the command, never to return; a failure is told as a shell tells it.

    ``become`` gives up what the command may not have.
    """
    code = 126
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for name, value in limits.items():
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (bound, bound))
        os.umask(0o022)
        become()
        os.chdir(cwd)
        os.execvpe(argv[0], [*argv], env)
    except OSError as error:
        code = 127 if isinstance(error, FileNotFoundError) else 126
        os.write(2, os.fsencode(f"sandbox: {argv[0]}: {error.strerror}\n"))
    finally:
        os._exit(code)


def kill_all(group: int, outrun: Callable[[], None] = lambda: None) -> int:
    """Kill a process group and every descendant, and reap them; returns how many there were.

    ``outrun`` is called when something forks faster than it is killed.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)  # at once for all: a fork bomb cannot outrun it
    ended, patience = 0, time.monotonic() + PATIENCE
    with contextlib.suppress(ChildProcessError):
        while True:
            if ended > MANY and time.monotonic() > patience:
                outrun()
            if not os.waitpid(-1, os.WNOHANG)[0]:
                for child in children():
                    kill(child, signal.SIGKILL)
                os.waitpid(-1, 0)  # its orphans are ours in the next round
            ended += 1
    return ended


def init(command: Callable[[], None], outrun: Callable[[], None] = lambda: None) -> tuple[int, int]:
    """Run a command until it ends or SIGTERM comes; (exit code, how many processes were killed).

    ``command`` becomes the command, in a child, as :func:`execute` does.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    signals = {signal.SIGCHLD, signal.SIGTERM}
    signal.signal(signal.SIGCHLD, lambda *_: None)  # some systems drop a signal ignored by default
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    main = os.fork()
    if main == 0:
        command()
    while signal.sigwait(signals) == signal.SIGCHLD:
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == main:
                code = os.waitstatus_to_exitcode(ended[1])
                return (code if code >= 0 else 128 - code), kill_all(main, outrun)
    return KILLED, kill_all(main, outrun)
