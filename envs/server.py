"""Serves environments over HTTP: one WebSocket route for sessions, and what there is as JSON.

    async with EnvServer(["tools/configdesk"], port=0) as server:
        print(server.url)

======================================== ==================================================
``GET /health``                          whether it is up; for everyone
``GET /turnwise/v1``                     the WebSocket (see :mod:`turnwise.envs.wire`)
``GET /turnwise/v1/environments``        what is served
``GET /turnwise/v1/environments/NAME``   tools, milestones, channels, options, splits
======================================== ==================================================

Each connection owns the sessions it opens, and they end with it. Its requests run side by side, so a
slow step holds up neither another session nor the reader, which has to answer pings. Without a token
whoever reaches the server is the trainer; then it listens on loopback only, and refuses what a web page
in a browser on this machine could send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Self
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from turnwise.envs.errors import UsageError
from turnwise.envs.faults import MAX_FRAME, Code, Refusal
from turnwise.envs.held import Owner, Principal
from turnwise.envs.hosts import is_loopback
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.service import Service
from turnwise.envs.wire import (
    HEARTBEAT,
    PATH,
    CloseRequest,
    EnvInfo,
    EnvList,
    FaultReply,
    Health,
    Reply,
    Request,
    Welcome,
    check_token,
    read_request,
)

logger = logging.getLogger(__name__)

PATIENCE = 600.0
"""Seconds that an ``open`` waits for a place: what the episodes before it may take."""
MAX_REPLY = 4 * MAX_FRAME
"""Characters of one reply; a client takes in no more."""
SEND_SECONDS = 30.0
"""A client that takes in nothing for so long is given up."""
CLOSE_SECONDS = 5.0
"""How long a client may take to say goodbye."""
MAX_PENDING = 4096
"""Requests of one connection that may be running or waiting."""
STATUS = {
    Code.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    Code.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
}


class EnvServer:
    """Serves environments from ``async with`` to its end. See the module."""

    def __init__(
        self,
        envs: Sequence[str | EnvSpec],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | None = None,
        sessions: int = 128,
        patience: float = PATIENCE,
        backend: str | None = None,
    ) -> None:
        """``port`` 0 is any free one; ``sessions`` bounds those open at once; ``token`` is the trainer's.

        Raises ``UsageError`` for an unknown environment or backend, and without a token beyond loopback.
        """
        self._specs = [EnvSpec.parse(env) for env in envs]
        if not self._specs:
            raise UsageError("name at least one environment to serve")
        for spec in self._specs:
            spec.make()
        if sessions < 1:
            raise UsageError(f"sessions={sessions}: must be at least 1")
        if token is None and not is_loopback(host):
            raise UsageError(
                f"host {host!r} can be reached from other machines: set a token (--token or TURNWISE_TOKEN), "
                "or serve on 127.0.0.1"
            )
        if token is not None:
            check_token(token)
        self.host, self.port = host, port
        self._token = token
        self._local = LocalEnvs(backend=backend, capacity=sessions)
        self._service = Service(self._local, self._specs, token=token, sessions=sessions, patience=patience)
        self._sockets: set[web.WebSocketResponse] = set()
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Listen. Raises ``UsageError`` where that is not possible, as on a port in use."""
        app = web.Application(middlewares=[_faults_as_json])
        app.router.add_get("/health", self._health)
        app.router.add_get(PATH, self._connect)
        app.router.add_get(f"{PATH}/environments", self._list)
        app.router.add_get(f"{PATH}/environments/{{name:.+}}", self._show)
        app.on_shutdown.append(self._say_goodbye)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2 * CLOSE_SECONDS)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._local)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            try:
                await web.TCPSite(runner, self.host, self.port).start()
            except OSError as error:
                raise UsageError(f"cannot listen on {self.host}:{self.port}: {error.strerror}") from error
            self.port = runner.addresses[0][1]
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Take leave of every client, close every session and leave no sandbox behind."""
        await self._stack.aclose()

    # -- who is calling

    def _caller(self, request: web.Request) -> Principal:
        """Raises :class:`Refusal` for whoever may not be here."""
        header = request.headers.get("Authorization")
        scheme, _, token = (header or "").partition(" ")
        if header is not None and scheme.lower() != "bearer":
            raise Refusal(Code.UNAUTHORIZED, f"the server knows no authorization of kind {scheme!r}")
        if self._token is None:
            self._refuse_web_pages(request)
        return self._service.principal(None if header is None else token.strip())

    def _refuse_web_pages(self, request: web.Request) -> None:
        """A page of another site may make the browser of this machine call loopback: by its address, which
        ``Origin`` betrays, or by a name of its own that resolves to it, which ``Host`` does."""
        origin = request.headers.get("Origin")
        try:
            name = urlsplit(f"//{request.host}").hostname or ""
            foreign = origin is not None and urlsplit(origin).netloc != request.host
        except ValueError:
            name, foreign = "", True
        if foreign or not is_loopback(name):
            raise Refusal(Code.FORBIDDEN, "without a token only programs on this machine may call")

    def _trainer(self, request: web.Request) -> None:
        if self._caller(request).role != "trainer":
            raise Refusal(Code.FORBIDDEN, "an agent may not look at environments")

    # -- routes

    async def _health(self, request: web.Request) -> web.Response:
        return _json(Health())

    async def _list(self, request: web.Request) -> web.Response:
        self._trainer(request)
        infos = tuple(self._service.describe(spec) for spec in self._specs)
        return _json(EnvList(environments=infos))

    async def _show(self, request: web.Request) -> web.Response:
        self._trainer(request)
        return _json(self._info(request.match_info["name"]))

    def _info(self, name: str) -> EnvInfo:
        for spec in self._specs:
            if str(spec) == name:
                return self._service.describe(spec)
        raise Refusal(Code.NOT_FOUND, f"no environment {name!r} is served here")

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=4 * MAX_FRAME, compress=False, timeout=CLOSE_SECONDS
        )
        if not socket.can_prepare(request).ok:
            raise Refusal(Code.INVALID_REQUEST, "this address is for WebSockets")
        await socket.prepare(request)
        self._sockets.add(socket)
        try:
            await Connection(self._service, caller, socket, request.transport).run()
        finally:
            self._sockets.discard(socket)
        return socket

    async def _say_goodbye(self, app: web.Application) -> None:
        async with asyncio.TaskGroup() as tasks:
            for socket in self._sockets:
                tasks.create_task(socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops"))


class Connection:
    """One client: its requests are read one after another and carried out side by side."""

    def __init__(
        self,
        service: Service,
        caller: Principal,
        socket: web.WebSocketResponse,
        transport: asyncio.Transport | None,
    ) -> None:
        self._service, self._caller, self._socket, self._transport = service, caller, socket, transport
        self._owner = Owner()
        self._pending = 0

    async def run(self) -> None:
        """Until either side closes; then every session that it opened is closed."""
        own = self._caller.held
        name = None if own is None else own.name
        async with asyncio.TaskGroup() as tasks:
            try:
                await self._send(
                    Welcome(role=self._caller.role, session=name, patience=self._service.patience)
                )
                async for message in self._socket:
                    try:
                        request = self._read(message)
                    except Refusal as refusal:
                        await self._send(FaultReply(id=refusal.request, fault=refusal.fault))
                    else:
                        self._pending += 1
                        tasks.create_task(self._answer(request))
            finally:
                await self._service.leave(self._owner)

    def _read(self, message: WSMessage) -> Request:
        if message.type is not WSMsgType.TEXT:
            raise Refusal(Code.INVALID_REQUEST, "the frame is not text")
        request = read_request(message.data)
        if self._pending >= MAX_PENDING and not isinstance(request, CloseRequest):
            raise Refusal(Code.BUSY, f"{self._pending} requests of this connection wait", request=request.id)
        return request

    async def _answer(self, request: Request) -> None:
        try:
            reply = await self._service.answer(self._caller, request, self._owner)
        except Refusal as refusal:
            reply = FaultReply(id=request.id, fault=refusal.fault)
        except Exception:
            logger.exception("A request %s of session %s failed", request.type, request.session)
            reply = FaultReply(id=request.id, fault=Refusal(Code.INTERNAL, "the server failed").fault)
        finally:
            self._pending -= 1
        await self._send(reply)

    async def _send(self, message: Reply | Welcome) -> None:
        """Send it, unless the client is gone, which the reader learns as well."""
        text = message.model_dump_json()
        if len(text) > MAX_REPLY and not isinstance(message, Welcome):
            refusal = Refusal(Code.INTERNAL, f"the reply has {len(text):,} characters")
            text = FaultReply(id=message.id, fault=refusal.fault).model_dump_json()
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send_str(text)
        except ConnectionError:
            return
        except TimeoutError:
            logger.warning("A client took in nothing for %g s and is given up", SEND_SECONDS)
            if self._transport is not None:
                self._transport.abort()


def _json(body: BaseModel, status: int = 200) -> web.Response:
    return web.json_response(text=body.model_dump_json(), status=status)


@web.middleware
async def _faults_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        return _json(refusal.fault, STATUS.get(refusal.fault.code, HTTPStatus.BAD_REQUEST))
    except web.HTTPClientError as error:
        code = Code.NOT_FOUND if error.status == HTTPStatus.NOT_FOUND else Code.INVALID_REQUEST
        return _json(Refusal(code, f"{request.method} {request.path}: {error.reason}").fault, error.status)
