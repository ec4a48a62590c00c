"""Environments of a server, used like local ones.

    async with connect("http://localhost:8000", token=T) as envs, envs.open("demo/guess", seed=3) as env:
        view = await env.reset()
        step = await env.step(call("guess", n=4))

One connection carries all sessions. Whatever goes wrong with the server or on the way to it is a
:class:`ServerFailed`, which is a ``SandboxError``: the machine's failure, never the agent's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from pydantic import ValidationError

from turnwise.envs.errors import UsageError
from turnwise.envs.faults import MAX_FRAME, Code, Fault
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import EpisodeFailed
from turnwise.envs.types import Action, AgentView, EndReason, EpisodeLimits, Step, Task
from turnwise.envs.wire import (
    HEARTBEAT,
    PATH,
    PROTOCOL,
    AttachRequest,
    CloseReply,
    CloseRequest,
    ConcludeReply,
    ConcludeRequest,
    FaultReply,
    ForkReply,
    ForkRequest,
    OpenRequest,
    Reply,
    Request,
    ResetReply,
    ResetRequest,
    SessionInfo,
    SessionReply,
    StepReply,
    StepRequest,
    TaskByRef,
    TaskBySeed,
    Welcome,
    answer_seconds,
    check_token,
    read_reply,
)
from turnwise.sandbox.contract import SandboxError

if TYPE_CHECKING:
    from aiohttp import ClientWebSocketResponse

CONNECT_SECONDS = 30.0
MARGIN_SECONDS = 30.0
"""What a reply may be late beyond the server's own deadline."""

Answer = TypeVar("Answer", bound=Reply)


class ServerFailed(SandboxError):
    """The server failed, or the connection to it, or it has no room."""

    def __init__(self, message: str, code: Code | None = None) -> None:
        super().__init__(message)
        self.code = code
        """What the server said; None where it said nothing."""


@asynccontextmanager
async def connect(url: str, *, token: str | None = None) -> AsyncIterator[RemoteEnvs]:
    """The environments of a server, as :class:`~turnwise.envs.local.LocalEnvs` has those of this process.

    ``token`` is the trainer's, or an agent's for :meth:`RemoteEnvs.attach`. Raises ``UsageError`` for a URL
    or token that is wrong, and :class:`ServerFailed` where no server answers.
    """
    try:
        import aiohttp
    except ImportError:
        raise UsageError("a server's environments need aiohttp: pip install 'turnwise[server]'") from None
    address = _address(url)
    headers = {} if token is None else {"Authorization": f"Bearer {check_token(token)}"}
    async with AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                http = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
                connecting = http.ws_connect(
                    address, heartbeat=HEARTBEAT, max_msg_size=4 * MAX_FRAME, compress=0
                )
                socket = await stack.enter_async_context(connecting)
                welcome = Welcome.model_validate_json(await socket.receive_str())
        except aiohttp.WSServerHandshakeError as error:
            raise _unwelcome(url, error.status) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ServerFailed(f"no server answers at {url}: {error or type(error).__name__}") from error
        except (TypeError, ValidationError):
            raise UsageError(f"url {url!r}: no Turnwise server of protocol {PROTOCOL} is there") from None
        yield await stack.enter_async_context(RemoteEnvs(url, socket, welcome))


def _address(url: str) -> str:
    """The WebSocket's address at a server's. Raises ``UsageError``."""
    mistake = UsageError(f"url {url!r}: must look like http://host:8000 or https://host")
    try:
        parts = urlsplit(url)
        _ = parts.port  # looks at it
    except ValueError:
        raise mistake from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname or parts.query or parts.fragment:
        raise mistake
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + PATH, "", ""))


def _unwelcome(url: str, status: int) -> Exception:
    match status:
        case 401:
            return UsageError(f"{url} refuses the token, or wants one: connect(url, token=…)")
        case 403:
            return UsageError(f"{url} refuses this caller: without a token it serves its own machine only")
        case 404:
            return UsageError(f"url {url!r}: no Turnwise server of this version is there")
        case _:
            return ServerFailed(f"{url} answers with HTTP status {status}")


