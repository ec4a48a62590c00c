"""Starting agent code in a container: an init of its own for each command, as root, and below it the agent.

The init is the subreaper of whatever the command starts, so nothing leaves its tree; the agent, who has
another uid and no capability, cannot signal it. What forks faster than it is killed is ended by one
``kill(-1)`` with the agent's uid, which misses nothing, but ends the sandbox's other commands too.

gVisor knows no subreapers. There each command is given a group that no other has, which nothing without a
capability can give up, and what has the group is what the command started.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import resource
import signal
import time
from collections.abc import Iterator, Mapping, Sequence

from turnwise.sandbox.namespaces import process, syscalls
from turnwise.sandbox.namespaces.accounts import Account
from turnwise.sandbox.namespaces.channel import Head, LimitError, UserError
from turnwise.sandbox.process.keeper import commands

AGENT_ID = 1000
FIRST_MARK = 1 << 20
FIRST_TO_GO = "1000"
"""The ``oom_score_adj`` of agent code: when memory runs out, it goes and not the resident."""


class Launcher(process.Launcher):
    agent = Account(AGENT_ID, AGENT_ID)
    ending = signal.SIGTERM

    def __init__(self, orders: Head) -> None:
        self._marks: Iterator[int] | None = None
        bounds: Head = {"many_ids": True, "cgroup_version": 0}
        if orders["gvisor"]:
            self._marks = itertools.count(FIRST_MARK)
            most = orders["limits"]["processes"] + 1  # when there is one too many, the resident ends them
            bounds |= {"cgroup_version": None, "limits": {**orders["limits"], "processes": most}}
        super().__init__({"without": ()}, {**orders, **bounds}, ())
        self.environment = {**process.ENVIRONMENT, **orders["env"]}

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        fds: Sequence[int],
        user: str | None = None,
    ) -> int:
        """The pid of a new init, whose command has ``fds`` as its files 0, 1, 2 and so on."""
        if user is not None:
            raise UserError(
                f"user: {user!r} is not possible in a container; the backend namespaces has others, as root"
            )
        if self._marks is not None:
            self.agent = self.agent._replace(groups=(next(self._marks),))
        try:
            pid = os.fork()
        except BlockingIOError as error:
            raise LimitError("processes", "the sandbox has no process left to start another with") from error
        if pid == 0:
            code = process.NOT_STARTED
            try:
                process.take_files(fds)
                command = functools.partial(commands.execute, argv, env, cwd, {}, self._become)
                code, _ = commands.init(command, self.end_agent)
                for mark in self.agent.groups:
                    self._end_marked(mark)
            except BaseException as error:  # noqa: BLE001  # this process has no caller but its exit status
                process.complain(error)
            finally:
                os._exit(code)
        return pid

    def _become(self) -> None:
        syscalls.set_file_ids(0, 0)
        with contextlib.suppress(OSError):  # not every runtime has it
            syscalls.write_file("/proc/self/oom_score_adj", FIRST_TO_GO)
        for kind, most in self._limits:
            resource.setrlimit(kind, (most, most))
        self._drop_privileges(self.agent)

    def _end_marked(self, mark: int) -> None:
        """Kill every process that has a group. A round that finds none has missed none: what a process
        begins is there before that process is gone."""
        seen: set[int] = set()
        patience = time.monotonic() + commands.PATIENCE
        while marked := [pid for pid in process.processes() if mark in _groups(pid)]:
            seen.update(marked)
            if len(seen) > commands.MANY and time.monotonic() > patience:
                self.end_agent()
            for pid in marked:
                commands.kill(pid, signal.SIGKILL)

    def end_agent(self) -> None:
        """Kill every process of the agent, at once."""
        effective, permitted = syscalls.capabilities()
        syscalls.set_capabilities(effective - {syscalls.CAP_KILL}, permitted)  # or it would kill all there is
        os.setresuid(AGENT_ID, AGENT_ID, 0)
        try:
            os.kill(-1, signal.SIGKILL)
        except OSError as error:
            if error.errno not in (errno.ESRCH, errno.EPERM):
                raise
        finally:
            os.setresuid(0, 0, 0)
            syscalls.set_file_ids(AGENT_ID, AGENT_ID)
            syscalls.set_capabilities(effective, permitted)


def _groups(pid: int) -> list[int]:
    """The supplementary groups of a process; none of one that has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
        if "Z" not in fields.get("State", "Z"):
            return [int(group) for group in fields["Groups"].split()]
    return []
