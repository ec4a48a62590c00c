"""Adds OpenEnv's routes and WebSockets to a server's application.

Each environment is mounted under ``/openenv/NAME``, where an environment's options are part of the name
(``tools/configdesk;level=2``), and the first one at the root as well: a client's base URL is the server's,
or the server's with that path.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.openenv.aside import Aside
from turnwise.envs.openenv.directory import Directory
from turnwise.envs.openenv.elsewhere import Elsewhere
from turnwise.envs.openenv.messages import problems
from turnwise.envs.openenv.mount import Mount
from turnwise.envs.openenv.offer import Offer
from turnwise.envs.openenv.openapi import described
from turnwise.envs.openenv.route import Call, Route
from turnwise.envs.openenv.routes import ROUTES, HttpFailure
from turnwise.envs.openenv.sockets import GymSocket, McpSocket, Socket
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.faults import MAX_FRAME, Code, Refusal
from turnwise.envs.serving.openapi import Operation, operations
from turnwise.envs.serving.served_session import Principal
from turnwise.envs.serving.service import Service
from turnwise.envs.serving.siblings import Siblings
from turnwise.envs.serving.wire import HEARTBEAT, PATH

logger = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long a client may take to say goodbye."""
ANYONE = Principal("agent")
SPARE = 64
"""Sockets beyond four for every session, refused ones that are not yet closed included."""
OWN = {operation.path for operation in operations([])}
"""The paths of the server's own; at the root they go first."""
STATUS = {
    Code.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    Code.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Code.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
}


class OpenEnv:
    """OpenEnv's side of a server. See the module."""

    def __init__(
        self,
        service: Service,
        envs: LocalEnvs,
        siblings: Siblings,
        caller: Callable[[web.Request], Principal],
        sockets: set[web.WebSocketResponse],
    ) -> None:
        """``caller`` says who sent a request, or raises :class:`Refusal`; ``sockets`` are those open."""
        self._service, self._caller, self._sockets = service, caller, sockets
        self._directory = Directory(service)
        self._aside = Aside(service, envs)
        self._elsewhere = Elsewhere(siblings)

    def add_to(self, app: web.Application, specs: Sequence[EnvSpec]) -> None:
        """Mount the environments."""
        offers = [Offer(spec) for spec in specs]
        for path, offer in [*((f"/openenv/{offer.name}", offer) for offer in offers), ("", offers[0])]:
            self._mount(app, Mount(path, offer, self._service, self._directory, self._aside, self._elsewhere))
        app.cleanup_ctx.append(self._watch)

    def _mount(self, app: web.Application, mount: Mount) -> None:
        self._elsewhere.mounts[mount.path] = mount
        for route in ROUTES:
            if mount.path or route.path not in OWN:
                path = mount.path + route.path.replace("{env_name}", "{env_name:.+}")
                app.router.add_route(route.method, path, self._handler(mount, route))
        app.router.add_get(f"{mount.path}/ws", self._connector(mount, GymSocket))
        app.router.add_get(f"{mount.path}/mcp", self._connector(mount, McpSocket))

    def _handler(self, mount: Mount, route: Route) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            caller = ANYONE if route.who == "everyone" else self._player(request, route.who == "trainer")
            name = request.match_info.get("env_name", mount.offer.name)
            if name.lower() != mount.offer.name.lower():
                raise HttpFailure(HTTPStatus.NOT_FOUND, f"unknown environment {name!r}")
            try:
                data = await request.read()
            except ConnectionError:  # nobody is there to read this
                raise HttpFailure(HTTPStatus.BAD_REQUEST, "the body is not whole") from None
            body = data if route.body is None else _parse(data, route.body)
            return _json(await route.answer(Call(mount, caller, body)))

        return handle

    def _player(self, request: web.Request, trainer: bool = False) -> Principal:
        """Who sent a request: the trainer or, unless it is for that alone, an agent. Others have no part in
        this protocol. Raises :class:`Refusal`."""
        caller = self._caller(request)
        if caller.role != "trainer" and (trainer or caller.role != "agent"):
            raise Refusal(Code.FORBIDDEN, f"{caller.role}: this role may not call it")
        return caller

    def _connector(self, mount: Mount, kind: type[Socket]) -> Handler:
        async def connect(request: web.Request) -> web.StreamResponse:
            caller = self._player(request)
            if len(self._sockets) >= SPARE + 4 * self._service.roster.sessions:
                raise Refusal(Code.BUSY, f"{len(self._sockets)} clients are connected")
            socket = web.WebSocketResponse(
                heartbeat=HEARTBEAT, max_msg_size=MAX_FRAME, compress=False, timeout=CLOSE_SECONDS
            )
            if not socket.can_prepare(request).ok:
                if kind is McpSocket:
                    raise web.HTTPMethodNotAllowed(request.method, [hdrs.METH_POST])
                raise HttpFailure(HTTPStatus.NOT_FOUND, "Not Found")
            try:
                await socket.prepare(request)
            except ConnectionError:
                return web.Response(status=HTTPStatus.BAD_REQUEST)  # it left while it was let in
            self._sockets.add(socket)
            try:
                await kind(mount, caller, socket, request.transport).run(request.query.get("session_id"))
            finally:
                self._sockets.discard(socket)
            return socket

        return connect

    async def _watch(self, app: web.Application) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._directory.run())
        yield
        watching.cancel()
        await asyncio.wait([watching])


def at_root(spec: EnvSpec) -> list[Operation]:
    """What there is at the root of a server whose first environment this is."""
    return described([route for route in ROUTES if route.path not in OWN], Offer(spec).name)


@web.middleware
async def failures_as_openenv(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Outside our own protocol a failure is said in OpenEnv's way."""
    if request.path in OWN or request.path.startswith(PATH):
        return await handler(request)
    try:
        return await handler(request)
    except HttpFailure as failure:
        return _json({"detail": failure.detail}, failure.status)
    except Refusal as refusal:
        fault = refusal.fault
        answer = _json({"detail": str(refusal)}, STATUS.get(fault.code, HTTPStatus.BAD_REQUEST))
        if fault.retry_after is not None:
            answer.headers[hdrs.RETRY_AFTER] = f"{fault.retry_after:.0f}"
        return answer
    except UsageError as mistake:
        return _json({"detail": str(mistake)}, HTTPStatus.BAD_REQUEST)
    except web.HTTPNotFound as error:
        wants_socket = request.headers.get(hdrs.UPGRADE, "").lower() == "websocket"
        return _json({"detail": error.reason}, HTTPStatus.FORBIDDEN if wants_socket else error.status)
    except web.HTTPClientError as error:
        answer = _json({"detail": error.reason}, error.status)
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        return web.Response(text="Internal Server Error", status=HTTPStatus.INTERNAL_SERVER_ERROR)


def _parse(data: bytes, model: type[BaseModel]) -> BaseModel:
    """A body of its JSON; without any it is that of an empty object where that fits. Raises
    :class:`HttpFailure`."""
    try:
        return model.model_validate(from_json(data, allow_inf_nan=False) if data else {})
    except ValidationError as error:
        raise HttpFailure(HTTPStatus.UNPROCESSABLE_ENTITY, problems(error, "body")) from None
    except ValueError as error:
        problem = {"type": "json_invalid", "loc": ["body"], "msg": f"JSON decode error: {error}", "input": {}}
        raise HttpFailure(HTTPStatus.UNPROCESSABLE_ENTITY, [problem]) from None


def _json(body: object, status: int = HTTPStatus.OK) -> web.Response:
    return web.Response(
        body=to_json(body, inf_nan_mode="null"), status=status, content_type="application/json"
    )
