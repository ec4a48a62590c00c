"""Who may do what, by which token, over which line; and that no token is ever shown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from turnwise import connect
from turnwise.envs.errors import UsageError
from turnwise.envs.serving.client import RemoteSession
from turnwise.envs.serving.dialler import ServerFailed
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.serving.wire import PATH, Role
from turnwise.envs.types import EndReason, call

CERTIFICATE = """
-----BEGIN CERTIFICATE-----
MIIBgTCCASegAwIBAgIBATAKBggqhkjOPQQDAjAZMRcwFQYDVQQDDA50dXJud2lz
ZSB0ZXN0czAgFw0yMDAxMDEwMDAwMDBaGA8yMTIwMDEwMTAwMDAwMFowGTEXMBUG
A1UEAwwOdHVybndpc2UgdGVzdHMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARW
5PMBlZkcNP2VOlHqks8E0GfYm2rxQ9+h5Aqez0LPu50xM0cD8gew0aF5VLaCmDZL
CkVKP7RXZ/5UJFrR3LvMo14wXDAPBgNVHRMBAf8EBTADAQH/MA4GA1UdDwEB/wQE
AwIChDAdBgNVHQ4EFgQU2CRlLaxi0vOioSC+rzV/0gXGpPAwGgYDVR0RBBMwEYIJ
bG9jYWxob3N0hwR/AAABMAoGCCqGSM49BAMCA0gAMEUCIHv9apDWiKisdH3gdoPi
f9MToi2GPtzKxm8ZicDR1GzaAiEAsQ/r7sHXpB8pTe4XE5GAKfe8KDDXWDcqA8ZE
Vv615v8=
-----END CERTIFICATE-----
"""
"""Made for these tests, for localhost, valid from 2020 to 2120."""
KEY = """
-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIJYc8Lwsy7b3ZmZbRnS9moYcQPhMfIRarrcF20uEq/ANoAoGCCqGSM49
AwEHoUQDQgAEVuTzAZWZHDT9lTpR6pLPBNBn2Jtq8UPfoeQKns9Cz7udMTNHA/IH
sNGheVS2gpg2SwpFSj+0V2f+VCRa0dy7zA==
-----END EC PRIVATE KEY-----
"""
TOKENS: dict[Role, str] = {
    "trainer": "token-of-trainer",
    "grader": "token-of-grader",
    "admin": "token-of-admin",
}


@asynccontextmanager
async def serving(tls: tuple[Path, Path] | None = None) -> AsyncIterator[EnvServer]:
    tokens = Tokens.of(TOKENS)
    async with (
        asyncio.timeout(120),
        EnvServer(["test/pad"], port=0, token=tokens, tls=tls, backend="process") as server,
    ):
        yield server


async def refused(session: RemoteSession, *calls: str) -> None:
    attempts = {
        "reset": session.reset,
        "step": lambda: session.step(call("show")),
        "conclude": lambda: session.conclude(EndReason.SUBMITTED),
        "fork": lambda: session.fork(1),
        "snapshot": lambda: session.snapshot("a"),
        "restore": lambda: session.restore("a"),
        "records": session.records,
    }
    for name in calls:
        with pytest.raises(UsageError, match=f"may not call {name}"):
            await attempts[name]()


async def test_a_grader_reads_records_and_concludes_and_does_nothing_else() -> None:
    async with (
        serving() as server,
        connect(server.url, token=TOKENS["trainer"]) as envs,
        connect(server.url, token=TOKENS["grader"]) as graders,
        envs.open("test/pad") as env,
    ):
        await env.reset()
        step = await env.step(call("write", line="x"))
        async with await graders.attach(env.info.session) as graded:
            assert (graded.info.ref, graded.agent_token) == (env.info.ref, None)
            await refused(graded, "reset", "step", "fork", "snapshot", "restore")
            assert await graded.records() == (step.record,) == await env.records()
            await graded.conclude(EndReason.SUBMITTED)
            assert (graded.end, graded.score) == (EndReason.SUBMITTED, 1.0)
        assert await env.records() == (step.record,)
        assert (env.turn, env.end, env.score) == (1, EndReason.SUBMITTED, 1.0)
        with pytest.raises(RuntimeError, match="ended"):
            await env.step(call("show"))
        with pytest.raises(UsageError, match="may not call open"):
            async with graders.open("test/pad"):
                pass
        with pytest.raises(UsageError, match="name the session"):
            await graders.attach()


async def test_an_agent_steps_and_does_nothing_else() -> None:
    async with (
        serving() as server,
        connect(server.url, token=TOKENS["trainer"]) as envs,
        envs.open("test/pad") as env,
        connect(server.url, token=env.agent_token) as side,
    ):
        await env.reset()
        own = await side.attach()
        await refused(own, "reset", "conclude", "fork", "snapshot", "restore", "records")
        assert (await own.step(call("write", line="x"))).record is None
        assert (env.turn, env.reached) == (0, {})
        await env.records()
        assert (env.turn, env.end, env.score, env.reached) == (1, None, None, {"begun": 0})
        await own.step(call("hand_in"))
        await env.records()
        assert (env.turn, env.end, env.score) == (2, EndReason.SUBMITTED, 1.0)


async def test_an_admin_lists_and_closes_sessions_and_does_nothing_else() -> None:
    async with (
        serving() as server,
        connect(server.url, token=TOKENS["trainer"]) as envs,
        connect(server.url, token=TOKENS["admin"]) as admins,
        envs.open("test/pad") as env,
        ClientSession() as http,
    ):
        await env.reset()
        waiting = asyncio.create_task(env.step(call("hang")))

        async def ask(method: str, path: str, token: str | None) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {token}"}
            async with http.request(method, f"{server.url}{PATH}/{path}", headers=headers) as answer:
                return answer.status, None if answer.status == 204 else await answer.json()

        name = env.info.session
        for token in (TOKENS["grader"], env.agent_token):
            assert (await ask("GET", "sessions", token))[1]["code"] == "forbidden"
            assert (await ask("DELETE", f"sessions/{name}", token))[1]["code"] == "forbidden"
        for call_ in (lambda: admins.attach(name), lambda: admins.open("test/pad").__aenter__()):
            with pytest.raises(UsageError, match="admin may not"):
                await call_()
        status, listed = await ask("GET", "sessions", TOKENS["admin"])
        (line,) = listed["sessions"]
        assert (status, line["session"], line["env"], line["turn"], line["end"]) == (
            200,
            name,
            "test/pad",
            0,
            None,
        )
        assert await ask("DELETE", f"sessions/{name}", TOKENS["admin"]) == (204, None)
        with pytest.raises(ServerFailed, match="by an operator"):
            await waiting
        with pytest.raises(ServerFailed, match="by an operator") as told:
            await env.step(call("show"))
        assert told.value.code is Code.CLOSED
        assert (await ask("DELETE", f"sessions/{name}", TOKENS["admin"]))[0] == 404
        assert (await ask("GET", "sessions", TOKENS["trainer"]))[1] == {"sessions": []}


async def test_no_token_and_no_key_of_a_lease_is_ever_logged_or_shown(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, "asyncio")
    secrets = [*TOKENS.values(), "token-that-is-wrong"]
    async with serving() as server, connect(server.url, token=TOKENS["trainer"]) as envs:
        for wrong in ("token-that-is-wrong", TOKENS["admin"]):
            with pytest.raises(UsageError) as told:
                async with connect(server.url, token=wrong) as others, others.open("test/pad"):
                    pass
            assert wrong not in str(told.value)
        async with envs.open("test/pad") as env:
            await env.reset()
            secrets += [str(env.agent_token), env._desk.link.welcome.lease]
            with monkeypatch.context() as patch:
                patch.setattr(type(server._service), "_step", None)
                with pytest.raises(ServerFailed, match="server's log"):
                    await env.step(call("show"))
            shown = [repr(thing) for thing in (env.info, env._desk.link.welcome, Tokens.of(TOKENS))]
    assert "A request step" in caplog.text
    for secret in secrets:
        assert len(secret) > 8
        assert secret not in caplog.text
        assert not [text for text in shown if secret in text]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("\n", "holds no token"),
        ("abc def", "line 1: give each role"),
        ("tester abc", "line 1: give each role"),
        ("trainer", "ROLE TOKEN"),
        ("trainer a b", "ROLE TOKEN"),
        ("trainer abc\ngrader abc", "the same"),
        ("trainer abc\ntrainer abd", "line 2"),
        ("grader abc", "trainer's is missing"),
        ("trainer é", "ASCII"),
    ],
)
def test_a_file_of_tokens_that_is_wrong_is_refused_without_showing_them(
    lines: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(lines)
    with pytest.raises(UsageError, match=said) as told:
        Tokens.read(file)
    assert "abc" not in str(told.value)


def test_a_file_of_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("\n".join(f"{role}  {token}" for role, token in TOKENS.items()) + "\n")
    tokens = Tokens.read(file)
    assert {role: tokens.role(token) for role, token in TOKENS.items()} == {role: role for role in TOKENS}
    assert tokens.role("token-of-traine") is None
    with pytest.raises(UsageError, match="twice"):
        Tokens.read(file, "another")
    file.write_text("admin boss\n")
    assert Tokens.read(file, "coach").role("coach") == "trainer"


async def test_over_tls_and_only_with_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    certificate, key, wrong = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "wrong.pem"
    certificate.write_text(CERTIFICATE)
    key.write_text(KEY)
    wrong.write_text("nothing")
    async with serving(tls=(certificate, key)) as server:
        assert server.url.startswith("https://")
        for ca in (certificate, str(certificate)):
            async with (
                connect(server.url, token=TOKENS["trainer"], ca=ca) as envs,
                envs.open("test/pad") as env,
            ):
                assert (await env.reset()).text == "write"
        with pytest.raises(UsageError, match="not trusted: self-signed certificate; connect"):
            async with connect(server.url, token=TOKENS["trainer"]):
                pass
        with pytest.raises(ServerFailed, match="is the scheme right"):
            async with connect(server.url.replace("https", "http"), token=TOKENS["trainer"]):
                pass
        for bad in (wrong, tmp_path / "absent"):
            with pytest.raises(UsageError, match="ca"):
                async with connect(server.url, token=TOKENS["trainer"], ca=bad):
                    pass
    for pair in ((wrong, key), (certificate, wrong), (certificate, tmp_path / "absent")):
        with pytest.raises(UsageError, match="certificate"):
            EnvServer(["test/pad"], tls=pair)
