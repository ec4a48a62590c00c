"""What the tests of software repair share: a small task whose tests start fast, and real sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from turnwise.envs.local import LocalEnvs
from turnwise.envs.session import Session
from turnwise.envs.swe.patch import make_patch
from turnwise.envs.swe.task import FilesRepository, SweTask

CALC = "def double(x):\n    return x + x\n\n\ndef half(x):\n    return x / 2\n"
BROKEN = CALC.replace("x + x", "x + 1")

Make = Callable[..., SweTask]
Open = Callable[..., AbstractAsyncContextManager[Session]]


def small(**fields: Any) -> SweTask:
    """``double`` adds 1; the plain runner tests it, visibly with 1, hidden with 5."""
    files = {
        "calc.py": BROKEN,
        "tests/test_seen.py": "from calc import double\n\ndef test_one():\n    assert double(1) == 2\n",
    }
    hidden = (
        "from calc import double, half\n\n"
        "def test_double():\n    assert double(5) == 10\n\n"
        "def test_half():\n    assert half(4) == 2\n"
    )
    defaults: dict[str, Any] = {
        "id": "double",
        "issue": "double(5) should be 10",
        "repository": FilesRepository(files=files),
        "patch": make_patch({"calc.py": BROKEN.encode()}, {"calc.py": CALC.encode()}),
        "hidden": {"test_hidden.py": hidden},
        "fail_to_pass": ("test_hidden.py::test_double",),
        "pass_to_pass": ("test_hidden.py::test_half",),
        "visible": ("tests/test_seen.py",),
        "runner": "plain",
        "verified": True,
    }
    return SweTask(**{**defaults, **fields})


@pytest.fixture
def make() -> Make:
    return small


@pytest.fixture
async def envs() -> AsyncIterator[LocalEnvs]:
    async with LocalEnvs(backend="namespaces", capacity=4) as envs:
        yield envs


@pytest.fixture
def open_task(envs: LocalEnvs) -> Open:
    """A session of a task, to be reset."""
    return lambda task: envs.open("swe/tasks", task=task.task("swe/tasks", 0))
