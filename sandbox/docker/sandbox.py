"""One sandbox: a container, and another in its place after each ``restore`` and ``recycle``.

Replacing rather than cleaning is what isolation between episodes rests on. A snapshot leaves the container as
it is: the resident ends the agent's processes and packs what is writable.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.sandbox.contract import LimitExceeded, SandboxDied, SandboxError, SandboxSpec, Snapshot
from turnwise.sandbox.docker.frozen import Frozen
from turnwise.sandbox.docker.inside.tunnels import NETWORK
from turnwise.sandbox.docker.relay import Relay
from turnwise.sandbox.egress import Egress
from turnwise.sandbox.ending import to_the_end
from turnwise.sandbox.namespaces.calls import FILE_DEADLINE, PROXY_PORT, ResidentSandbox
from turnwise.sandbox.namespaces.files import absolute
from turnwise.sandbox.namespaces.link import Reply

if TYPE_CHECKING:
    from turnwise.sandbox.docker.backend import DockerBackend

ARCHIVE_DEADLINE = 120.0


class DockerSandbox(ResidentSandbox):
    def __init__(self, backend: DockerBackend, name: str, spec: SandboxSpec) -> None:
        self.id, self.spec = name, spec
        self._backend = backend
        self._container: str | None = None
        self._relay = Relay()
        self._serving = contextlib.ExitStack()
        self._proxy = Egress(spec.network, name=name)
        self._answer = self._serving.enter_context(self._proxy.answering()) if spec.network else None

    async def _ask(
        self, op: str, body: bytes = b"", *, timeout: float = FILE_DEADLINE, **arguments: Any
    ) -> Reply:
        try:
            return await super()._ask(op, body, timeout=timeout, **arguments)
        except SandboxDied:
            bound = None if self._closed else await self._backend.overstepped(self._container)
            if bound is None:
                raise
            raise LimitExceeded(bound, f"sandbox {self.id} used up its {bound}, and ended") from None

    # ------------------------------------------------------------ containers
    async def begin(self, frozen: Frozen | None = None) -> None:
        """Become what is frozen, or pristine, in a container of its own."""
        if frozen is None:
            await self._replace()
            return
        frozen.hold()
        try:
            endpoints = await self._replace()
            for entries, body in frozen.parts():
                await self._ask("unpack", body, entries=entries)
            self._shell_state = frozen.state
            for path, endpoint in endpoints.items():
                await self.expose(endpoint, path)
        finally:
            frozen.release()

    async def _replace(self) -> dict[str, Path]:
        """Another container. Returns what was exposed in the one before."""
        if self._closed:
            raise SandboxDied(f"sandbox {self.id} is closed")
        await self._relay.close()
        endpoints, self._relay = self._relay.endpoints, Relay()
        if self._link is not None:
            self._link.close(f"sandbox {self.id} started another container")
        if self._container is not None:
            self._backend.discard(self._container)
        self._container = self._backend.new_name("box")
        self._link = await self._backend.launch(self._container, self.spec, self._relay)
        self._shell_state = None
        if self._answer is not None:
            self._relay.endpoints[NETWORK] = self._answer
            variables = self._proxy.variables(PROXY_PORT)
            await self._ask("open_network", port=PROXY_PORT, variables=variables)
        return {path: endpoint for path, endpoint in endpoints.items() if isinstance(endpoint, Path)}

    async def restore(self, snapshot: Snapshot) -> None:
        if self._closed:
            raise SandboxDied(f"sandbox {self.id} is closed")
        await self.begin(self._backend.recall(snapshot))

    async def recycle(self) -> None:
        self._relay.endpoints.clear()
        await self.begin()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._link is not None:
            self._link.close(f"sandbox {self.id} is closed")
        await to_the_end(self._destroy())

    async def _destroy(self) -> None:
        await self._relay.close()
        self._serving.close()
        await self._backend.forget(self, self._container)

    # ------------------------------------------------------------ beyond one request
    async def snapshot(self) -> Snapshot:
        ended = await self._quiesce()
        frozen = Frozen(self._shell_state)
        try:
            reply = await self._ask("pack", timeout=ARCHIVE_DEADLINE, sink=frozen.add)
        except BaseException:
            frozen.release()
            raise
        return self._backend.remember(frozen, self.spec, reply.head["size"], ended)

    async def expose(self, endpoint: Path, path: str) -> None:
        path = absolute(path)
        self._relay.endpoints[path] = endpoint
        try:
            await self._ask("expose", path=path)
        except (OSError, SandboxError):
            del self._relay.endpoints[path]
            raise
