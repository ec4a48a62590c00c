"""One sandbox, from the owner's side: how its resident is replaced, and what is of the hub.

``recycle``, ``restore`` and ``snapshot`` replace the resident behind the object: the hub gets one
end of a new socket pair for the new one, the old connection is dropped.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from turnwise.sandbox.contract import SandboxDied, SandboxSpec, Snapshot
from turnwise.sandbox.egress import Egress
from turnwise.sandbox.ending import to_the_end
from turnwise.sandbox.namespaces.calls import FILE_DEADLINE, PROXY_PORT, ResidentSandbox, ShellState
from turnwise.sandbox.namespaces.link import Link, Reply
from turnwise.sandbox.namespaces.relay import Relay

if TYPE_CHECKING:
    from turnwise.sandbox.namespaces.backend import NamespacesBackend


class NamespacesSandbox(ResidentSandbox):
    def __init__(
        self, backend: NamespacesBackend, name: str, spec: SandboxSpec, shell_state: ShellState | None
    ) -> None:
        self.id, self.spec = name, spec
        self._backend = backend
        self._shell_state = shell_state
        self._relays: dict[str, Relay] = {}
        self._egress = Egress(spec.network, name=name)
        self._serving = contextlib.AsyncExitStack()
        """The proxy, while a resident has a listener for it."""

    async def replace(self, op: str, **arguments: Any) -> Reply:
        """Have the hub start another resident, and connect to it."""
        if self._closed:
            raise SandboxDied(f"sandbox {self.id} is closed")
        if self._link is not None:
            self._link.close(f"sandbox {self.id} started another episode ({op})")
        await self._serving.aclose()  # its listener would keep the old network namespace
        mine, theirs = socket.socketpair()
        self._link = Link(mine, f"sandbox {self.id}")
        ready = self._link.expect(0, FILE_DEADLINE, op)
        try:
            with theirs:
                reply = await self._backend.request(op, fds=[theirs.fileno()], box=self.id, **arguments)
            await ready
            if self.spec.network:
                await self._open_network()
        except BaseException as error:
            self._link.close(
                f"sandbox {self.id} could not be started again ({op}): {error or type(error).__name__}"
            )
            raise
        return reply

    # ------------------------------------------------------------ sockets
    async def expose(self, endpoint: Path, path: str) -> None:
        reply = await self._ask("expose", path=path)
        previous = self._relays.get(path)
        self._relays[path] = Relay(socket.socket(fileno=reply.fds[0]), endpoint)
        if previous is not None:
            await previous.close()

    async def _expose_again(self) -> None:
        """After the resident that bound them was replaced, the files being the same."""
        for path, relay in list(self._relays.items()):
            await self.expose(relay.endpoint, path)

    async def _unexpose(self) -> None:
        relays, self._relays = list(self._relays.values()), {}
        for relay in relays:
            await relay.close()

    async def _open_network(self) -> None:
        """Serve the proxy on the loopback of a new resident, before anything of the agent runs there."""
        variables = self._egress.variables(PROXY_PORT)
        reply = await self._ask("open_network", port=PROXY_PORT, variables=variables)
        await self._serving.enter_async_context(self._egress.serve(socket.socket(fileno=reply.fds[0])))

    # ------------------------------------------------------------ episodes
    async def snapshot(self) -> Snapshot:
        ended = await self._quiesce()
        name = self._backend.new_name("snapshot")
        try:
            reply = await self.replace("snapshot", snapshot=name)
        except BaseException:
            self._backend.abandon(name)
            raise
        self._backend.remember(name, self._shell_state)
        await self._expose_again()
        return Snapshot(name, self._backend.name, self.spec, reply.head["size"], ended)

    async def restore(self, snapshot: Snapshot) -> None:
        state = self._backend.recall(snapshot)
        await self.replace("replace", snapshot=snapshot.name)
        self._shell_state = state
        await self._expose_again()

    async def recycle(self) -> None:
        await self._unexpose()
        await self.replace("replace", snapshot=None)
        self._shell_state = None

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._link is not None:
            self._link.close(f"sandbox {self.id} is closed")
        await to_the_end(self._destroy())

    async def _destroy(self) -> None:
        await self._serving.aclose()
        await self._unexpose()
        await self._backend.destroy(self)
