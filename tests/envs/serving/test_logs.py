"""The log says what it is about, as text and as JSON, and never a token."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType

from turnwise import connect
from turnwise.envs.serving.logs import About, Style, writing_log
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.tokens import Tokens
from turnwise.envs.serving.wire import LEASE_HEADER, PATH
from turnwise.envs.types import call

TOKENS = Tokens.of({"trainer": "token-of-trainer", "grader": "token-of-grader", "admin": "token-of-admin"})


async def session_with_every_token(server: EnvServer) -> tuple[str, list[str]]:
    """An episode that fails, with callers of every kind, good and bad; its name and all secrets."""
    secrets = [*TOKENS.roles.values(), "wrong-token", "bare-token", "torn-token"]
    async with (
        connect(server.url, token="token-of-trainer") as envs,
        connect(server.url, token="token-of-grader") as graders,
        envs.open("test/pad") as env,
        ClientSession() as http,
    ):
        name, agent = env.info.session, env.agent_token
        assert agent is not None
        await env.reset()
        async with connect(server.url, token=agent) as side:
            await (await side.attach()).step(call("lose"))
        await graders.attach(name)
        for header in ("Bearer token-of-admin", f"Bearer {agent}", "Bearer wrong-token", "bare-token"):
            async with http.get(f"{server.url}{PATH}/status", headers={"Authorization": header}):
                pass
        async with http.ws_connect(
            f"{server.url}{PATH}", headers={"Authorization": "Bearer token-of-trainer"}
        ) as socket:
            lease = (await socket.receive_json())["lease"]
            await socket.send_str("{" + lease)
            assert (await socket.receive()).type is WSMsgType.TEXT
        headers = {"Authorization": "Bearer token-of-trainer", LEASE_HEADER: lease}
        async with http.ws_connect(f"{server.url}{PATH}", headers=headers):
            pass
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer torn-token\x00\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
    return name, [*secrets, agent, lease]


async def logged(style: Style, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str], list[str]]:
    with writing_log(style, "debug", worker=3):
        async with (
            asyncio.timeout(120),
            EnvServer(["test/pad"], port=0, token=TOKENS, backend="process") as server,
        ):
            name, secrets = await session_with_every_token(server)
    return name, secrets, capsys.readouterr().err.splitlines()


async def test_json_lines_carry_their_session_and_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    name, secrets, lines = await logged("json", capsys)
    said: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for line in said:
        assert {"time", "level", "logger", "message", "worker"} <= line.keys()
        assert line["worker"] == 3
    of_session = [(line["level"], line["message"]) for line in said if line.get("session") == name]
    assert ("info", "session opened") in of_session
    assert ("info", "session closed after 1 turns: infra_error") in of_session
    (failed,) = [line for line in said if line["message"].startswith("infra_error")]
    assert (failed["session"], failed["env"], failed["level"]) == (name, "test/pad", "warning")
    assert isinstance(failed["request"], int)
    assert not [secret for secret in secrets if secret in "\n".join(lines)]


async def test_text_is_a_line_a_record_and_holds_no_token(capsys: pytest.CaptureFixture[str]) -> None:
    name, secrets, lines = await logged("text", capsys)
    (opened,) = [line for line in lines if "session opened" in line]
    assert opened.endswith(f"session opened  [worker=3 session={name} env=test/pad]")
    assert not [secret for secret in secrets if secret in "\n".join(lines)]


def test_a_message_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    for style in ("text", "json"):
        with writing_log(style, "info"):
            logging.getLogger("turnwise.test").warning("one\ntwo")
            logging.getLogger("turnwise.test").debug("three")
            logging.getLogger("elsewhere").info("four")
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_what_was_logged_within_is_about_it_and_nothing_after(capsys: pytest.CaptureFixture[str]) -> None:
    with writing_log("json", "info"):
        with About("s", request=7) as subject:
            subject.env = "e"
            logging.getLogger("turnwise.test").info("within")
            try:
                raise ValueError("why")
            except ValueError:
                logging.getLogger("turnwise.test").exception("failed")
        logging.getLogger("turnwise.test").info("after")
    within, failed, after = map(json.loads, capsys.readouterr().err.splitlines())
    assert (within["session"], within["env"], within["request"]) == ("s", "e", 7)
    assert "ValueError: why" in failed["trace"]
    assert after.keys() == {"time", "level", "logger", "message", "worker"}
