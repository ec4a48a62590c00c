"""OpenEnv's two WebSockets: ``/ws``, which resets and steps, and ``/mcp``, which speaks JSON-RPC.

One connection is one session, for as long as it lasts, or attaches to one made over HTTP. Frames are
carried out one after another in their order, and each has one reply. A ping is answered by whoever reads,
and must be while a step takes long: so from the first frame that waits for anything, reading is a task of
its own. Where none does, a frame costs no change of tasks.
The handshake always succeeds; what is refused is refused by a frame afterwards, and the close is held until
the client said something or has had the time to, since an old client that finds the socket closed before
its first frame does not read why.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import AsyncExitStack
from typing import Any

from aiohttp import WSMessage, WSMsgType, web
from pydantic import ValidationError
from pydantic_core import from_json, to_json

from turnwise.envs.openenv.messages import (
    FRAMES,
    McpFrame,
    ResetFrame,
    StateFrame,
    StepFrame,
    problems,
    read_action,
)
from turnwise.envs.openenv.mount import Mount
from turnwise.envs.openenv.player import Player, Unplayable
from turnwise.envs.openenv.rpc import SERVER_ERROR, RpcFailure, counts, crowded, no_place, parse, read
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.outbox import SEND_SECONDS
from turnwise.envs.serving.served_session import Owner, Principal
from turnwise.envs.within import Overdue, go_on, within

logger = logging.getLogger(__name__)

HOLD_SECONDS = 3.0
"""How long a refused client has before the socket is closed."""
AHEAD = 32
"""Frames that are read before their turn; beyond, the client waits."""


class Fatal(Exception):
    """What ends a connection; ``code`` is one of OpenEnv's."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.code, self.more = code, more


class Socket(ABC):
    """One connection. Subclasses say how it is talked."""

    def __init__(
        self,
        mount: Mount,
        caller: Principal,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
    ) -> None:
        self.mount, self.caller = mount, caller
        self._socket, self._transport = socket, transport
        self._owner = Owner()

    @abstractmethod
    async def answer(self, player: Player, text: str) -> dict[str, Any] | None:
        """The reply to a frame; None ends the connection. Raises :class:`Fatal`."""

    @abstractmethod
    def refusal(self, fatal: Fatal) -> dict[str, Any]:
        """The frame that says why the connection ends."""

    async def run(self, attach_to: str | None) -> None:
        """Serve it until either side closes; its session is the one to attach to, or a new one."""
        async with AsyncExitStack() as stack:
            try:
                player = await self._enter(stack, attach_to)
            except Fatal as fatal:
                await self._send(self.refusal(fatal))
                await self._hold()
                return
            await self._serve(player)
        await self._socket.close()

    async def _enter(self, stack: AsyncExitStack, attach_to: str | None) -> Player:
        if attach_to:
            try:
                return await stack.enter_async_context(
                    self.mount.directory.attach(attach_to, self.mount.offer)
                )
            except ValueError as error:
                raise Fatal("SESSION_ERROR", str(error)) from None
        stack.push_async_callback(self.mount.service.roster.leave, self._owner)
        try:
            return await Player.open(self.mount.service, self.caller, self.mount.offer, self._owner)
        except Refusal as refusal:
            if refusal.fault.code is Code.BUSY:
                raise Fatal(
                    "CAPACITY_REACHED", crowded(self.mount.service), **counts(self.mount.service)
                ) from None
            if refusal.fault.code is Code.INTERNAL:
                message = f"Failed to create environment from factory: {self.mount.offer.name}"
                raise Fatal("FACTORY_ERROR", message, factory_name=self.mount.offer.name) from None
            raise Fatal("SESSION_ERROR", str(refusal)) from None

    async def _serve(self, player: Player) -> None:
        async for message in self._socket:
            work = self._carry_out(player, message)
            try:
                waits_for = work.send(None)
            except StopIteration as done:
                if done.value:
                    continue
            else:
                await self._serve_beside(player, go_on(work, waits_for))
            return

    async def _serve_beside(self, player: Player, work: Awaitable[bool]) -> None:
        """The same with a reader beside, beginning with work that waits."""
        inbox: asyncio.Queue[WSMessage | None] = asyncio.Queue(AHEAD)
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._read(inbox))
            while await work and (message := await inbox.get()) is not None:
                work = self._carry_out(player, message)
            reader.cancel()

    async def _read(self, inbox: asyncio.Queue[WSMessage | None]) -> None:
        """Feed the inbox. When the client is gone, what runs for it alone is called off."""
        async for message in self._socket:
            await inbox.put(message)
        await self.mount.service.roster.leave(self._owner)
        await inbox.put(None)

    async def _carry_out(self, player: Player, message: WSMessage) -> bool:
        """Answer a frame; whether to go on."""
        try:
            if message.type is not WSMsgType.TEXT:
                raise Fatal("SESSION_ERROR", "the frame is not text")
            reply = await self.answer(player, message.data)
        except Fatal as fatal:
            await self._send(self.refusal(fatal))
            return False
        if reply is not None:
            await self._send(reply)
        return reply is not None

    async def _hold(self) -> None:
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                await self._socket.receive()
        except TimeoutError:
            pass
        await self._socket.close()

    async def _send(self, reply: dict[str, Any]) -> None:
        """Send it, unless the client is gone, which the reader learns as well."""
        sending = self._socket.send_frame(to_json(reply, inf_nan_mode="null"), WSMsgType.TEXT)
        try:
            await within(SEND_SECONDS, sending)
        except ConnectionError:
            return
        except Overdue:
            logger.warning("A client took in nothing for %g s and is given up", SEND_SECONDS)
            if self._transport is not None:
                self._transport.abort()


