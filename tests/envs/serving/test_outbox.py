"""What is to be sent: nobody waits for what is not sent any more."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from turnwise.envs.serving.faults import MAX_FRAME
from turnwise.envs.serving.outbox import Outbox

if TYPE_CHECKING:
    from aiohttp import WSMsgType


class Mute:
    """A socket that takes in nothing."""

    async def send_frame(self, message: bytes, opcode: WSMsgType) -> None:
        await asyncio.Event().wait()


async def test_who_waits_for_room_goes_on_when_the_connection_ends_before_it_began() -> None:
    outbox = Outbox(Mute(), lambda: None)
    outbox.put(bytes(MAX_FRAME + 1))
    async with asyncio.timeout(120), outbox:
        pass
    async with asyncio.timeout(120):
        await outbox.room()
