"""A live server keeps what its OpenAPI document promises, under about 2,000 requests of schemathesis."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from aiohttp import ClientSession

from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.status import Status
from turnwise.envs.serving.wire import PATH

CONFIG = Path(__file__).parent / "schemathesis.toml"
HEADERS = {"Authorization": "Bearer token-of-trainer"}


async def schemathesis(url: str, folder: Path) -> tuple[int | None, str]:
    """Its exit code and what it said."""
    (header,) = HEADERS.items()
    process = await asyncio.create_subprocess_exec(
        *(
            Path(sys.executable).parent / "schemathesis",
            "--config-file",
            CONFIG,
            "run",
            f"{url}/openapi.json",
        ),
        *("--header", ": ".join(header), "--max-examples", "100", "--seed", "1"),
        *("--generation-database", "none"),
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_two_thousand_requests_find_nothing_that_the_document_does_not_say(tmp_path: Path) -> None:
    async with (
        asyncio.timeout(1500),
        EnvServer(["tools/configdesk"], port=0, token="token-of-trainer") as server,
        ClientSession(headers=HEADERS) as http,
    ):
        code, said = await schemathesis(server.url, tmp_path)
        assert code == 0, said
        (generated,) = re.findall(r"(\d+) generated", said)
        assert int(generated) > 1800
        async with http.get(f"{server.url}{PATH}/status") as answer:
            status = Status.model_validate_json(await answer.read())
    assert not [code for code in status.faults if code == "internal" or code.startswith("http_5")]
    assert (status.sessions, status.errors) == ((), ())
