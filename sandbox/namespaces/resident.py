"""The resident: one per episode, it serves files, commands and the shell over one socket.

It is single-threaded around a selector. File operations take microseconds and are done at once;
commands and the shell only start here and are answered when they end. A request that fails is
answered with its error; the end of the stream (the owner let go, or died) ends the resident, and as
PID 1 of its namespace everything with it.
"""

from __future__ import annotations

import errno
import functools
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable

from turnwise.sandbox.namespaces import channel, search
from turnwise.sandbox.namespaces.cgroups import V1, V2, exhausted
from turnwise.sandbox.namespaces.channel import Connection, Head
from turnwise.sandbox.namespaces.files import WORKSPACE, Answer, Files, absolute, listen
from turnwise.sandbox.namespaces.jobs import KILLED, Job, Stream, when_children_end
from turnwise.sandbox.namespaces.process import Launcher, children, processes
from turnwise.sandbox.namespaces.shell import Shell


class Resident:
    def __init__(self, connection: Connection, launcher: Launcher, orders: Head, counters: list[int]) -> None:
        self._connection, self._launcher = connection, launcher
        self._output: int = orders["limits"]["output"]
        self._version = {1: V1, 2: V2, None: None}[orders["cgroup_version"]]
        self._counters, self._seen = counters, [0] * len(counters)
        self._selector = selectors.DefaultSelector()
        self._selector.register(connection, selectors.EVENT_READ, self._on_request)
        self._decoder = channel.Decoder()
        self._jobs: dict[int, Job] = {}
        self._shell: Shell | None = None
        when_children_end(self._selector, self._reap)
        self._proxy: dict[str, str] = {}
        files = Files()
        self._at_once: dict[str, Callable[[Head, bytes], Answer]] = {
            "read": files.read,
            "write": files.write,
            "write_tree": files.write_tree,
            "list": files.list_directory,
            "stat": files.stat,
            "delete": files.delete,
            "search": functools.partial(search.search, files),
            "read_tree": self._ended_first(files.read_tree),
            "quiesce": self._quiesce,
        }
        self._later = {"exec": self._exec, "shell": self._run_in_shell}

    # ------------------------------------------------------------ loop
    def run(self) -> None:
        while True:
            for key, _ in self._selector.select(self._patience()):
                if self._selector.get_map().get(key.fd) is key:  # not closed by one before it
                    key.data()
            self._look_after()

    def _look_after(self) -> None:
        """End what takes longer than it may."""
        now = time.monotonic()
        for job in self._jobs.values():
            if job.deadline is not None and job.deadline <= now:
                job.timed_out = True
                job.kill()

    def _patience(self) -> float | None:
        deadlines = [job.deadline for job in self._jobs.values() if job.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _on_request(self) -> None:
        if not self._decoder.receive(self._connection):
            os._exit(0)
        for head, body, _ in self._decoder.frames():
            self._answer(head, body)

    def _answer(self, head: Head, body: bytes) -> None:
        number, op = head["id"], head["op"]
        try:
            if op in self._at_once:
                self._send(number, *self._at_once[op](head, body))
            elif op == "expose":
                self._expose(head)
            elif op == "open_network":
                self._open_network(head)
            elif op == "cancel":
                self._cancel(head["target"])
            else:
                self._later[op](head, body)
        except Exception as error:  # noqa: BLE001  # every failure is the caller's to know
            channel.send(self._connection, {"id": number, "error": channel.describe(error)})

    def _send(self, number: int, head: Head, body: bytes) -> None:
        head["id"] = number
        channel.send(self._connection, head, body)

    # ------------------------------------------------------------ commands
    def _exec(self, head: Head, body: bytes) -> None:
        cwd = absolute(head["cwd"])
        if not stat.S_ISDIR(os.stat(cwd).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), cwd)
        stdin = _stdin(body)
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        try:
            usual = {**self._launcher.environment, **self._proxy}
            if head["user"] is not None:
                del usual["HOME"]  # the agent's
            env = {**usual, **head["env"]}
            pid = self._launcher.spawn(head["argv"], env, cwd, (stdin, out_end, err_end), head["user"])
        except Exception:
            os.close(out)
            os.close(err)
            raise
        finally:
            for fd in (stdin, out_end, err_end):
                os.close(fd)
        streams = [Stream(out, self._output), Stream(err, self._output)]
        self._start(head, Job(self._selector, pid, streams, self._on_end, self._launcher.ending))

    def _start(self, head: Head, job: Job) -> None:
        self._jobs[head["id"]] = job
        job.begin(functools.partial(self._send, head["id"]), head["seconds"])

    def _on_end(self, job: Job, code: int) -> None:
        self._forget(job)
        if self._shell is not None and self._shell.job is job:
            self._shell.close()
            self._shell = None
        job.finish(KILLED if job.timed_out else code, self._exhausted())

    def _reap(self) -> None:
        for job in self._running():
            job.reap(os.WNOHANG)

    def _running(self) -> list[Job]:
        """Every job, that of an idle shell included."""
        jobs = {job.pid: job for job in self._jobs.values()}
        if self._shell is not None:
            jobs[self._shell.job.pid] = self._shell.job
        return list(jobs.values())

    def _forget(self, job: Job) -> None:
        for number in [number for number, other in self._jobs.items() if other is job]:
            del self._jobs[number]

    def _exhausted(self) -> str | None:
        return exhausted(self._version, self._counters, self._seen) if self._version is not None else None

    def _run_in_shell(self, head: Head, _: bytes) -> None:
        if self._shell is not None and self._shell.busy:
            raise RuntimeError("a command is already running in the shell of this sandbox")
        if self._shell is None:
            cwd, env = head["state"] or (WORKSPACE, self._launcher.environment)
            env = {**self._proxy, **env}
            self._shell = Shell(
                self._launcher, self._selector, cwd, env, self._output, self._on_end, self._exhausted
            )
        job = self._shell.job
        self._forget(job)
        self._start(head, job)
        self._shell.run(head["command"])

    def _cancel(self, number: int) -> None:
        job = self._jobs.get(number)
        if job is not None and job.reply is not None:
            job.kill()
            job.reap()

    # ------------------------------------------------------------ the end of all of it
    def _end_processes(self) -> int:
        """Kill and reap every process of the agent; how many there were, inits and idle shell apart."""
        jobs = self._running()
        not_counted = {1, os.getpid(), *(job.pid for job in jobs)}
        if self._shell is not None and not self._shell.busy:
            not_counted |= {*children(self._shell.job.pid)[:1]}
        count = len(processes() - not_counted)
        for job in jobs:
            job.kill()
        for job in jobs:
            job.reap()
        return count

    def _quiesce(self, head: Head, body: bytes) -> Answer:
        """What a snapshot needs before: the shell's state, if it is idle, and no processes."""
        state = None
        try:
            if self._shell is not None and not self._shell.busy:
                state = self._shell.state(head["seconds"])
        finally:
            ended = self._end_processes()
        return {"state": state, "processes": ended}, b""

    def _ended_first(self, operation: Callable[[Head, bytes], Answer]) -> Callable[[Head, bytes], Answer]:
        def run(head: Head, body: bytes) -> Answer:
            self._end_processes()
            return operation(head, body)

        return run

    def _expose(self, head: Head) -> None:
        """Listen at a path and give the socket to the owner, who accepts on it."""
        with listen(absolute(head["path"])) as listener:
            channel.send(self._connection, {"id": head["id"]}, fds=[listener.fileno()])

    def _open_network(self, head: Head) -> None:
        """Listen on the loopback for the owner, who serves a proxy there, and tell commands of it."""
        self._proxy = head["variables"]
        with socket.create_server(("127.0.0.1", head["port"])) as listener:
            channel.send(self._connection, {"id": head["id"]}, fds=[listener.fileno()])


def _stdin(body: bytes) -> int:
    if not body:
        return os.open("/dev/null", os.O_RDONLY)
    fd = os.memfd_create("stdin")
    view = memoryview(body)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
