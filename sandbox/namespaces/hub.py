"""The hub: it holds every layer, keeps spares and starts and ends residents. It runs no agent code.

PID 1 of a private pid and mount namespace: when it dies the kernel ends every process in it and
drops every mount. Its root is a small tmpfs with the host's files below ``/host``. Requests are a few
milliseconds each and served one by one; what waits for the kernel (unmounting, removing cgroups)
and what can be prepared (spares) is done in the pauses between them.

As root it uses real ids, cgroups and id-mapped roots. As an ordinary user it is root of a user
namespace of its own with one id, and does without those three.
"""

from __future__ import annotations

import functools
import os
import resource
import select
import socket
from collections.abc import Callable

from turnwise.sandbox import seccomp
from turnwise.sandbox.namespaces import bases, channel, flatten
from turnwise.sandbox.namespaces.cgroups import Cgroups
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.episode import Episode
from turnwise.sandbox.namespaces.layers import Layer, hold, release
from turnwise.sandbox.namespaces.ranges import Pool
from turnwise.sandbox.namespaces.stage import Stage
from turnwise.sandbox.namespaces.syscalls import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    mount,
    pivot_root,
    remount_bind,
)

_FOLDERS = ["proc", "dev", "dev/pts", "usr", "layers", "bases"]
_FOLDERS += ["stage", "stage/proc", "stage/dev", "stage/usr", "stage/root"]
_DEVICES = ["null", "zero", "full", "random", "urandom", "tty"]
_DEVICE_LINKS = {
    "ptmx": "pts/ptmx",
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "shm": "/run/shm",
}
_MOST_LAYERS = 16
_MOST_CHORES = 100


class Box:
    """A sandbox: the slot in which one episode follows another."""

    def __init__(self, limits: Head, root: str | None) -> None:
        self.limits, self.root = limits, root
        self.episode: Episode | None = None


class Frozen:
    """A snapshot."""

    def __init__(self, limits: Head, root: str | None, layers: list[Layer]) -> None:
        self.limits, self.root, self.layers = limits, root, layers


