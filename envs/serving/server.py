"""Serves environments over HTTP: one WebSocket route for sessions, and what there is as JSON.

    async with EnvServer(["tools/configdesk"], port=0) as server:
        print(server.url)

======================================== ==================================================
``GET /health``                          whether it is up; for everyone
``GET /turnwise/v1``                     the WebSocket (see :mod:`turnwise.envs.serving.wire`)
``GET /turnwise/v1/environments``        what is served
``GET /turnwise/v1/environments/NAME``   tools, milestones, channels, options, splits
``GET /turnwise/v1/sessions``            the sessions that are open; for admin and trainer
``DELETE /turnwise/v1/sessions/NAME``    closes one; for admin and trainer
``GET /turnwise/v1/status``              how the server is doing; for admin and trainer
``GET /metrics``                         the same for Prometheus; for admin and trainer
``GET /``                                a page that shows it; for everyone, without anything in it
``GET /openapi.json``                    these routes; for everyone
======================================== ==================================================

Each client owns the sessions it opens, for a lease longer than it stays connected. Without a token
whoever reaches the server is the trainer; then it listens on loopback only, and refuses what a web page
in a browser on this machine could send.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from http import HTTPStatus
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from aiohttp import WSCloseCode, hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel

from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.openenv.app import OpenEnv, at_root, failures_as_openenv
from turnwise.envs.openenv.aside import AT_ONCE
from turnwise.envs.registry import EnvSpec
from turnwise.envs.serving.background import Background
from turnwise.envs.serving.connection import Connection
from turnwise.envs.serving.counters import Counters
from turnwise.envs.serving.faults import MAX_FRAME, Code, Fault, Refusal
from turnwise.envs.serving.hosts import cannot_listen, is_loopback, tls_context
from turnwise.envs.serving.journal import Journal
from turnwise.envs.serving.lease import Leases
from turnwise.envs.serving.listing import EnvInfo, EnvList, Health, SessionList
from turnwise.envs.serving.memory import MemoryBound
from turnwise.envs.serving.offered import offered
from turnwise.envs.serving.openapi import operations
from turnwise.envs.serving.operations import FAULT, Operations, counted, http_log
from turnwise.envs.serving.roster import Roster
from turnwise.envs.serving.routing import Place
from turnwise.envs.serving.served_session import Principal
from turnwise.envs.serving.service import Service
from turnwise.envs.serving.siblings import Siblings
from turnwise.envs.serving.status import Report, SandboxCounts, added_up
from turnwise.envs.serving.tokens import Tokens, token_of
from turnwise.envs.serving.wire import HEARTBEAT, LEASE_HEADER, PATH, Role
from turnwise.sandbox.contract import MiB

logger = logging.getLogger(__name__)

SESSIONS = 128
"""Open at once, if not told otherwise."""
PATIENCE = 600.0
"""Seconds that an ``open`` waits for a place: what the episodes before it may take."""
SESSION_MEMORY = 1024 * MiB
"""What the environment of one session may hold in this process."""
LEASE_SECONDS = 60.0
"""How long a client may be away before its sessions are closed."""
CLOSE_SECONDS = 5.0
"""How long a client may take to say goodbye."""
STATUS = {
    Code.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    Code.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.UNKNOWN_SESSION: HTTPStatus.NOT_FOUND,
    Code.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    Code.DRAINING: HTTPStatus.SERVICE_UNAVAILABLE,
}


class EnvServer:
    """Serves environments from ``async with`` to its end. See the module."""

    def __init__(
        self,
        envs: Sequence[str | EnvSpec],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        token: str | Tokens | None = None,
        tls: tuple[Path, Path] | None = None,
        sessions: int = SESSIONS,
        patience: float = PATIENCE,
        lease: float = LEASE_SECONDS,
        max_age: float | None = None,
        session_memory: int = SESSION_MEMORY,
        journal: Path | None = None,
        backend: str | None = None,
        place: Place | None = None,
    ) -> None:
        """``port`` 0 is any free one; ``token`` is the trainer's, or those of all roles; ``tls`` names the
        files of a certificate and its key; ``sessions`` bounds those open at once; ``patience``, ``lease``
        and ``max_age`` are seconds; ``session_memory`` is bytes; ``journal`` is a folder. With a ``place``
        among several workers it does not listen: its connections come by :meth:`adopt` (see
        :mod:`turnwise.envs.serving.front`).

        Raises ``UsageError`` for an unknown environment or backend, for a bad certificate, and without a
        token beyond loopback.
        """
        self._specs = offered(envs, backend)
        if sessions < 1:
            raise UsageError(f"sessions={sessions}: must be at least 1")
        if session_memory < MiB:
            raise UsageError(f"session_memory={session_memory}: must be at least 1MiB ({MiB} bytes)")
        tokens = _tokens(token, host)
        self.host, self.port, self._place = host, port, place or Place()
        self._open_to_all = not tokens.roles
        self._tls = None if tls is None else tls_context(*tls)
        self._local = LocalEnvs(backend=backend, capacity=sessions + AT_ONCE)
        self._background = Background()
        self._journal = None if journal is None else Journal(journal)
        self._counters = Counters()
        self._siblings = Siblings(self._place, self._report, self._close_own)
        self._roster = Roster(
            self._local,
            self._background,
            sessions=sessions,
            patience=patience,
            max_age=max_age,
            journal=self._journal,
            place=self._place,
            counters=self._counters,
        )
        self.memory = MemoryBound(self._roster, self, session_memory)
        """Of each session."""
        self._service = Service(self._roster, self._specs, tokens)
        self._leases = Leases(self._roster, self._background, seconds=lease, clients=64 + 4 * sessions)
        self.routes: Sequence[web.AbstractRoute] = ()
        """What it answers over HTTP, once it listens."""
        self._sockets: set[web.WebSocketResponse] = set()
        self._http: web.Server | None = None
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """Where it listens."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        """Listen. Raises ``UsageError`` where that is not possible, as on a port in use."""
        middlewares = [counted(self._counters), _faults_as_json, failures_as_openenv]
        app = web.Application(middlewares=middlewares, client_max_size=MAX_FRAME)
        app.router.add_get("/health", self._health)
        app.router.add_get(PATH, self._connect)
        app.router.add_get(f"{PATH}/environments", self._list)
        app.router.add_get(f"{PATH}/environments/{{name:.+}}", self._show)
        app.router.add_get(f"{PATH}/sessions", self._sessions)
        app.router.add_delete(f"{PATH}/sessions/{{name}}", self._close)
        routes = [*operations([str(spec) for spec in self._specs]), *at_root(self._specs[0])]
        Operations(self._siblings, self._operator, routes).add_to(app)
        OpenEnv(self._service, self._local, self._siblings, self._caller, self._sockets).add_to(
            app, self._specs
        )
        app.on_shutdown.append(self._say_goodbye)
        self.routes = tuple(app.router.routes())
        runner = web.AppRunner(app, access_log=None, logger=http_log(), shutdown_timeout=2 * CLOSE_SECONDS)
        async with AsyncExitStack() as stack:
            if self._journal is not None:
                await stack.enter_async_context(self._journal)
            if self._place.folder is not None:
                file = self._place.folder / f"{self._place.index}.sessions"
                stack.enter_context(self._roster.losses.kept_in(file))
            await stack.enter_async_context(self._local)
            await stack.enter_async_context(self._siblings)
            stack.push_async_callback(self._background.close)
            self._background.start(self.memory.keep())
            stack.push_async_callback(self._roster.stop)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            self._http = runner.server
            if self._place.folder is None:
                await self._listen(runner)
            self._stack = stack.pop_all()
        return self

    async def _listen(self, runner: web.AppRunner) -> None:
        try:
            await web.TCPSite(runner, self.host, self.port, ssl_context=self._tls).start()
        except (OSError, UnicodeError) as error:
            raise cannot_listen(self.host, self.port, error) from error
        self.port = runner.addresses[0][1]

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process accepted."""
        assert self._http is not None
        connection.setblocking(False)
        await asyncio.get_running_loop().connect_accepted_socket(self._http, connection)

    @property
    def connections(self) -> int:
        """How many are open."""
        return 0 if self._http is None else len(self._http.connections)

    async def __aexit__(self, *_: object) -> None:
        """Take leave of every client, close every session and leave no sandbox behind."""
        await self._stack.aclose()

    async def drain(self, seconds: float) -> None:
        """Take in no more sessions. Returns when those that are open have ended, or after that time."""
        await self._roster.drain(seconds)

    # -- who is calling

    def _caller(self, request: web.Request, *, but: Sequence[Role] = ()) -> Principal:
        """Raises :class:`Refusal` for whoever may not be here: with no token, or with one of these roles."""
        token = token_of(request.headers.get("Authorization"))
        if self._open_to_all:
            self._refuse_web_pages(request)
        caller = self._service.principal(token)
        if caller.role in but:
            raise Refusal(Code.FORBIDDEN, f"the {caller.role} may not {request.method} {request.path}")
        return caller

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

    # -- routes

    async def _health(self, request: web.Request) -> web.Response:
        if self._roster.draining:
            return _json(Health(status="draining"), HTTPStatus.SERVICE_UNAVAILABLE)
        return _json(Health(status="healthy"))

    async def _list(self, request: web.Request) -> web.Response:
        self._caller(request, but=["agent"])
        infos = tuple(self._service.describe(spec) for spec in self._specs)
        return _json(EnvList(environments=infos))

    async def _show(self, request: web.Request) -> web.Response:
        self._caller(request, but=["agent"])
        return _json(self._info(request.match_info["name"]))

    def _info(self, name: str) -> EnvInfo:
        for spec in self._specs:
            if str(spec) == name:
                return self._service.describe(spec)
        raise Refusal(Code.NOT_FOUND, f"no environment {name!r} is served here")

    def _operator(self, request: web.Request) -> None:
        self._caller(request, but=["agent", "grader"])

    async def _sessions(self, request: web.Request) -> web.Response:
        self._operator(request)
        reports, _ = await self._siblings.reports()
        return _json(SessionList(sessions=tuple(line for report in reports for line in report.sessions)))

    def _report(self) -> Report:
        """How this process is doing."""
        counters, pools, journal = self._counters, self._local.pools, self._journal
        return Report(
            worker=self._place.index,
            uptime=counters.clock() - counters.started,
            seconds=counters.rate.seconds,
            draining=self._roster.draining,
            places=self._roster.sessions,
            waiting=counters.waiting,
            connections=len(self._sockets),
            sessions=tuple(held.line(self._place.index) for held in self._roster.held),
            lost=self._roster.losses.lost,
            envs=tuple(env.counts() for env in counters.envs.values()),
            requests=tuple((kind, code, count) for (kind, code), count in counters.requests.items()),
            steps_by_second=counters.rate.by_second(),
            sandboxes=added_up([SandboxCounts(**asdict(pool)) for pool in pools]),
            journal_bytes=None if journal is None else journal.written,
            errors=tuple(counters.errors),
        )

    async def _close(self, request: web.Request) -> web.Response:
        self._operator(request)
        name = request.match_info["name"]
        if not (await self._close_own(name) or await self._siblings.close(name)):
            raise Refusal(Code.UNKNOWN_SESSION, f"there is no session {name!r}")
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _close_own(self, name: str) -> bool:
        return await self._roster.dismiss(name)

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        caller = self._caller(request)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT, max_msg_size=4 * MAX_FRAME, compress=False, timeout=CLOSE_SECONDS
        )
        if not socket.can_prepare(request).ok:
            raise Refusal(Code.INVALID_REQUEST, "this address is for WebSockets")
        key = request.headers.get(LEASE_HEADER)
        self._leases.check_room(caller, key)
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response(status=HTTPStatus.BAD_REQUEST)  # it left while it was let in
        self._sockets.add(socket)
        connection = Connection(self._service, self._leases, self._background, socket, request.transport)
        try:
            await connection.run(caller, key)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _say_goodbye(self, app: web.Application) -> None:
        async with asyncio.TaskGroup() as tasks:
            for socket in self._sockets:
                tasks.create_task(socket.close(code=WSCloseCode.GOING_AWAY, message=b"the server stops"))


