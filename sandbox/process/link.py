"""The owner's end of the keeper's socket: many requests at once, each answered by its number."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from typing import Any

from turnwise.sandbox.contract import SandboxDied, SandboxError
from turnwise.sandbox.process.keeper.serve import frame, unframe

GRACE = 30.0
"""Seconds the keeper gets beyond a command's own timeout, on a machine that is badly overloaded."""

Reply = tuple[Mapping[str, Any], bytes]


class Link(asyncio.Protocol):
    """One connection to the keeper. When it is lost, everybody who waits learns so at once."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.waiting: dict[int, asyncio.Future[Reply]] = {}
        self.numbers = itertools.count(1)
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while taken := unframe(self.buffer):
            waiter = self.waiting.pop(taken[0]["id"], None)
            if waiter and not waiter.done():
                waiter.set_result(taken)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        for waiter in self.waiting.values():
            if not waiter.done():
                waiter.set_exception(SandboxDied("the keeper of the process backend has ended"))
        self.waiting.clear()

    async def call(self, op: str, body: bytes = b"", /, *, timeout: float, **fields: object) -> Reply:
        """Send a request and await its answer; cancelled, it cancels what was asked for.

        Raises :class:`SandboxDied` when the keeper is gone or silent, :class:`SandboxError` when the
        machine refused it what it needs.
        """
        if self.transport is None:
            raise SandboxDied("the keeper of the process backend has ended")
        number = next(self.numbers)
        waiter = self.waiting[number] = asyncio.get_running_loop().create_future()
        self.transport.write(frame({"id": number, "op": op, "timeout": timeout, **fields}, body))
        try:
            async with asyncio.timeout(timeout + GRACE):
                head, content = await waiter
        except TimeoutError:
            raise SandboxDied(f"the keeper did not answer {op} within {timeout + GRACE:g} s") from None
        finally:
            if self.waiting.pop(number, None) and self.transport is not None:
                self.transport.write(frame({"id": 0, "op": "cancel", "target": number}))
        if "failure" in head:
            raise SandboxError(f"this machine could not {op}: {head['failure']}")
        return head, content

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
