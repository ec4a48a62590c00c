"""The docker backend: the Engine, the images and the leases that its sandboxes share."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import logging
import socket
from typing import Any

from turnwise.sandbox.contract import (
    TOOLING,
    Backend,
    Limits,
    MiB,
    Probe,
    Resource,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    Snapshot,
)
from turnwise.sandbox.docker import engine, kit, probing, runtimes
from turnwise.sandbox.docker.engine import Engine
from turnwise.sandbox.docker.frozen import Frozen
from turnwise.sandbox.docker.images import Image, Images
from turnwise.sandbox.docker.relay import Relay
from turnwise.sandbox.docker.sandbox import DockerSandbox
from turnwise.sandbox.docker.wire import PieceDecoder
from turnwise.sandbox.namespaces.channel import Head
from turnwise.sandbox.namespaces.link import Link

logger = logging.getLogger(__name__)

READY_DEADLINE = 60.0
SWEEP_EVERY = 30.0
"""Seconds between looks at what owners that ended have left."""
OWN = ("/workspace", TOOLING)
"""The agent's own directories; it shares the other writable ones."""
SHARES = {"/workspace": 12, "/tmp": 3, "/dev/shm": 1}
"""How many sixteenths of the disk limit may be written to which directory."""
TOOLING_SIZE = 64 * MiB
"""Bytes of tooling beside that."""
CAPABILITIES = ["SETUID", "SETGID", "SETPCAP", "KILL", "DAC_READ_SEARCH", "CHOWN"]
"""The resident's; see :mod:`turnwise.sandbox.docker.inside.main`."""


