"""Starting agent code: an init of its own for each command, then no way back to any privilege.

A command runs under *exec-init*, PID 1 of a nested pid namespace with a /proc that shows only it:
the resident and other commands cannot even be named, a signal to PID 1 reaches only this init, and
killing it kills all the command started, daemons included. exec-init drops every privilege before
it starts the command, so nothing the agent can reach has more than the agent has.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
from collections.abc import Mapping, Sequence

from turnwise.sandbox import seccomp
from turnwise.sandbox.namespaces import accounts, syscalls
from turnwise.sandbox.namespaces.accounts import Account
from turnwise.sandbox.namespaces.channel import Head, UserError
from turnwise.sandbox.namespaces.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, NEWNS, NEWPID

RESIDENT_CAPABILITIES = {
    syscalls.CAP_SYS_ADMIN,  # clone into namespaces and mount their /proc
    syscalls.CAP_SETUID,
    syscalls.CAP_SETGID,
    syscalls.CAP_SETPCAP,  # empty the bounding set
    syscalls.CAP_KILL,  # end commands, which have another uid
}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}
NOT_FOUND, NOT_STARTED = 127, 126
_MOST_FILES = (1 << 31) - 1
_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
"""A command meets none that is ignored: neither by Python, nor by what began us, as ``nohup`` does."""


class Launcher:
    """Starts commands. ``joins`` are files to write "0" to, to be in the episode's cgroup."""

    agent = Account(accounts.AGENT_ID, accounts.AGENT_ID)
    ending = signal.SIGKILL
    """What ends an init and everything below it."""
    environment: Mapping[str, str] = ENVIRONMENT
    """What a command has, and more where it is told."""

    def __init__(self, config: Head, orders: Head, joins: Sequence[int]) -> None:
        self._joins = joins
        self._without = frozenset(config["without"])
        self._many_ids: bool = orders["many_ids"]
        self._limits = _rlimits(orders["limits"], orders["cgroup_version"] is not None)
        self._filter = seccomp.program()

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        fds: Sequence[int],
        user: str | None = None,
    ) -> int:
        """The pid of a new exec-init, whose command has ``fds`` as its files 0, 1, 2 and so on.

        It is the agent's, or that of a user who is looked up. Raises :class:`UserError` where ids for such
        are not to be had.
        """
        if user is not None and not self._many_ids:
            raise UserError(f"user: {user!r} needs user ids of its own for each sandbox: run as root")
        nested = "nested_pid" not in self._without
        pid = syscalls.clone(NEWPID | NEWNS if nested else NEWNS)
        if pid == 0:
            try:
                self._init(argv, env, cwd, fds, user, nested)
            except BaseException as error:  # noqa: BLE001  # this process has no caller but its exit status
                complain(error)
            finally:
                os._exit(NOT_STARTED)
        return pid

    def _init(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str,
        fds: Sequence[int],
        user: str | None,
        nested: bool,
    ) -> None:
        for fd in self._joins:
            os.write(fd, b"0")
        if nested:
            syscalls.mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        os.setsid()
        take_files(fds)
        for kind, most in self._limits:
            resource.setrlimit(kind, (most, most))
        account = self.agent if user is None else accounts.find(user)
        if account.home is not None:
            env = {"HOME": account.home, **env}
        self._drop_privileges(account)
        os.chdir(cwd)
        os.environ["PATH"] = env.get("PATH", "")  # where posix_spawnp looks
        try:
            child = os.posix_spawnp(argv[0], [*argv], env, setsigdef=_SIGNALS)
        except FileNotFoundError as error:
            complain(error)
            os._exit(NOT_FOUND)
        os.closerange(0, len(fds))
        while True:  # reap whatever the command leaves behind, until it ends itself
            pid, status = os.waitpid(-1, 0)
            if pid == child:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)

    def _drop_privileges(self, account: Account) -> None:
        keep_capabilities = "capabilities" in self._without
        kept = account.capabilities
        if not keep_capabilities:
            never_again = syscalls.SECURE_NOROOT | syscalls.SECURE_NO_SETUID_FIXUP | syscalls.SECURE_LOCKED
            syscalls.set_securebits(0 if kept else never_again)
            syscalls.drop_bounding_set(kept)
        if self._many_ids:
            os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
        if "no_new_privs" not in self._without:
            syscalls.set_no_new_privs()
        if "seccomp" not in self._without:
            syscalls.set_seccomp(self._filter)
        if not keep_capabilities:
            syscalls.set_capabilities(kept, kept)
        syscalls.set_dumpable("dumpable" in self._without)  # execve sets it again


def take_files(fds: Sequence[int]) -> None:
    """Have these open files as 0, 1, 2 and so on, and no other."""
    signal.set_wakeup_fd(-1)  # the resident's
    above = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
    for number, fd in enumerate(above):
        os.dup2(fd, number, inheritable=True)
    os.closerange(len(fds), _MOST_FILES)


def _rlimits(limits: Head, cgroup: bool) -> list[tuple[int, int]]:
    """Bounds each process has. Without a cgroup they are all there is against memory and fork bombs.

    Of memory that is the writable private part: address space as such (``RLIMIT_AS``) is reserved by
    the gigabyte, and not used, by the runtimes of Go, Java and JavaScript.
    """
    bounds = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 4096),
        (resource.RLIMIT_FSIZE, limits["file_size"]),
    ]
    if not cgroup:
        bounds += [(resource.RLIMIT_DATA, limits["memory"]), (resource.RLIMIT_NPROC, limits["processes"])]
    return [(kind, _at_most(kind, most)) for kind, most in bounds]


def _at_most(kind: int, most: int) -> int:
    """An ordinary user cannot raise a hard limit."""
    hard = resource.getrlimit(kind)[1]
    return most if hard == resource.RLIM_INFINITY else min(most, hard)


def processes() -> set[int]:
    """All that are in sight."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def children(parent: int) -> list[int]:
    """Those of a process, the oldest first. Each is asked, as gVisor has no list of them."""
    found = []
    for pid in sorted(processes()):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == parent:
                found.append(pid)
    return found


def complain(error: BaseException) -> None:
    """On the command's standard error, as a shell would."""
    text = (
        f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
    )
    os.write(2, f"sandbox: {text}\n".encode(errors="replace"))