class Hub:
    def __init__(self, connection: socket.socket, config: Head, cgroups: Cgroups | None) -> None:
        self._connection, self._config, self._cgroups = connection, config, cgroups
        self._is_root: bool = config["root"]
        self._pool = Pool(self._is_root)
        self._boxes: dict[str, Box] = {}
        self._snapshots: dict[str, Frozen] = {}
        self._spares: list[Episode] = []
        self._count = 0
        self._chores: list[Callable[[], bool]] = []
        self._decoder = channel.Decoder()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        seccomp.program()
        _make_root()
        self._stage = Stage(config)
        self._ops: dict[str, Callable[[Head, list[int]], Head]] = {
            "create": self._create,
            "replace": self._replace,
            "snapshot": self._snapshot,
            "drop": self._drop,
            "destroy": self._destroy,
            "cancel": lambda head, fds: {},
        }

    # ------------------------------------------------------------ the one mechanism
    def _start(
        self,
        limits: Head,
        root: str | None,
        lowers: list[Layer],
        connection: int,
        after: Episode | None = None,
    ) -> Episode:
        """An episode over ``lowers`` (top first) and a fresh layer, with the ids of its lineage.

        ``after`` is the killed one that wrote the topmost of them: it is gone before the new one runs.
        """
        episode = self._spares.pop(0) if self._spares else self._spare()
        ids = lowers[0].ids if lowers else self._pool.take()
        try:
            episode.fit(limits, root, lowers, ids)
            if after is not None:
                after.reap()
            episode.begin(connection)
        except BaseException:
            self._end(episode)
            raise
        return episode

    def _spare(self) -> Episode:
        return Episode(self._new_name(), self._stage, self._cgroups)

    def _new_name(self) -> str:
        self._count += 1
        return str(self._count)

    def _end(self, episode: Episode) -> None:
        """From here on it runs nothing; the rest is done in a pause."""
        episode.kill()
        self._chores.append(episode.clean)

    # ------------------------------------------------------------ requests
    def _create(self, head: Head, fds: list[int]) -> Head:
        """A sandbox: pristine, or with ``snapshot`` a fork of it."""
        if head["snapshot"]:
            frozen = self._snapshots[head["snapshot"]]
            box, lowers = Box(frozen.limits, frozen.root), frozen.layers
        else:
            box, lowers = Box(head["limits"], head["root"]), []
        box.episode = self._start(box.limits, box.root, lowers, fds[0])
        self._boxes[head["box"]] = box
        return {}

    def _replace(self, head: Head, fds: list[int]) -> Head:
        """A new episode in the same slot, built while the old one dies."""
        box, root = self._boxes[head["box"]], self._boxes[head["box"]].root
        lowers: list[Layer] = []
        if head["snapshot"]:
            frozen = self._snapshots[head["snapshot"]]
            root, lowers = frozen.root, frozen.layers
        old, box.episode = self._episode(box), None
        old.kill()
        try:
            box.episode = self._start(box.limits, root, lowers, fds[0])
        finally:
            self._end(old)
        return {}

    def _snapshot(self, head: Head, fds: list[int]) -> Head:
        """Freeze what an episode wrote: it becomes a lower layer, and the sandbox goes on above it."""
        box = self._boxes[head["box"]]
        old, box.episode = self._episode(box), None
        old.kill()
        layers = old.layers
        try:
            if len(layers) > _MOST_LAYERS:
                old.reap()
                layers = [self._flatten(box.limits, old.root, layers)]
            hold(layers)
            self._snapshots[head["snapshot"]] = Frozen(box.limits, old.root, layers)
        finally:
            try:
                box.episode = self._start(box.limits, old.root, layers, fds[0], after=old)
            finally:
                self._end(old)
        return {"size": sum(layer.used() for layer in layers)}

    def _flatten(self, limits: Head, root: str | None, layers: list[Layer]) -> Layer:
        merged = Layer(self._new_name())
        merged.fit(limits["disk"], layers[0].ids)
        try:
            parts = [layer.path + "/u" for layer in layers]
            flatten.merge(parts, merged.path + "/u", bases.source(root), user=not self._is_root)
        except OSError:
            merged.destroy()
            raise
        return merged

    def _drop(self, head: Head, fds: list[int]) -> Head:
        frozen = self._snapshots.pop(head["snapshot"])
        self._chores.append(functools.partial(_release, frozen.layers))
        return {}

    def _destroy(self, head: Head, fds: list[int]) -> Head:
        """End a sandbox; one that could not be created may be unknown."""
        box = self._boxes.pop(head["box"], None)
        episode = box.episode if box is not None else None
        if episode is not None:
            self._end(episode)
        return {}

    def _episode(self, box: Box) -> Episode:
        if box.episode is None:
            raise RuntimeError("this sandbox could not be started")
        return box.episode

    # ------------------------------------------------------------ loop
    def serve(self) -> None:
        """Requests first; spares and chores in the pauses, so long as there are pauses."""
        channel.send(self._connection, {"id": 0, "cgroups": self._cgroups is not None})
        waiting = False
        while True:
            spare_wanted = len(self._spares) < self._config["spares"]
            pause = 0.005 if waiting and not spare_wanted else 0.0
            idle = not select.select([self._connection], [], [], pause)[0]
            if idle and spare_wanted:
                self._spares.append(self._spare())
            elif self._chores and (idle or len(self._chores) > _MOST_CHORES):
                waiting = not self._do_chore()
            elif not self._decoder.receive(self._connection):
                return
            else:
                for head, _, fds in self._decoder.frames():
                    self._answer(head, fds)

    def _do_chore(self) -> bool:
        """The oldest chore; False when it has to wait for the kernel."""
        chore = self._chores.pop(0)
        done = chore()
        if not done:
            self._chores.append(chore)
        return done

    def _answer(self, head: Head, fds: list[int]) -> None:
        try:
            reply = self._ops[head["op"]](head, fds)
        except Exception as error:  # noqa: BLE001  # every failure is the owner's to know
            reply = {"error": channel.describe(error)}
        for fd in fds:
            os.close(fd)
        channel.send(self._connection, {"id": head["id"], **reply})


def _release(layers: list[Layer]) -> bool:
    release(layers)
    return True


def _make_root() -> None:
    """Move to a tmpfs of our own, with the host's files below /host and devices to hand out."""
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID, "mode=755,size=64m")
    os.mkdir("/tmp/host")
    pivot_root("/tmp", "/tmp/host")
    os.chdir("/")
    for name in _FOLDERS:
        os.mkdir("/" + name)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in _DEVICES:  # bound, as mknod is refused to a user namespace
        os.close(os.open(f"/dev/{name}", os.O_CREAT, 0o666))
        mount(f"{bases.HOST}/dev/{name}", f"/dev/{name}", None, MS_BIND)
        remount_bind(f"/dev/{name}", MS_RDONLY | MS_NOSUID | MS_NOEXEC)
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    bases.make_skeleton()