def _tokens(token: str | Tokens | None, host: str) -> Tokens:
    """Raises ``UsageError`` where there must be one and is none."""
    if not isinstance(token, Tokens):
        token = Tokens.of({} if token is None else {"trainer": token})
    if not token.roles and not is_loopback(host):
        raise UsageError(
            f"host {host!r} can be reached from other machines: set a token (--token, --token-file or "
            "TURNWISE_TOKEN), or serve on 127.0.0.1"
        )
    return token


def _json(body: BaseModel, status: int = HTTPStatus.OK) -> web.Response:
    return web.json_response(text=body.model_dump_json(), status=status)


def _told(fault: Fault, status: int) -> web.Response:
    answer = _json(fault, status)
    answer[FAULT] = fault
    return answer


@web.middleware
async def _faults_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Refusal as refusal:
        fault = refusal.fault
        answer = _told(fault, STATUS.get(fault.code, HTTPStatus.BAD_REQUEST))
        if fault.retry_after is not None:
            answer.headers[hdrs.RETRY_AFTER] = f"{fault.retry_after:.0f}"
        return answer
    except web.HTTPClientError as error:
        code = Code.NOT_FOUND if error.status == HTTPStatus.NOT_FOUND else Code.INVALID_REQUEST
        answer = _told(Refusal(code, f"{request.method} {request.path}: {error.reason}").fault, error.status)
        if hdrs.ALLOW in error.headers:
            answer.headers[hdrs.ALLOW] = error.headers[hdrs.ALLOW]
        return answer
    except Exception:
        logger.exception("%s %s failed", request.method, request.path)
        fault = Refusal(Code.INTERNAL, "the server failed").fault
        return _told(fault, HTTPStatus.INTERNAL_SERVER_ERROR)