class GymSocket(Socket):
    """``/ws``: frames with a type."""

    async def answer(self, player: Player, text: str) -> dict[str, Any] | None:
        """Carry out a frame. What is wrong with it, or in the environment, is said in an ``error``."""
        try:
            return await self._answer(player, text)
        except ValidationError as error:
            return _error("VALIDATION_ERROR", "Invalid message", errors=problems(error))
        except (Refusal, Unplayable) as failure:
            return _error("EXECUTION_ERROR", str(failure))
        except Fatal:
            raise
        except Exception:
            logger.exception("A frame for %s failed", self.mount.offer.name)
            return _error("EXECUTION_ERROR", "the server failed")

    async def _answer(self, player: Player, text: str) -> dict[str, Any] | None:
        try:
            given = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            return _error("INVALID_JSON", f"Invalid JSON: {error}")
        if not isinstance(given, dict):
            raise Fatal("SESSION_ERROR", "the frame is not an object")
        kind = given.get("type", "")
        model = FRAMES.get(kind) if isinstance(kind, str) else None
        if model is None:
            return _error("UNKNOWN_TYPE", f"Unknown message type: {kind}")
        frame = model.model_validate(given)
        match frame:
            case StepFrame():
                result = await player.step(read_action(frame.data))
                return {"type": "observation", "data": result}
            case ResetFrame():
                return {"type": "observation", "data": await player.reset(frame.data)}
            case StateFrame():
                return {"type": "state", "data": await player.state()}
            case McpFrame():
                return {"type": "mcp", "data": await self._rpc(player, frame.data)}
            case _:
                return None

    async def _rpc(self, player: Player, data: dict[str, Any]) -> dict[str, Any]:
        try:
            request = read(data)
        except RpcFailure as failure:
            return failure.reply()
        return await self.mount.rpc.answer(self.caller, request, player)

    def refusal(self, fatal: Fatal) -> dict[str, Any]:
        """An ``error`` frame."""
        return _error(fatal.code, str(fatal), **fatal.more)


class McpSocket(Socket):
    """``/mcp``: bare JSON-RPC."""

    async def answer(self, player: Player, text: str) -> dict[str, Any] | None:
        """Carry out a request."""
        try:
            request = read(parse(text))
        except RpcFailure as failure:
            return failure.reply()
        return await self.mount.rpc.answer(self.caller, request, player)

    def refusal(self, fatal: Fatal) -> dict[str, Any]:
        """An error without an id."""
        if fatal.code == "CAPACITY_REACHED":
            return no_place(self.mount.service).reply()
        return RpcFailure(SERVER_ERROR, str(fatal), fatal.more or None).reply()


def _error(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code, **more}}