class RemoteEnvs:
    """Opens sessions on a server. See :func:`connect`."""

    def __init__(self, url: str, socket: ClientWebSocketResponse, welcome: Welcome) -> None:
        self.url = url
        self._socket = socket
        self._welcome = welcome
        self._ids = count()
        self._pending: dict[int, asyncio.Future[Reply]] = {}
        self._lost: str | None = None
        """Why there is no connection any more."""
        self._reader: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(
        self, env: str | EnvSpec, *, task: Task | None = None, seed: int = 0, split: str = "train"
    ) -> AsyncIterator[RemoteSession]:
        """A session of one task: the one given, or the split's task number ``seed``.

        Waits for a free place. Raises :class:`ServerFailed` where none comes free, and ``UsageError`` for
        an environment, split or task that the server does not have.
        """
        choice = (
            TaskBySeed(seed=seed, split=split)
            if task is None
            else TaskByRef(ref=task.ref, public=task.public)
        )
        name = uuid4().hex
        request = OpenRequest(id=self.next_id(), session=name, env=EnvSpec.parse(env), task=choice)
        reply = await self.begin(request, [name], EpisodeLimits(), SessionReply)
        async with RemoteSession(self, reply.info) as session:
            yield session

    async def attach(self) -> RemoteSession:
        """The one session of an agent's token. Only ``step`` is allowed there, and steps have no record."""
        if self._welcome.session is None:
            raise UsageError("attach is for an agent's token, and this is the trainer's: use open")
        request = AttachRequest(id=self.next_id(), session=self._welcome.session)
        return RemoteSession(self, (await self.ask(request, EpisodeLimits(), SessionReply)).info)

    # -- for sessions

    def next_id(self) -> int:
        """A request's number."""
        return next(self._ids)

    async def ask(self, request: Request, limits: EpisodeLimits, answer: type[Answer]) -> Answer:
        """Send a request and wait for its reply.

        Raises :class:`ServerFailed` for a failure, ``UsageError`` for a wrong name or a call that the token
        does not allow, ``RuntimeError`` for one at the wrong time, and ``EpisodeFailed``.
        """
        frame = request.model_dump_json()
        if len(frame) > MAX_FRAME:
            raise UsageError(f"{request.type}: {len(frame):,} characters are more than a frame may have")
        if self._lost is not None:
            raise ServerFailed(self._lost)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._pending[request.id] = future
        seconds = answer_seconds(request, limits, self._welcome.patience) + MARGIN_SECONDS
        try:
            async with asyncio.timeout(seconds):
                await self._socket.send_str(frame)
                reply = await future
        except ConnectionError:
            raise ServerFailed(self._lost or f"the connection to {self.url} is lost") from None
        except TimeoutError:
            raise ServerFailed(f"{self.url} did not answer within {seconds:g} s") from None
        finally:
            del self._pending[request.id]
        if isinstance(reply, FaultReply):
            raise _error(reply.fault)
        if not isinstance(reply, answer):
            raise ServerFailed(f"{self.url} answered {request.type} with {reply.type}")
        return reply

    async def begin(
        self, request: Request, names: Sequence[str], limits: EpisodeLimits, answer: type[Answer]
    ) -> Answer:
        """Ask for sessions. Where no answer is waited for, they are given up."""
        try:
            return await self.ask(request, limits, answer)
        except (asyncio.CancelledError, ServerFailed):
            for name in names:
                await self.close_session(name)
            raise

    async def close_session(self, name: str) -> None:
        """Close a session, be it open, opening or closed. What is lost ends with the connection."""
        request = CloseRequest(id=self.next_id(), session=name)
        with contextlib.suppress(ServerFailed):
            await self.ask(request, EpisodeLimits(), CloseReply)

    # -- the connection

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read(), name=f"reader of {self.url}")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reader is not None
        try:
            await self._socket.close()
        finally:
            self._reader.cancel()
            await asyncio.wait([self._reader])
        if not self._reader.cancelled():
            await self._reader  # a fault of ours, if anything

    async def _read(self) -> None:
        """Hand replies to who waits for them, until the connection ends; then all who wait learn of it."""
        reason = f"the connection to {self.url} is lost"
        try:
            async for message in self._socket:
                if isinstance(message.data, Exception):
                    reason += f": {message.data or type(message.data).__name__}"
                    break
                self._deliver(read_reply(message.data))
        except ValidationError as error:
            reason = f"{self.url} sent what is not of this protocol: {error.errors()[0]['msg']}"
        finally:
            self._lost = reason
            for future in self._pending.values():
                if not future.done():
                    future.set_exception(ServerFailed(reason))

    def _deliver(self, reply: Reply) -> None:
        future = self._pending.get(-1 if reply.id is None else reply.id)
        if future is not None and not future.done():  # else whoever asked was cancelled
            future.set_result(reply)


