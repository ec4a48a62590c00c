"""Machines, and the sample repository with its suite calibrated on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest_asyncio

from turnwise.envs.cheat import Cheat
from turnwise.envs.swe.cheats.catalogue import Desk
from turnwise.envs.swe.cheats.sample import Sample, sample
from turnwise.envs.swe.grading import Machines, Rules, Suite, Tree, Verdict, calibrate, collect, grade
from turnwise.envs.swe.grading.machines import REPOSITORY
from turnwise.sandbox import Sandbox, SandboxSpec, backend


@dataclass(frozen=True, slots=True)
class Started:
    """An episode as cheats find it."""

    sandbox: Sandbox
    base: Tree
    reference: Tree
    rules: Rules


@dataclass(frozen=True, slots=True)
class Grader:
    """Grades what is done in a sandbox that holds the sample's broken base."""

    machines: Machines
    sample: Sample
    suite: Suite

    async def tree(self, tree: Tree) -> Verdict:
        submission = await collect(tree, self.sample.base, self.suite.rules)
        return await grade(self.suite, self.sample.base, submission, machines=self.machines)

    async def begin(self) -> Started:
        sandbox = await self.machines.backend.create(SandboxSpec())
        await sandbox.write_tree({f"{REPOSITORY}/{path}": data for path, data in self.sample.base.items()})
        return Started(sandbox, self.sample.base, self.sample.reference, self.suite.rules)

    async def cheat(self, cheat: Cheat[Desk]) -> Verdict:
        desk = await self.begin()
        await cheat.apply(desk)
        submission = await collect(desk.sandbox, self.sample.base, self.suite.rules)
        return await grade(self.suite, self.sample.base, submission, machines=self.machines)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def machines() -> AsyncIterator[Machines]:
    async with backend("namespaces").running() as running:
        yield Machines(running)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def grader(machines: Machines) -> Grader:
    found = sample()
    suite = await calibrate(found.suite, found.reference, found.base, machines=machines)
    return Grader(machines, found, suite)
