"""The backends that the contract suite (test_contract*.py) runs over: all that this machine has but docker.

TURNWISE_TEST_BACKENDS names others, as ``docker`` in the stage of continuous integration that has an Engine.

A protection that a backend declares lost here is not asked of it: a test marked ``needs("disk quota")``
is left out for a backend whose probe lists something of that name in ``lost``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path

import pytest
import pytest_asyncio

from turnwise.sandbox import Backend, ExecResult, Probe, Sandbox, SandboxSpec
from turnwise.sandbox.backends import load

ASKED = os.environ.get("TURNWISE_TEST_BACKENDS", "").split()
PROBES = [load(name).probe() for name in ASKED or ("namespaces", "process")]
AVAILABLE: dict[str, Probe] = {probe.backend: probe for probe in PROBES if probe.available or ASKED}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(protection): left out for backends that declare it lost")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_backend" in metafunc.fixturenames:
        metafunc.parametrize("any_backend", list(AVAILABLE), indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [item for item in items if lacks(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def lacks(item: pytest.Item) -> bool:
    """Whether a test is over a backend that declares lost what the test needs."""
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return False
    probe = AVAILABLE.get(str(item.callspec.params.get("any_backend")))
    needed = [mark.args[0] for mark in item.iter_markers("needs")]
    return probe is not None and any(need in lost for need in needed for lost in probe.lost)


def overlays() -> list[str]:
    """The overlays that the namespaces backend has mounted where this process sees them; no Engine's."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [line for line in lines if line.startswith("none ") and " overlay " in line]


async def with_time(
    run: Callable[[float], Awaitable[ExecResult]], enough: Callable[[ExecResult], object]
) -> ExecResult:
    """The first result that came far enough, of runs that each have a longer timeout than the one before.

    For what has to happen before a timeout: when it does depends on the machine.
    """
    for timeout in (1.0, 5.0):
        result = await run(timeout)
        if enough(result):
            return result
    return await run(30.0)


async def cancelled(work: Coroutine[object, object, object], cycles: int) -> None:
    """Begin something and cancel it after so many turns of the loop, unless it was quicker."""
    task = asyncio.create_task(work)
    for _ in range(cycles):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def any_backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    async with load(request.param)().running() as backend:
        yield backend


@pytest_asyncio.fixture(loop_scope="session")
async def sandbox(any_backend: Backend) -> AsyncIterator[Sandbox]:
    async with await any_backend.create(SandboxSpec()) as created:
        yield created
