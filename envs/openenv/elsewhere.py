"""Calls for a session that another worker of this server has: it is known by the session's id.

JSON-RPC over HTTP names its session in the body, which who passed the connection on did not see.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from turnwise.envs.openenv.messages import RpcRequest
from turnwise.envs.serving.routing import leads_to
from turnwise.envs.serving.served_session import Principal
from turnwise.envs.serving.siblings import Siblings
from turnwise.envs.serving.wire import Role
from turnwise.envs.types import Model

if TYPE_CHECKING:
    from turnwise.envs.openenv.mount import Mount


class Relayed(Model):
    """A call as one worker passes it on to another."""

    path: str
    """Of the environment's mount."""
    role: Role
    """Of the caller, whose token the first worker looked at."""
    request: RpcRequest


class Elsewhere:
    """Passes calls on, and answers those that were passed on to this worker."""

    def __init__(self, siblings: Siblings) -> None:
        self.mounts: dict[str, Mount] = {}
        """The environments by path."""
        self._siblings = siblings
        siblings.answer_call = self._answer_relayed

    async def answer(self, path: str, caller: Principal, request: RpcRequest) -> dict[str, Any] | None:
        """The other worker's reply; None where the call is this one's, or the other is down and with it the
        session."""
        worker = leads_to(request.params.get("session_id"))
        if worker is None or not self._siblings.has(worker):
            return None
        relayed = Relayed(path=path, role=caller.role, request=request)
        reply = await self._siblings.call(worker, relayed.model_dump_json())
        return from_json(reply) if reply else None

    async def _answer_relayed(self, line: str) -> bytes:
        relayed = Relayed.model_validate_json(line)
        reply = await self.mounts[relayed.path].rpc.answer(Principal(relayed.role), relayed.request)
        return to_json(reply, inf_nan_mode="null")
