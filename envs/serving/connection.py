"""One client's WebSocket: its requests are read one after another and carried out side by side.

So a slow step holds up neither another session nor the reader, which has to answer pings. What was begun
goes on when the connection drops, and its reply waits for the client's return.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from turnwise.envs.serving.background import Background
from turnwise.envs.serving.faults import MAX_FRAME, Code, Refusal
from turnwise.envs.serving.lease import Lease, Leases
from turnwise.envs.serving.outbox import Outbox, in_turn
from turnwise.envs.serving.served_session import Principal
from turnwise.envs.serving.service import Service
from turnwise.envs.serving.wire import (
    FaultReply,
    Reply,
    Request,
    Welcome,
    read_request,
)

logger = logging.getLogger(__name__)

MAX_REPLY = 4 * MAX_FRAME
"""Bytes of one reply; a client takes in no more."""
MAX_PENDING = 4096
"""Requests of one client that may be running or waiting."""
GOODBYE = (WSCloseCode.OK, WSCloseCode.GOING_AWAY)
"""How a client closes on purpose."""


class Connection:
    """Serves a client from its welcome until either side closes."""

    def __init__(
        self,
        service: Service,
        leases: Leases,
        background: Background,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
    ) -> None:
        self._service, self._leases, self._background = service, leases, background
        self._socket, self._transport = socket, transport
        self._outbox = Outbox(socket, self.abort)

    async def run(self, caller: Principal, key: str | None) -> None:
        """``key`` is the lease's that the client comes back with."""
        lease = self._leases.attach(caller, key, self)
        welcome = Welcome(
            role=caller.role,
            session=None if caller.held is None else caller.held.name,
            patience=self._service.roster.patience,
            lease=lease.key,
            lease_seconds=self._leases.seconds,
            worker=self._service.roster.place.index,
            workers=self._service.roster.place.workers,
        )
        try:
            async with self._outbox:
                self._outbox.put(_encode(welcome))
                async for message in self._socket:
                    if lease.connection is not self:
                        break  # it came back by another one, where it has asked this again
                    await self._take(lease, message)
                    await self._outbox.room()
        finally:
            self._leases.detach(lease, self, for_good=self._socket.close_code in GOODBYE)

    async def _take(self, lease: Lease, message: WSMessage) -> None:
        if message.type is not WSMsgType.TEXT:
            self._refuse(Refusal(Code.INVALID_REQUEST, "the frame is not text"))
            return
        async for line in in_turn(message.data):
            try:
                request = read_request(line)
                if lease.pending >= MAX_PENDING and request.type != "close":
                    said = f"{lease.pending} requests of this client wait"
                    raise Refusal(Code.BUSY, said, request=request.id)
            except Refusal as refusal:
                self._refuse(refusal)
            else:
                lease.pending += 1
                self._background.start(self._answer(lease, request, hash(line)))

    def _refuse(self, refusal: Refusal) -> None:
        """Answer what was not carried out."""
        self._service.counters.refused("frame", refusal.fault)
        self._outbox.put(_encode(FaultReply(id=refusal.request, fault=refusal.fault)))

    async def _answer(self, lease: Lease, request: Request, mark: int) -> None:
        try:
            if request.type in ("attach", "records", "close"):  # change nothing twice
                reply = await self._carry_out(lease, request)
            else:
                ledger = lease.ledger(request.session)
                reply = await ledger.once(request.id, mark, lambda: self._carry_out(lease, request))
        except Refusal as refusal:
            reply = _encode(FaultReply(id=request.id, fault=refusal.fault))
        finally:
            lease.pending -= 1
        await self._outbox.send(reply, alone=lease.pending == 0)

    async def _carry_out(self, lease: Lease, request: Request) -> bytes:
        """The reply, ready to be sent and to be kept."""
        try:
            return _encode(await self._service.answer(lease.caller, request, lease))
        except Refusal as refusal:
            if not self._service.roster.knows(request.session):
                lease.ledgers.pop(request.session, None)  # nothing there to repeat
            return _encode(FaultReply(id=request.id, fault=refusal.fault))

    def abort(self) -> None:
        """Cut it, as a network does."""
        if self._transport is not None:
            self._transport.abort()


def _encode(message: Reply | Welcome) -> bytes:
    frame = message.__pydantic_serializer__.to_json(message)
    if len(frame) > MAX_REPLY and not isinstance(message, Welcome):
        said = f"the reply has {len(frame):,} bytes, more than {MAX_REPLY:,}"
        logger.error("%s: the environment must show less in one turn", said)
        refusal = Refusal(Code.INTERNAL, said)
        frame = _encode(FaultReply(id=message.id, fault=refusal.fault))
    return frame