class RemoteSession:
    """A session on a server, as :class:`~turnwise.envs.session.Session` is one here."""

    def __init__(self, envs: RemoteEnvs, info: SessionInfo) -> None:
        self.info = info
        """As it was when it was opened."""
        self.turn = info.turn
        self.end: EndReason | None = info.end
        self.score: float | None = None
        self.reached: dict[str, int] = {}
        """Milestones reached, with the turn."""
        self._envs = envs

    @property
    def guide(self) -> str:
        """The environment's standing guide for agents."""
        return self.info.guide

    @property
    def limits(self) -> EpisodeLimits:
        """When the episode is ended for the agent."""
        return self.info.limits

    @property
    def agent_token(self) -> str | None:
        """For the agent's side: ``connect(url, token=…)`` and ``attach()``. None where this is that side."""
        return self.info.agent_token

    async def reset(self) -> AgentView:
        """Start; the episode's time begins now. Raises ``EpisodeFailed`` and what :meth:`step` does."""
        request = ResetRequest(id=self._envs.next_id(), session=self.info.session)
        return (await self._envs.ask(request, self.limits, ResetReply)).view

    async def step(self, action: Action) -> Step:
        """Carry out one turn. Raises ``RuntimeError`` before the reset, after the end and while another call
        runs, and :class:`ServerFailed`."""
        request = StepRequest(id=self._envs.next_id(), session=self.info.session, action=action)
        step = (await self._envs.ask(request, self.limits, StepReply)).step
        self.turn += 1
        self.end = step.end
        if step.record is not None:
            self.score = step.record.score
            self.reached.update(dict.fromkeys(step.record.milestones, self.turn - 1))
        return step

    async def conclude(self, end: EndReason, error: str = "") -> str:
        """End the episode for a reason and grade it; returns what went wrong, if anything did."""
        request = ConcludeRequest(id=self._envs.next_id(), session=self.info.session, end=end, error=error)
        reply = await self._envs.ask(request, self.limits, ConcludeReply)
        self.end, self.score = reply.end, reply.score
        return reply.error

    async def fork(self, count: int) -> list[RemoteSession]:
        """``count`` sessions that go on from here, independent of this one and of each other.

        The caller closes them; what it forgets ends with the connection. Raises :class:`ServerFailed` where
        there are not as many places free.
        """
        names = [uuid4().hex for _ in range(count)]
        request = ForkRequest(id=self._envs.next_id(), session=self.info.session, twins=tuple(names))
        reply = await self._envs.begin(request, names, self.limits, ForkReply)
        twins = [RemoteSession(self._envs, info) for info in reply.twins]
        for twin in twins:
            twin.reached = dict(self.reached)
        return twins

    async def close(self) -> None:
        """Give it up. Closing twice is harmless. An agent's side only lets go: the session is not its own."""
        if self.agent_token is not None:
            await self._envs.close_session(self.info.session)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _error(fault: Fault) -> Exception:
    """A fault as the exception that the same mistake raises locally."""
    message = f"{fault.message}; {fault.remedy}"
    match fault.code:
        case Code.EPISODE_FAILED if fault.end is not None:
            return EpisodeFailed(fault.end, fault.message)
        case Code.USAGE:
            return UsageError(fault.message)
        case Code.FORBIDDEN | Code.UNAUTHORIZED | Code.INVALID_REQUEST | Code.TOO_LARGE:
            return UsageError(message)
        case Code.WRONG_ORDER | Code.RUNNING | Code.ENDED | Code.DUPLICATE_SESSION:
            return RuntimeError(message)
        case _:
            return ServerFailed(message, fault.code)
