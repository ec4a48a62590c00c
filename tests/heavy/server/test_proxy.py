"""``deploy/haproxy.cfg`` as it is, but for addresses: what leads to a session leads to its replica.

With TLS and with several workers in each replica as the file's comments say. Replicas are stopped and killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession, ClientWebSocketResponse

from turnwise import connect
from turnwise.envs.serving.client import RemoteEnvs, RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.wire import PATH, WORKER_HEADER
from turnwise.envs.types import call

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG = Path(__file__).parents[3] / "deploy/haproxy.cfg"
DESK = "tools/configdesk"
TOKEN = "token-of-trainer"
TRAINER = {"Authorization": f"Bearer {TOKEN}"}
SERVE = (
    *(sys.executable, "-c", "from turnwise.cli import main; main()"),
    *("serve", DESK, "--backend", "process", "--lease", "1000"),
)
TLS = "# TLS:  bind :8443 ssl crt /run/secrets/certificate.pem"


@dataclass
class Site:
    """Two replicas and the proxy before them."""

    url: str
    tls_url: str
    replicas: dict[int, Process] = field(default_factory=dict)
    urls: dict[int, str] = field(default_factory=dict)

    async def start(self, replica: int, *words: str) -> None:
        """Number 0 or 1, where it was before if it was."""
        port = self.urls[replica].rpartition(":")[2] if replica in self.urls else "0"
        process = await asyncio.create_subprocess_exec(
            *(*SERVE, "--replica", f"{replica + 1}/2", "--port", port, *words),
            env={**os.environ, "TURNWISE_TOKEN": TOKEN},
            stdout=PIPE,
        )
        self.replicas[replica] = process
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        self.urls[replica] = line.split(" at ")[1].split(";")[0]

    async def restart(self, replica: int) -> None:
        """Until the proxy leads to it again."""
        await self.start(replica)
        async with ClientSession(headers={WORKER_HEADER: str(replica)}) as http:
            await until(http, f"{self.url}/health", 200)

    async def sessions(self) -> list[list[int]]:
        """The workers of the sessions of each replica."""
        found = []
        async with ClientSession(headers=TRAINER) as http:
            for url in self.urls.values():
                async with http.get(f"{url}{PATH}/sessions") as answer:
                    found.append([line["worker"] for line in (await answer.json())["sessions"]])
        return found


async def until(http: ClientSession, url: str, status: int) -> None:
    """Ask until this is the answer's status."""
    while True:
        async with http.get(url) as answer:
            if answer.status == status:
                return
        await asyncio.sleep(0.1)


def changed(text: str, changes: dict[str, str]) -> str:
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def site(folder: Path, changes: dict[str, str], *words: str) -> AsyncIterator[Site]:
    """``changes`` are those of the configuration, where ``{fd}`` is a socket that it may listen on;
    ``words`` are each replica's."""
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    assert haproxy is not None, "apt-get install haproxy"
    config = folder / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [end.getsockname()[1] for end in (listener, other)]
        here = Site(f"http://127.0.0.1:{ports[0]}", f"https://127.0.0.1:{ports[1]}")
        async with asyncio.timeout(1500), AsyncExitStack() as stack:
            stack.push_async_callback(ended, here.replicas.values())
            for replica in (0, 1):
                await here.start(replica, *words)
            first, second = (url.removeprefix("http://") for url in here.urls.values())
            addresses = {"bind :8000": f"bind fd@{listener.fileno()}", "one:8000": first, "two:8000": second}
            text = changed(CONFIG.read_text(), addresses | changes)
            config.write_text(text.replace("{fd}", str(other.fileno())))
            fds = [listener.fileno(), other.fileno()]
            proxy = await asyncio.create_subprocess_exec(haproxy, "-db", "-f", config, pass_fds=fds)
            stack.push_async_callback(ended, [proxy])
            yield here


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with site(tmp_path_factory.mktemp("site"), {}, "--drain", "1000") as here:
        yield here


async def ended(processes: Any) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def opened(envs: RemoteEnvs, stack: AsyncExitStack) -> RemoteSession:
    env = await stack.enter_async_context(envs.open(DESK))
    await env.reset()
    return env


async def stepped_as_agent(env: RemoteSession, url: str, **options: Any) -> None:
    """By its token in a header, and as a URL's password."""
    for place, token in ((url, env.agent_token), (url.replace("//", f"//any:{env.agent_token}@"), None)):
        async with connect(place, token=token, **options) as side:
            assert (await (await side.attach()).step(call("check"))).record is None


def workers_of(server: int) -> list[int]:
    """The worker processes of a server."""
    children = map(int, Path(f"/proc/{server}/task/{server}/children").read_text().split())
    return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


