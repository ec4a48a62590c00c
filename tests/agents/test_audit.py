"""The audit finds what scores and should not, what does not and should, and what could not be graded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from turnwise.agents.audit import audit
from turnwise.cli import run
from turnwise.envs.cheat import Cheat
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.registry import register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.tool import tool
from turnwise.envs.types import Action, AgentView, EndReason, EpisodeLimits, Grade, Model, Task, call, text
from turnwise.sandbox.contract import LimitExceeded, SandboxDied


class DoorOptions(Model):
    """What is wrong with it."""

    leak: bool = False
    stuck: bool = False
    open: bool = False


class Door(Env):
    """``turn`` the handle, then ``enter``."""

    name = "test/door"
    limits = EpisodeLimits(turns=4)
    Options = DoorOptions
    options: DoorOptions

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 3)

    async def reset(self, task: Task) -> AgentView:
        self.turned = self.forced = self.broken = False
        return text("a door")

    @tool
    async def turn(self) -> str:
        """Turn the handle."""
        self.turned = not self.options.stuck
        return "ok"

    @tool(submits=True)
    async def enter(self) -> str:
        """Go in."""
        return "ok"

    async def grade(self) -> Grade:
        if self.broken:
            raise SandboxDied("gone")
        forced = self.forced and self.options.leak
        return Grade(score=float(self.turned or forced or self.options.open), notes=("looked",))

    async def oracle(self) -> Action:
        return call("enter") if self.turned or self.options.stuck else call("turn")

    @classmethod
    def cheats(cls) -> Sequence[Cheat[Any]]:
        return (
            Cheat("force", "strength", cls._force, ending=call("enter")),
            Cheat("exhaust", "strength", cls._exhaust, ending=call("enter")),
            Cheat("do-the-task", "wit", cls._do_it, residue=True, ending=call("enter")),
        )

    async def _force(self) -> None:
        self.forced = True

    async def _exhaust(self) -> None:
        raise LimitExceeded("memory", "64 MiB are used up")

    async def _do_it(self) -> None:
        self.turned = True


class Fragile(Door):
    """One that a cheat breaks beyond grading."""

    name = "test/fragile"

    @classmethod
    def cheats(cls) -> Sequence[Cheat[Any]]:
        return (Cheat("break", "strength", cls._break, ending=call("enter")),)

    async def _break(self) -> None:
        self.broken = True


class Unsolved(Door):
    """One that nobody can demonstrate."""

    name = "test/unsolved"
    oracle = Env.oracle  # type: ignore[assignment]


register(Door)
register(Fragile)
register(Unsolved)


async def test_a_sound_environment_is_sound_and_its_residue_stands_apart() -> None:
    found = await audit("test/door")
    assert found.sound
    assert (found.oracle.score, found.noop.score) == (1.0, 0.0)
    assert len(found.oracle.tasks) == len(found.noop.tasks) == 3
    assert [(c.name, c.score) for c in found.cheats] == [("force", 0.0), ("exhaust", 0.0)]
    assert [(c.name, c.score, c.detail) for c in found.residue] == [("do-the-task", 1.0, "looked")]
    assert len({c.task for c in (*found.cheats, *found.residue)}) == 3, "each on a task of its own"


async def test_every_cheat_can_be_tried_on_every_task() -> None:
    found = await audit("test/door", tasks=2, every=True)
    assert [(c.name, c.task[-1]) for c in found.cheats] == [
        ("force", "0"), ("force", "1"), ("exhaust", "0"), ("exhaust", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("env", "fault"),
    [
        ("test/door?leak=true", "force scores 1 on "),
        ("test/door?stuck=true", "the oracle scores 0 on "),
        ("test/door?open=true", "doing nothing scores 1 on "),
        ("test/fragile", "break scores nothing that can be graded on "),
    ],
)
async def test_what_is_wrong_is_named(env: str, fault: str) -> None:
    found = await audit(env, tasks=1)
    assert not found.sound
    assert any(line.startswith(fault) for line in found.faults), found.faults


async def test_a_failure_of_the_machine_is_no_score() -> None:
    (broken,) = (await audit("test/fragile", tasks=1)).cheats
    assert (broken.score, broken.end) == (None, EndReason.INFRA_ERROR)
    assert "gone" in broken.detail


@pytest.mark.parametrize(
    ("env", "tasks", "message"),
    [("test/unsolved", None, "no oracle"), ("test/door", 4, "tasks=4"), ("test/door", 0, "tasks=0")],
)
async def test_what_cannot_be_audited_is_refused(env: str, tasks: int | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        await audit(env, tasks=tasks)


def test_the_command_prints_json_and_its_exit_code_is_the_verdict(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "audit.json"
    assert run(["audit", "test/door?leak=true", "--json", "--out", str(out)]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert (printed["oracle"]["score"], printed["noop"]["score"]) == (1.0, 0.0)
    assert {"name", "group", "task", "score", "detail"} <= printed["cheats"][0].keys()
    assert [c["name"] for c in printed["residue"]] == ["do-the-task"]
    assert run(["audit", "test/door"]) == 0
    assert "sound: the oracle scores, and none of 2 cheats does" in capsys.readouterr().out
    assert run(["audit", "test/door?leak=true"]) == 1
    assert "force scores 1 on" in capsys.readouterr().out


async def test_no_cheat_of_the_desk_scores() -> None:
    found = await audit("tools/configdesk", tasks=4, every=True)
    assert found.sound, found.faults
    assert len(found.cheats) == 44
