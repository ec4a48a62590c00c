"""Where an environment's sandboxes come from, and what state they start in.

An episode has one sandbox of its own. What an environment does beside it, such as running tests on a
copy of the agent's files, takes place in others that it leases for a moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from turnwise.sandbox.contract import Backend, Sandbox, SandboxSpec, Snapshot


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a pristine sandbox is brought to where episodes start; done once for all of a key and a spec."""

    key: str
    work: Callable[[Sandbox], Awaitable[None]]


class SandboxSource(Protocol):
    """Where sessions get their sandboxes from."""

    async def acquire(self, spec: SandboxSpec, preparation: Preparation | None = None) -> Sandbox:
        """A sandbox for an episode, pristine or prepared. Raises what the preparation raises."""
        ...

    async def fork(self, sandbox: Sandbox, count: int) -> list[Sandbox]:
        """Copies of a sandbox, which goes on itself."""
        ...

    async def release(self, sandbox: Sandbox) -> None:
        """Take one back."""
        ...

    async def drop(self, snapshot: Snapshot) -> None:
        """Forget a snapshot of a sandbox."""
        ...

    async def backend(self) -> Backend:
        """Where they come from, for work that owns sandboxes of its own and closes them."""
        ...

    def lease(
        self, spec: SandboxSpec, preparation: Preparation | None = None
    ) -> AbstractAsyncContextManager[Sandbox]:
        """A sandbox beside the episode's own, for the length of a block.

        These come from a pool apart, so that episodes that each hold one never wait for each other; who
        has leased one leases no second before it is given back.
        """
        ...
