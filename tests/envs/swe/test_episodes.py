"""Episodes: what counts on the way, what the end is worth, and what an agent can do to spoil either."""

from __future__ import annotations

from typing import Any

import pytest

from turnwise.envs.session import Session
from turnwise.envs.swe.task import FilesRepository, SweLimits
from turnwise.envs.types import EndReason, FinishAction, Step, call

MEND = {"path": "calc.py", "old": "x + 1", "new": "x + x"}
SPOIL = {"path": "calc.py", "old": "x / 2", "new": "x / 3"}


async def act(session: Session, name: str, **arguments: Any) -> Step:
    return await session.step(call(name, **arguments))


def channel(step: Step, name: str) -> float | None:
    assert step.record is not None
    return next(term.value for term in step.record.terms if term.channel == name)


def reached(step: Step) -> tuple[str, ...]:
    assert step.record is not None
    return step.record.milestones


async def test_milestones_come_with_what_was_done(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        assert reached(await act(session, "search", pattern="double")) == ()
        assert reached(await act(session, "test")) == ()  # the visible test passes: nothing was reproduced
        assert reached(await act(session, "view", path="calc.py")) == ("opened_fault",)
        assert reached(await act(session, "replace", **MEND)) == ("patched", "first_fixed", "visible_passed")
        assert reached(await act(session, "submit")) == ("handed_in",)
        assert session.score == 1.0


async def test_a_failing_visible_test_reproduces_the_failure(make, open_task) -> None:
    files = {
        "calc.py": make().repository.files["calc.py"],
        "tests/test_seen.py": "from calc import double\n\ndef test_two():\n    assert double(2) == 4\n",
    }
    async with open_task(make(repository=FilesRepository(files=files))) as session:
        await session.reset()
        assert reached(await act(session, "test")) == ("reproduced",)


async def test_a_test_of_the_agents_own_reproduces_only_the_failure_there_is(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        assert (
            reached(await act(session, "create", path="test_a.py", content="def test_a(): assert 0\n")) == ()
        )
        good = "from calc import double\ndef test_b(): assert double(7) == 14\n"
        step = await act(session, "create", path="test_b.py", content=good)
        assert reached(step) == ("reproduced",)
        assert channel(step, "modified") == 0.0  # tests are no repair


async def test_changes_by_commands_are_seen(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        step = await act(session, "shell", command="sed -i 's/x + 1/x * 2/' calc.py")
        assert reached(step) == ("opened_fault", "patched", "first_fixed", "visible_passed")
        step = await act(session, "shell", command="git checkout -q calc.py")
        assert channel(step, "modified") == 0.0
        assert channel(step, "tests") == -1.0
        step = await act(
            session, "shell", command="rm calc.py; mkdir -p deep/er; echo 'x = 1' > deep/er/new.py"
        )
        assert channel(step, "modified") == 1.0


async def test_the_channel_of_tests_cannot_be_farmed(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        gains = []
        for edit in (MEND, SPOIL):
            gains.append(channel(await act(session, "replace", **edit), "tests"))
        gains.append(channel(await act(session, "undo", path="calc.py"), "tests"))
        gains.append(channel(await act(session, "undo", path="calc.py"), "tests"))
        gains.append(channel(await act(session, "replace", **MEND), "tests"))
        assert gains == [1.0, -1.0, 1.0, -1.0, 1.0]


async def test_harder_tests_weigh_more(make, open_task) -> None:
    hidden = (
        "from calc import double\ndef test_a(): assert double(0) == 0\ndef test_b(): assert double(5) == 10\n"
    )
    task = make(
        hidden={"test_hidden.py": hidden},
        fail_to_pass=("test_hidden.py::test_a", "test_hidden.py::test_b"),
        pass_to_pass=(),
        weights={"test_hidden.py::test_b": 3.0},
    )
    async with open_task(task) as session:
        await session.reset()
        step = await act(session, "replace", path="calc.py", old="x + 1", new="x + 0")
        assert channel(step, "tests") == 0.25
        await act(session, "submit")
        assert session.score == 0.0


@pytest.mark.parametrize(
    ("edits", "submits", "score", "modified"),
    [
        ((), False, 0.0, 0.0),
        ((), True, 0.0, 0.0),
        ((SPOIL,), True, 0.0, 1.0),
        ((MEND, SPOIL), True, 0.0, 1.0),
        ((MEND,), False, 0.0, 1.0),
        ((MEND,), True, 1.0, 1.0),
    ],
)
async def test_outcomes_are_told_apart(
    make, open_task, edits: tuple[dict[str, str], ...], submits: bool, score: float, modified: float
) -> None:
    async with open_task(make()) as session:
        await session.reset()
        for edit in edits:
            await act(session, "replace", **edit)
        last = await act(session, "submit") if submits else await session.step(FinishAction())
        assert session.score == score
        assert channel(last, "modified") == modified


async def test_changed_tests_are_of_no_use(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        for path in ("tests/test_seen.py", "test_hidden.py", "conftest.py"):
            await act(session, "shell", command=f"echo 'def test_double(): pass' > {path}")
        step = await act(session, "submit")
        assert channel(step, "modified") == 0.0
        assert session.score == 0.0


@pytest.mark.parametrize(
    "command",
    [
        "echo '[pytest]\npython_files = x.py' | tee pytest.ini setup.cfg tox.ini",
        "echo 'raise SystemExit(0)' | tee sitecustomize.py usercustomize.py > conftest.py",
        "rm -rf /workspace/* /workspace/.git",
        "rm -rf calc.py && mkdir calc.py",
        "rm calc.py && mkfifo calc.py",
        "rm calc.py && ln -s /dev/zero calc.py",
        "chmod 000 . calc.py",
        "for i in $(seq 3000); do echo x > f$i.txt; done",
        "mkdir -p /tmp/turnwise-report; rm -rf /opt/turnwise; mkdir -p /opt/turnwise/plain.py",
        "while true; do echo 'x = 1' > calc.py; done & sleep 0.1",
        "head -c 300000000 /dev/zero > big; true",
        "printf 'import os\\nos._exit(0)\\n' > calc.py",
        "printf 'import os, time\\nos.kill(os.getppid(), 9)\\n' > calc.py",
        "printf 'while True: pass\\n' > calc.py",
        "cp /bin/false /workspace/python3; export PATH=/workspace:$PATH",
    ],
)
async def test_an_agent_that_spoils_its_machine_fails_and_is_scored(make, open_task, command: str) -> None:
    task = make(limits=SweLimits(test_seconds=2, disk_mb=64, memory_mb=128))
    async with open_task(task) as session:
        await session.reset()
        step = await act(session, "shell", command=command)
        if step.end is None:
            step = await act(session, "test")
        if step.end is None:
            step = await act(session, "submit")
        assert session.end in (EndReason.SUBMITTED, EndReason.AGENT_FAULT), step.record
        assert session.score == 0.0


async def test_the_answer_is_not_in_the_sandbox(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        sandbox = session.env.sandbox
        for place in ("/workspace", "/opt", "/tmp", "/etc", "/root", "/run", "/var"):
            for needle in ("test_double", "x \\+ x"):
                assert await sandbox.search(needle, place) == ()
        listed = (await sandbox.exec("find / -xdev -name 'test_hidden*' 2>/dev/null")).stdout
        assert listed == b""
        await act(session, "replace", **MEND)  # a trial has run by now, somewhere else
        listed = (await sandbox.exec("find / -xdev -name 'test_hidden*' 2>/dev/null")).stdout
        assert listed == b""


async def test_a_fork_goes_its_own_way(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        await act(session, "view", path="calc.py")
        (twin,) = await session.fork(1)
        async with twin:
            await act(twin, "replace", **MEND)
            await act(twin, "submit")
            assert twin.score == 1.0
        step = await act(session, "submit")
        assert channel(step, "modified") == 0.0
        assert session.score == 0.0
