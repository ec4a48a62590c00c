"""Inspect AI's own conformance suite, on every backend of this machine that has a file system of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from inspect_ai.util import SandboxEnvironment, SandboxUserUnsupportedError
from inspect_ai.util._sandbox.self_check import *  # noqa: F403  its tests become this module's

from turnwise.sandbox import probes
from turnwise.sandbox.inspect_provider import SandboxConfig, TurnwiseSandboxEnvironment

BACKENDS = [p for p in probes() if p.available and "file system isolation" not in p.lost]


@pytest.fixture(params=BACKENDS, ids=lambda probe: probe.backend)
async def sandbox_env(request: pytest.FixtureRequest) -> AsyncIterator[SandboxEnvironment]:
    if (
        request.node.originalname == "test_exec_as_user"
        and "other users than the agent" in request.param.lost
    ):
        reason = "its sandboxes have one user"
        request.applymarker(pytest.mark.xfail(raises=SandboxUserUnsupportedError, strict=True, reason=reason))
    provider = TurnwiseSandboxEnvironment
    config = SandboxConfig(backend=request.param.backend)
    await provider.task_init("check", config)
    environments = await provider.sample_init("check", config, {})
    yield environments["default"]
    await provider.sample_cleanup("check", config, environments, False)
    await provider.task_cleanup("check", config, True)
