"""The persistent shell: one process that evaluates command after command.

The resident puts a script into a memory file (file 5 of the shell), writes a token to a pipe (3) and
gets the token back on another (4) with the exit status, so a command costs no process start and its
output can look like anything. Commands run with those files closed. They could still reach them
through /proc, as they are the shell: agent code can fake the status of its own command or end it
early, but a status without the token of the command now running is ignored.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import shlex
import time
from collections.abc import Callable, Mapping

from turnwise.sandbox.namespaces.channel import ShellError
from turnwise.sandbox.namespaces.jobs import Ended, Job, Stream
from turnwise.sandbox.namespaces.process import Launcher

_STATE = '{ /usr/bin/env -0 2>/dev/null || { export -p; printf "\\0"; }; printf %s "$PWD"; } >/proc/self/fd/5'
_LOOP = (
    'while IFS= read -r __token <&3; do if [ "$__token" = state ]; then {state}; else {run}; fi; '
    'echo "$__token $?" >&4; done'
)
_RUN = {
    "/bin/bash": 'IFS= read -r -d "" __script </proc/self/fd/5; eval "$__script" 3<&- 4>&- 5<&-',
    "/bin/sh": ". /proc/self/fd/5 3<&- 4>&-",
}

Exhausted = Callable[[], str | None]
"""Tells the resource that ran out since it was asked last, if one did."""


class Shell:
    """A running shell. ``job`` ends when the shell does."""

    def __init__(
        self,
        launcher: Launcher,
        selector: selectors.BaseSelector,
        cwd: str,
        env: Mapping[str, str],
        limit: int,
        ended: Ended,
        exhausted: Exhausted,
    ) -> None:
        program = next((path for path in _RUN if os.path.exists(path)), "/bin/sh")
        loop = _LOOP.replace("{state}", _STATE).replace("{run}", _RUN[program])
        self._script = os.memfd_create("script")
        null = os.open("/dev/null", os.O_RDONLY)
        (output, printed), (commands, self._commands), (self._statuses, statuses) = (
            os.pipe(),
            os.pipe(),
            os.pipe(),
        )
        theirs = (null, printed, printed, commands, statuses, self._script)
        pid = launcher.spawn([program, "-c", loop], env, cwd, theirs)
        for fd in (null, printed, commands, statuses):
            os.close(fd)
        self._selector, self._exhausted = selector, exhausted
        self._token, self._partial = "", b""
        self.job = Job(selector, pid, [Stream(output, limit)], ended, launcher.ending)
        os.set_blocking(self._statuses, False)
        selector.register(self._statuses, selectors.EVENT_READ, self._on_status)

    @property
    def busy(self) -> bool:
        return self.job.reply is not None

    def run(self, script: str) -> None:
        """Start a command; the job is answered when its status comes."""
        self._write(script.encode(errors="surrogateescape") + b"\n")
        self._tell(os.urandom(8).hex())

    def _write(self, data: bytes) -> None:
        os.ftruncate(self._script, 0)
        os.pwrite(self._script, data, 0)

    def _tell(self, token: str) -> None:
        self._token = token
        with contextlib.suppress(BrokenPipeError):  # it has ended; the job's end answers
            os.write(self._commands, token.encode() + b"\n")

    def _status(self) -> int | None:
        """The exit status for the current token, if it has come; -1 once the shell has ended."""
        try:
            data = os.read(self._statuses, 4096)
        except BlockingIOError:
            return None
        if not data:
            self._forget_statuses()
            return -1
        *lines, self._partial = (self._partial + data).split(b"\n")
        self._partial = self._partial[-256:]
        for line in lines:
            token, _, status = line.partition(b" ")
            if token.decode(errors="replace") == self._token and status.isdigit():
                return int(status[:3])
        return None

    def _on_status(self) -> None:
        status = self._status()
        if status is not None and status >= 0 and self.busy:
            self._token = ""
            self.job.finish(status, self._exhausted())

    def state(self, seconds: float) -> tuple[str, dict[str, str]] | None:
        """Working directory and exported variables of an idle shell; None of one that has ended.

        Raises :class:`ShellError` when it does not tell them, or not in so many seconds.
        """
        self._write(b"")
        self._tell("state")
        waiting = select.poll()
        waiting.register(self._statuses, select.POLLIN)
        end = time.monotonic() + seconds
        status = None
        while status is None and (left := end - time.monotonic()) > 0 and waiting.poll(1000 * left):
            status = self._status()
        if status == -1:
            return None
        if status is None:
            raise ShellError(f"the shell did not tell its directory and variables in {seconds:g} s")
        if status != 0:
            raise ShellError(f"the shell could not tell its directory and variables (status {status})")
        *variables, cwd = os.fsdecode(os.pread(self._script, 1 << 22, 0)).split("\0")
        if len(variables) == 1 and variables[0].startswith("export "):  # where there is no env
            variables = shlex.split(variables[0])
        pairs = (variable.partition("=") for variable in variables if "=" in variable)
        return cwd, {name: value for name, _, value in pairs}

    def close(self) -> None:
        self._forget_statuses()
        for fd in (self._statuses, self._commands, self._script):
            os.close(fd)

    def _forget_statuses(self) -> None:
        if self._statuses in self._selector.get_map():
            self._selector.unregister(self._statuses)