async def ask(http: ClientSession | ClientWebSocketResponse, url: str, method: str, **params: str) -> Any:
    """JSON-RPC's result."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    if isinstance(http, ClientWebSocketResponse):
        await http.send_json(message)
        return (await http.receive_json())["result"]
    async with http.post(f"{url}/mcp", json=message) as answer:
        return (await answer.json())["result"]


async def test_whatever_leads_to_a_session_leads_there(here: Site) -> None:
    async with AsyncExitStack() as stack:
        envs = await stack.enter_async_context(connect(here.url, token=TOKEN))
        sessions = [await opened(envs, stack) for _ in range(4)]
        assert await here.sessions() == [[0, 0], [1, 1]]
        for env in sessions:
            await stepped_as_agent(env, here.url)
            other = await stack.enter_async_context(connect(here.url, token=TOKEN))
            assert len(await (await other.attach(env.info.session)).records()) == 2
        async with ClientSession() as http:  # one connection, kept open, for all of them
            for env in sessions:
                url = here.url.replace("//", f"//any:{env.agent_token}@")
                async with http.get(f"{url}{PATH}/sessions") as answer:
                    assert answer.status == 403  # 401 where nobody knows it
            for worker in ("0", "1"):
                headers = TRAINER | {WORKER_HEADER: worker}
                async with http.get(f"{here.url}{PATH}/sessions", headers=headers) as answer:
                    listed = (await answer.json())["sessions"]
                    assert [line["worker"] for line in listed] == [int(worker)] * 2


async def test_mcp_sessions_over_http_need_nothing_but_their_name(here: Site) -> None:
    async with ClientSession(headers=TRAINER) as http:
        made = [(await ask(http, here.url, "openenv/session/create"))["session_id"] for _ in range(4)]
        assert {name[:2] for name in made} == {"0.", "1."}
        for name in made:
            assert (await ask(http, here.url, "tools/list", session_id=name))["tools"]
            async with http.ws_connect(f"{here.url}/mcp?session_id={name}") as socket:
                assert (await ask(socket, here.url, "tools/list"))["tools"]
            assert (await ask(http, here.url, "openenv/session/close", session_id=name))["closed"]


async def test_a_replica_that_stops_keeps_its_sessions_to_their_end(here: Site) -> None:
    async with AsyncExitStack() as stack:
        envs = await stack.enter_async_context(connect(here.url, token=TOKEN))
        sessions = [await opened(envs, stack) for _ in range(2)]
        (staying,) = [env for env in sessions if str(env.agent_token).startswith("0.")]
        here.replicas[0].send_signal(signal.SIGTERM)
        async with ClientSession() as http:
            await until(http, f"{here.urls[0]}/health", 503)
            for _ in range(2):  # before the proxy knows, and then
                for client in (envs, await stack.enter_async_context(connect(here.url, token=TOKEN))):
                    sessions.append(await opened(client, stack))
                await until(http, f"{here.url}/health", 200)
        assert await here.sessions() == [[0], [1] * 5]
        for env in sessions:
            await stepped_as_agent(env, here.url)
        await staying.close()
        assert await here.replicas[0].wait() == 0
    await here.restart(0)


async def test_a_killed_replica_is_left_out_at_once_and_taken_in_again(here: Site) -> None:
    async with AsyncExitStack() as stack:
        envs = await stack.enter_async_context(connect(here.url, token=TOKEN))
        sessions = [await opened(envs, stack) for _ in range(2)]
        here.replicas[1].kill()
        for client in (await stack.enter_async_context(connect(here.url, token=TOKEN)), envs):
            assert str((await opened(client, stack)).agent_token).startswith("0.")
        await here.restart(1)
        for env in sessions:
            if str(env.agent_token).startswith("0."):
                await stepped_as_agent(env, here.url)
            else:
                with pytest.raises(ServerFailed):
                    await env.step(call("check"))
        await opened(envs, stack)
        assert [len(found) for found in await here.sessions()] == [3, 1]


async def test_what_a_killed_replica_did_not_answer(here: Site, caplog: pytest.LogCaptureFixture) -> None:
    """An open is asked of another at once; a step waits, and fails when the replica is back without it."""

    def told() -> list[str]:
        return [record.message for record in caplog.records if record.message.startswith("Worker 1 of ")]

    async with AsyncExitStack() as stack:
        envs = await stack.enter_async_context(connect(here.url, token=TOKEN))
        sessions = [await opened(envs, stack) for _ in range(2)]
        (lost,) = [env for env in sessions if str(env.agent_token).startswith("1.")]
        here.replicas[1].send_signal(signal.SIGSTOP)
        step = asyncio.create_task(lost.step(call("check")))
        opening = [asyncio.create_task(opened(envs, stack)) for _ in range(4)]
        await asyncio.sleep(0)  # so that all are on their way, half of them to that replica
        here.replicas[1].kill()
        for env in [await env for env in opening]:
            assert str(env.agent_token).startswith("0.")
        assert not step.done()
        assert [line.partition(" is ")[2] for line in told()] == ["away: the connection dropped"]
        await here.restart(1)
        with pytest.raises(ServerFailed, match="given up"):
            await step
        assert told()[1:] == [f"Worker 1 of {here.url} is back"]
        assert str((await opened(envs, stack)).agent_token).startswith("1.")


async def test_with_tls_and_several_workers_as_its_comments_say(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    process = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key),
        stderr=PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    pem = tmp_path / "both.pem"
    pem.write_text(certificate.read_text() + key.read_text())
    changes = {
        TLS: f"bind fd@{{fd}} ssl crt {pem}",
        "-m int 0 }": "-m int 0:1 }",
        "-m int 1 }": "-m int 2:3 }",
        "    mode http\n": "    mode http\n    option http-server-close\n",
    }
    async with site(tmp_path, changes, "--workers", "2") as here, AsyncExitStack() as stack:
        envs = await stack.enter_async_context(connect(here.tls_url, token=TOKEN, ca=certificate))
        sessions = [await opened(envs, stack) for _ in range(4)]
        assert await here.sessions() == [[0, 1], [2, 3]]
        for env in sessions:
            await stepped_as_agent(env, here.tls_url, ca=certificate)
        async with ClientSession(headers=TRAINER) as http:
            made = [(await ask(http, here.url, "openenv/session/create"))["session_id"] for _ in range(8)]
            for name in made:
                assert (await ask(http, here.url, "openenv/session/close", session_id=name))["closed"]
        for worker in workers_of(here.replicas[1].pid):
            os.kill(worker, signal.SIGKILL)
        for env in sessions:
            if str(env.agent_token)[0] in "23":
                with pytest.raises(ServerFailed, match=r"died|given up"):
                    await env.step(call("check"))
            else:
                await env.step(call("check"))