class DockerBackend(Backend):
    """A variant is named for a runtime of the Engine's, as ``docker:runsc`` is."""

    name = "docker"
    runtime: str | None = None
    """None is the Engine's default."""

    def __init__(self) -> None:
        self._kernel = runtimes.LINUX
        self._engine: Engine | None = None
        self._images: Images | None = None
        self._names = itertools.count(1)
        self._containers: set[str] = set()
        """All that are ours to remove, those that are just being made included."""
        self._starting: dict[str, asyncio.Task[socket.socket]] = {}
        self._boxes: set[DockerSandbox] = set()
        self._snapshots: dict[str, Frozen] = {}
        self._removing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    @classmethod
    def probe(cls) -> Probe:
        return probing.probe(cls.name, cls.runtime)

    @classmethod
    def variant(cls, name: str) -> type[Backend]:
        return _of_runtime(name)

    @classmethod
    def variants(cls) -> tuple[str, ...]:
        return probing.variants(cls.name)

    # ------------------------------------------------------------ life
    async def start(self) -> None:
        self._engine = Engine(await asyncio.to_thread(engine.connect, engine.DEADLINE))
        self._images = Images(self._engine, self.new_name)
        try:
            info = await self._engine.call(lambda client: client.info())
            self._kernel = runtimes.kernel(info, self.runtime)
            await self._sweep()
        except BaseException:
            await self.close()
            raise
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="docker sweeper")

    async def close(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        async with asyncio.TaskGroup() as tasks:
            for box in list(self._boxes):
                tasks.create_task(box.close())
        if self._images is not None:
            await self._images.close()
        while self._removing:
            await asyncio.wait(self._removing)
        for frozen in self._snapshots.values():
            frozen.release()
        self._snapshots.clear()
        if self._engine is not None:
            self._engine.close()
            self._engine = self._images = None

    # ------------------------------------------------------------ sandboxes
    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A pristine sandbox.

        Raises ``ValueError`` for an image that the Engine lacks, ``OSError`` for a root that is no directory.
        """
        return await self._open(spec, None)

    async def fork(self, snapshot: Snapshot) -> Sandbox:
        return await self._open(snapshot.spec, self.recall(snapshot))

    async def _open(self, spec: SandboxSpec, frozen: Frozen | None) -> Sandbox:
        box = DockerSandbox(self, self.new_name("sandbox"), spec)
        self._boxes.add(box)
        try:
            await box.begin(frozen)
        except BaseException:
            await box.close()
            raise
        return box

    async def launch(self, name: str, spec: SandboxSpec, relay: Relay) -> Link:
        """Start a container and connect to its resident. However that ends, :meth:`discard` removes it."""
        running, images = self._running()
        image = await images.of(spec)
        options = self._options(spec, image)
        self._containers.add(name)
        starting = asyncio.create_task(running.call(engine.start, name, image.name, options))
        self._starting[name] = starting
        connection = await asyncio.shield(starting)
        if self._starting.pop(name, None) is None:
            raise SandboxDied(f"sandbox {name} was closed while it started")
        link = Link(connection, f"sandbox {name}", PieceDecoder(), relay.hear)
        relay.link = link
        ready = link.expect(0, READY_DEADLINE, "start")
        limits = dataclasses.asdict(spec.limits)
        gvisor = self._kernel is runtimes.GVISOR
        writable = [*SHARES, TOOLING]
        link.post("begin", limits=limits, env=_environment(image), writable=writable, own=OWN, gvisor=gvisor)
        try:
            await ready
        except BaseException:
            link.close(f"sandbox {name} could not be started")
            raise
        return link

    async def forget(self, box: DockerSandbox, container: str | None) -> None:
        """For a sandbox that closes: remove its container."""
        self._boxes.discard(box)
        if container is not None:
            await self.discard(container)

    def discard(self, container: str) -> asyncio.Task[None]:
        """Remove a container, also when nobody waits for it."""
        task = asyncio.create_task(self._remove(container))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)
        return task

    async def overstepped(self, container: str | None) -> Resource | None:
        """The bound that ended a container, ``memory`` or ``processes``, if one did."""
        if container is None or self._engine is None:
            return None
        with contextlib.suppress(SandboxError):
            return await self._engine.call(engine.overstepped, container, self._kernel)
        return None

    def _options(self, spec: SandboxSpec, image: Image) -> dict[str, Any]:
        """The arguments of the docker package's ``create_container``."""
        running, _ = self._running()
        return {
            "entrypoint": kit.command(image.own_interpreter),
            "command": [],
            "user": "0:0",
            "working_dir": "/",
            "hostname": "sandbox",
            "stdin_open": True,
            **({"healthcheck": {"test": ["NONE"]}} if image.checked else {}),
            "labels": running.labels,
            "host_config": {**_confinement(spec.limits, self._kernel), "runtime": self.runtime},
        }

    # ------------------------------------------------------------ snapshots
    def remember(self, frozen: Frozen, spec: SandboxSpec, size: int, processes_ended: int) -> Snapshot:
        snapshot = Snapshot(self.new_name("snapshot"), self.name, spec, size, processes_ended)
        self._snapshots[snapshot.name] = frozen
        return snapshot

    def recall(self, snapshot: Snapshot) -> Frozen:
        """A snapshot's content. Raises ``ValueError`` for one that was dropped or is another backend's."""
        self._running()
        if snapshot.backend != self.name or snapshot.name not in self._snapshots:
            raise ValueError(f"snapshot: {snapshot.name!r} was dropped or is of another backend")
        return self._snapshots[snapshot.name]

    async def drop(self, snapshot: Snapshot) -> None:
        self.recall(snapshot).release()
        del self._snapshots[snapshot.name]

    # ------------------------------------------------------------ what is left behind
    def new_name(self, kind: str) -> str:
        running, _ = self._running()
        return f"turnwise-{kind}-{running.lease.rpartition('/')[2]}-{next(self._names)}"

    async def _sweep(self) -> None:
        running, _ = self._running()
        removed = await running.call(engine.sweep, running.lease, self._owns)
        if removed:
            logger.info("Removed containers that their owners had left: %s", ", ".join(removed))

    def _owns(self, name: str) -> bool:
        return name in self._containers or "-build-" in name

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            try:
                await self._sweep()
            except SandboxError as error:  # it is being restarted, say
                logger.warning("Could not look for containers left behind: %s", error)

    async def _remove(self, container: str) -> None:
        running, _ = self._running()
        starting = self._starting.pop(container, None)
        if starting is not None:  # whoever wanted it was cancelled; once begun it comes to its end
            await asyncio.wait([starting])
            if starting.exception() is None:
                starting.result().close()
        try:
            await running.call(engine.remove_once_ended, container)
        except SandboxError as error:
            logger.warning("Container %s is left to the next sweep: %s", container, error)
        finally:
            self._containers.discard(container)

    def _running(self) -> tuple[Engine, Images]:
        if self._engine is None or self._images is None:
            raise SandboxDied("the docker backend is not running: start() it first")
        return self._engine, self._images


@functools.cache
def _of_runtime(name: str) -> type[DockerBackend]:
    class OfRuntime(DockerBackend):
        runtime = name

    OfRuntime.name = f"{DockerBackend.name}:{name}"
    return OfRuntime


def _confinement(limits: Limits, kernel: runtimes.Kernel) -> Head:
    """What a container may not do and not exceed, as the docker package names it."""
    memory = limits.memory + kernel.memory
    disk = min(limits.disk, limits.memory) // 16  # what is written counts as memory
    sizes = {path: share * disk for path, share in SHARES.items()} | {TOOLING: TOOLING_SIZE}
    return {
        "network_mode": "none",
        "ipc_mode": "private",
        "read_only": True,
        "init": True,
        "cap_drop": ["ALL"],
        "cap_add": CAPABILITIES,
        "security_opt": ["no-new-privileges"],
        "mem_limit": memory,
        "memswap_limit": memory,
        "pids_limit": (limits.processes + kernel.processes) * kernel.threads,
        "nano_cpus": max(int(limits.cpus * 1e9), 10_000_000),
        "tmpfs": {path: _tmpfs(path, size) for path, size in sizes.items()},
        "log_config": {"type": "none", "config": {}},
    }


def _tmpfs(path: str, size: int) -> str:
    return f"rw,exec,nosuid,nodev,size={size},mode={'755' if path in OWN else '1777'}"


def _environment(image: Image) -> dict[str, str]:
    """What commands have beyond the usual: the image's own, and a home that can be written to."""
    return {**image.environment, "HOME": "/tmp"}
