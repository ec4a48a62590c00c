"""How sessions are weighed: what is whose, whatever it is, and whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.envs.serving.hoard import BOUND, Hoard, Waking, refused, some
from turnwise import connect
from turnwise.envs.local import LocalEnvs
from turnwise.envs.serving.client import RemoteSession
from turnwise.envs.serving.faults import Code
from turnwise.envs.serving.memory import MemoryBound
from turnwise.envs.serving.server import EnvServer
from turnwise.envs.serving.weighing import weigh
from turnwise.envs.session import Session
from turnwise.envs.types import call
from turnwise.sandbox.contract import MiB


@asynccontextmanager
async def holding(*objects: object) -> AsyncIterator[Session]:
    async with LocalEnvs() as envs, envs.open("test/hoard") as session:
        await session.reset()
        session.env.kept += objects  # type: ignore[attr-defined]
        yield session


@asynccontextmanager
async def weighing_in_order() -> AsyncIterator[tuple[MemoryBound, list[RemoteSession], list[Hoard]]]:
    """Two sessions that are weighed one after the other, for the second of which :meth:`Hoard.meanwhile` is
    called; nobody weighs them but who asks for it."""
    async with (
        asyncio.timeout(120),
        EnvServer(["test/hoard"], port=0) as server,
        connect(server.url) as envs,
        envs.open("test/hoard") as first,
        envs.open("test/hoard") as second,
    ):
        inside: list[Hoard] = []
        for env in (first, second):
            await env.reset()
            inside.append(Hoard.latest)
        inside[1].kept.append(np.zeros(1).view(Waking))
        yield MemoryBound(server._roster, server, BOUND), [first, second], inside


LARGE = 64 * MiB
"""So much at once is never of memory that the process has already."""


async def test_what_is_taken_while_others_are_weighed_is_seen_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with weighing_in_order() as (memory, (first, second), inside):
        with monkeypatch.context() as patch:
            patch.setattr(Hoard, "meanwhile", lambda: inside[0].kept.append(b"x" * LARGE))
            await memory.weigh()
        assert (await first.step(call("keep", pieces=0))).end is None, "it was weighed before"
        await memory.look()
        assert (await refused(first)).code is Code.MEMORY
        assert (await second.step(call("keep", pieces=0))).end is None


@cache
def loaded_late() -> list[bytes]:
    return some(20)


async def test_what_is_loaded_for_all_while_sessions_are_weighed_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with weighing_in_order() as (memory, sessions, _):
        monkeypatch.setattr(Hoard, "meanwhile", loaded_late)
        await memory.weigh()
        for env in sessions:
            assert (await env.step(call("keep", pieces=0))).end is None
        assert [held.memory // MiB for held in memory._roster.held if held.memory is not None] == [0, 0]
    loaded_late.cache_clear()


async def test_what_takes_the_place_of_what_was_weighed_is_weighed_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with holding() as first, holding(np.zeros(1).view(Waking)) as second:
        assert isinstance(first.env, Hoard)
        first.env.kept.append(b"x" * LARGE)

        def meanwhile() -> object:
            assert isinstance(first.env, Hoard)
            first.env.kept.clear()
            return b"x" * LARGE

        monkeypatch.setattr(Hoard, "meanwhile", meanwhile)
        weights = await weigh([first, second], [])
    assert [round(weight / MiB) for weight in weights] == [64, 64]


class Boastful:
    def __init__(self) -> None:
        self.pieces = some(3)

    def __sizeof__(self) -> int:
        raise ZeroDivisionError

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise ZeroDivisionError

    def __hash__(self) -> int:
        raise ZeroDivisionError


def circle() -> list[object]:
    pieces: list[object] = [*some(3)]
    pieces.append(pieces)
    return pieces


def function() -> object:
    pieces = some(3)
    return lambda: pieces


def small() -> tuple[object, ...]:
    each = sys.getsizeof((0.0,)) + sys.getsizeof(0.0) + 8
    return tuple((float(number),) for number in range(3 * MiB // each))


def objects() -> np.ndarray[Any, Any]:
    array = np.empty(3, dtype=object)
    array[:] = some(3)
    return array


def tensors() -> list[object]:
    """Two of the same storage."""
    import torch

    whole = torch.zeros(3 * MiB, dtype=torch.uint8)
    return [whole, whole[5:]]


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda: np.zeros(3 * MiB, dtype=np.uint8), id="array"),
        pytest.param(lambda: np.zeros(3 * MiB, dtype=np.uint8)[:5], id="view"),
        pytest.param(objects, id="objects in an array"),
        pytest.param(tensors, id="tensors"),
        pytest.param(Boastful, id="what misleads whoever asks it"),
        pytest.param(circle, id="circle"),
        pytest.param(function, id="function"),
        pytest.param(lambda: (one for one in some(3)), id="generator"),
        pytest.param(small, id="many small ones"),
        pytest.param(lambda: [asyncio.get_running_loop(), *some(3)], id="the loop, and so everything"),
    ],
)
async def test_what_an_environment_holds_whatever_it_is(kept: Any) -> None:
    async with holding(kept()) as session:
        (weight,) = await weigh([session], [])
    assert round(weight / MiB, 1) == pytest.approx(3, abs=0.15)


def test_weighing_needs_no_torch() -> None:
    script = "import turnwise.envs.serving.weighing, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
