"""JSON-RPC 2.0 as OpenEnv speaks it to MCP's clients: list the tools, call one, make and close a session.

``initialize`` and ``ping`` are not there, as they are not on OpenEnv's own server. A call runs in the
session that is named, in that of the socket it came by, or in one made for it alone.
"""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from turnwise.envs.openenv.aside import Aside
from turnwise.envs.openenv.directory import Directory
from turnwise.envs.openenv.messages import CallToolAction, RpcRequest
from turnwise.envs.openenv.offer import Offer, Result
from turnwise.envs.openenv.player import Player, Unplayable
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.served_session import Owner, Principal
from turnwise.envs.serving.service import Service
from turnwise.envs.session import EpisodeFailed
from turnwise.sandbox.contract import SandboxError

logger = logging.getLogger(__name__)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000

Reply = dict[str, Any]


class RpcFailure(Exception):
    """A request that is answered with an error."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data

    def reply(self, number: str | int | None = None) -> Reply:
        """The answer to the request of that id."""
        error = {"code": self.code, "message": str(self), "data": self.data}
        return {"jsonrpc": "2.0", "id": number, "error": error}


def parse(text: str | bytes) -> Any:
    """JSON of a text. Raises :class:`RpcFailure`."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise RpcFailure(PARSE_ERROR, f"Parse error: {error}") from None


def read(data: object) -> RpcRequest:
    """A request of its JSON. Raises :class:`RpcFailure`."""
    try:
        return RpcRequest.model_validate(data, strict=True)
    except ValidationError as error:
        raise RpcFailure(INVALID_REQUEST, f"Invalid request: {error}") from None


def no_place(service: Service) -> RpcFailure:
    """What a caller is told whom there is no place for."""
    return RpcFailure(SERVER_ERROR, crowded(service), counts(service))


def crowded(service: Service) -> str:
    """The same in words."""
    places = service.roster.sessions
    return f"Server at capacity: {places}/{places} sessions active. Cannot accept new connections."


def counts(service: Service) -> dict[str, int]:
    """The same in numbers."""
    return {"active_sessions": service.roster.sessions, "max_sessions": service.roster.sessions}


class Rpc:
    """Answers the requests for one environment. See the module."""

    def __init__(self, service: Service, offer: Offer, directory: Directory, aside: Aside) -> None:
        self._service, self._offer, self._directory, self._aside = service, offer, directory, aside

    async def answer(self, caller: Principal, request: RpcRequest, own: Player | None = None) -> Reply:
        """The reply to a request; ``own`` is the session of the socket that it came by."""
        try:
            result = await self._result(caller, request, own)
        except RpcFailure as failure:
            return failure.reply(request.id)
        except (Refusal, Unplayable, EpisodeFailed, SandboxError) as failure:
            return RpcFailure(INTERNAL_ERROR, str(failure)).reply(request.id)
        except Exception:
            logger.exception("A request %s failed", request.method)
            return RpcFailure(INTERNAL_ERROR, "the server failed").reply(request.id)
        return {"jsonrpc": "2.0", "id": request.id, "result": result}

    async def _result(self, caller: Principal, request: RpcRequest, own: Player | None) -> dict[str, Any]:
        match request.method:
            case "openenv/session/create":
                return {"session_id": (own or await self._create(caller)).id}
            case "openenv/session/close":
                return await self._close(caller, request.params, own)
            case "tools/list":
                self._player(request.params, own)
                return {"tools": [_listed(tool) for tool in self._offer.listed()["observation"]["tools"]]}
            case "tools/call":
                return await self._call(caller, request.params, own)
            case other:
                raise RpcFailure(METHOD_NOT_FOUND, f"Method not found: {other}")

    async def _create(self, caller: Principal) -> Player:
        _only_trainer(caller)
        try:
            return await self._directory.create(caller, self._offer)
        except Refusal as refusal:
            if refusal.fault.code is Code.BUSY:
                raise no_place(self._service) from None
            raise RpcFailure(SERVER_ERROR, str(refusal), {"factory_name": self._offer.name}) from None

    async def _close(self, caller: Principal, params: dict[str, Any], own: Player | None) -> dict[str, Any]:
        name = params.get("session_id")
        if not name:
            raise RpcFailure(INVALID_PARAMS, "Invalid params - 'session_id' is required")
        if own is not None and name == own.id:
            raise RpcFailure(INVALID_REQUEST, "Cannot close active WebSocket-managed session via MCP method")
        _only_trainer(caller)
        closed = await self._directory.close(name)
        if closed is None:
            raise RpcFailure(INVALID_PARAMS, f"Unknown session_id: {name}")
        return {"session_id": name, "closed": closed, **({} if closed else {"closing": True})}

    async def _call(self, caller: Principal, params: dict[str, Any], own: Player | None) -> dict[str, Any]:
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str) or not name:
            raise RpcFailure(INVALID_PARAMS, "Missing 'name' in params")
        action = CallToolAction(tool_name=name, arguments=arguments)
        player = self._player(params, own)
        if player is not None:
            return _called(await player.call(action))
        if caller.held is not None:
            agents = await Player.open(self._service, caller, self._offer, Owner())
            return _called(await agents.call(action))
        return _called(await self._aside.step(self._offer, action))

    def _player(self, params: dict[str, Any], own: Player | None) -> Player | None:
        """The session that is meant; None for one made for the call alone."""
        name = params.get("session_id")
        if own is not None or not name:
            return own
        player = self._directory.find(name, self._offer)
        if player is None:
            raise RpcFailure(INVALID_PARAMS, f"Unknown session_id: {name}")
        return player


def _only_trainer(caller: Principal) -> None:
    if caller.role != "trainer":
        raise RpcFailure(SERVER_ERROR, "an agent may not make or close sessions")


def _listed(tool: dict[str, Any]) -> dict[str, Any]:
    return {"name": tool["name"], "description": tool["description"], "inputSchema": tool["input_schema"]}


def _called(result: Result) -> dict[str, Any]:
    """A tool's result as MCP has it; OpenEnv's client takes ``data`` of it."""
    observation = result["observation"]
    if observation["error"] is not None:
        raise RpcFailure(INTERNAL_ERROR, observation["error"]["message"])
    text = observation["result"]
    content: list[dict[str, str]] = [{"type": "text", "text": text}] if text else []
    content += [
        {"type": "image", "data": image["data"], "mimeType": image["media_type"]}
        for image in observation.get("images", ())
    ]
    return {"content": content, "data": text, "isError": False, "done": result["done"]}
