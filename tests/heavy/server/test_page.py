"""The page in a real browser: live, dark and light, on a desk and in a hand, with and without a token."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, async_playwright

from turnwise import connect
from turnwise.envs.env import random_call
from turnwise.envs.serving.server import EnvServer

TOKEN = "token-of-trainer"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE = 180_000.0
"""Milliseconds for whatever the browser does."""
SHOTS = os.environ.get("TURNWISE_SHOTS")
"""A folder for pictures of the pages, for whoever wants to look."""


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = shutil.which("chromium")
    assert path is not None, "apt-get install chromium"
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS, timeout=PATIENCE)
        yield browser
        await browser.close()


@asynccontextmanager
async def busy_server(token: str | None) -> AsyncIterator[EnvServer]:
    """Three sessions of which one steps, and a fourth that waits for a place."""
    async with (
        asyncio.timeout(900),
        EnvServer(["tools/configdesk"], port=0, token=token, sessions=3) as server,
        connect(server.url, token=token) as envs,
        AsyncExitStack() as stack,
    ):
        sessions = [await stack.enter_async_context(envs.open("tools/configdesk", seed=n)) for n in range(3)]
        for session in sessions[:2]:
            view = await session.reset()
            await session.step(random_call(view.tools, random.Random(1)))
        waiting = asyncio.create_task(envs.open("tools/configdesk").__aenter__())
        yield server
        waiting.cancel()
        await asyncio.wait([waiting])


async def look(browser: Browser, server: EnvServer, scheme: Any, width: int) -> list[str]:
    """Open the page, typing the token where it asks, and check what it shows; what went wrong in it."""
    context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    context.set_default_timeout(PATIENCE)
    page, wrong = await context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
    page.on(
        "request", lambda sent: None if sent.url.startswith((server.url, "data:")) else wrong.append(sent.url)
    )
    await page.goto(server.url)
    await page.wait_for_selector("#door:not([hidden]), #status:not([hidden])")
    if await page.is_visible("#door"):
        for token in ("wrong", TOKEN):
            await page.fill("#token", token)
            await page.click("button")
            await page.wait_for_selector(
                "#notice:not([hidden])" if token == "wrong" else "#status:not([hidden])"
            )
    await page.wait_for_function("document.getElementById('waiting').textContent === '1'")
    assert await page.inner_text("#open") == "3"
    assert await page.locator("#sessions tr").count() == 3
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if SHOTS:
        await page.screenshot(path=Path(SHOTS) / f"server-{scheme}-{width}.png", full_page=True)
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"dark": "rgb(20, 23, 28)", "light": "rgb(255, 255, 255)"}[scheme]
    await context.close()
    return wrong


@pytest.mark.parametrize("token", [None, TOKEN], ids=["open", "token"])
async def test_the_page_shows_what_goes_on(browser: Browser, token: str | None) -> None:
    async with busy_server(token) as server:
        for scheme in ("dark", "light"):
            for width in (1120, 400):
                assert await look(browser, server, scheme, width) == []


async def test_a_server_that_is_gone_is_told_of(browser: Browser) -> None:
    async with busy_server(None) as server:
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE)
        await page.goto(server.url)
        await page.wait_for_selector("#status:not([hidden])")
    await page.wait_for_selector("#notice:not([hidden])")
    assert "does not answer" in await page.inner_text("#notice")
