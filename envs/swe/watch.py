"""What an agent has changed of its repository so far, without getting in its way.

Tools that edit say what they wrote. A command may have written anything, so after one the files' sizes and
times are listed and those that differ from the last list are read. That list is made by a program in the
agent's machine, which the agent could deceive; it would be shown a tree that it could as well have written.
What is handed in at the end is read in another way.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from turnwise.envs.swe.repository import LEFT_OUT
from turnwise.envs.swe.task import Changes
from turnwise.sandbox.contract import Sandbox

MOST_CHANGED = 500
"""Files that are looked at; an agent that changed more is not followed."""
LARGEST = 1 << 20
_SCAN_SECONDS = 20.0


@dataclass(slots=True)
class Watch:
    """The changes of one episode. ``changes`` holds every file written since the start, with what is in it
    now; it may be what was there before."""

    at: str
    changes: Changes = field(default_factory=dict)
    overrun: bool = False
    """There are more changes than are followed."""
    _stamps: dict[str, str] | None = None
    _stale: bool = False

    def wrote(self, path: str, data: bytes | None) -> None:
        """A tool has written a file, or removed it."""
        self.changes[path] = data

    async def before_command(self, sandbox: Sandbox) -> None:
        """Call it before a command of the agent's runs: what is there now is what it may change."""
        if self._stamps is None:
            self._stamps = await self._scan(sandbox) or {}
        self._stale = True

    async def refresh(self, sandbox: Sandbox) -> None:
        """Find out what commands have changed. An agent that has stopped its machine from answering is not
        followed until it answers again."""
        if not self._stale:
            return
        now = await self._scan(sandbox)
        if now is None or self._stamps is None:
            return
        self._stale = False
        different = _different(self._stamps, now)
        self._stamps = now
        self.overrun = self.overrun or len(different) > MOST_CHANGED
        for path in different[:MOST_CHANGED]:
            if path not in now:
                self.changes[path] = None
                continue
            try:
                self.changes[path] = await sandbox.read(posixpath.join(self.at, path), limit=LARGEST)
            except OSError:  # gone again, or closed to reading
                self.changes[path] = None

    async def _scan(self, sandbox: Sandbox) -> dict[str, str] | None:
        """Size and times of every file, by path; None where there is no answer."""
        names = [word for name in LEFT_OUT for word in ("-o", "-name", name)][1:]
        command = ["find", self.at, "(", *names, ")", "-prune", "-o", "-type", "f"]
        command += ["-size", f"-{LARGEST >> 10}k", "-printf", "%P\\0%s %T@ %C@\\0"]
        result = await sandbox.exec(command, cwd="/", timeout=_SCAN_SECONDS)
        failed = result.exit_code != 0 and not result.stdout
        if failed or result.timed_out or result.truncated or result.limit is not None:
            return None
        words = result.stdout.decode(errors="surrogateescape").split("\0")
        return dict(zip(words[::2], words[1::2], strict=False))


def _different(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return sorted(path for path in {*before, *now} if before.get(path) != now.get(path))
