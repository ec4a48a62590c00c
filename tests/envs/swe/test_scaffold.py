"""The agent's tools on a repository in a sandbox: what they do, and what they say when they cannot."""

from __future__ import annotations

from typing import Any

import pytest

from turnwise.envs.session import Session
from turnwise.envs.swe.task import FilesRepository, SweLimits
from turnwise.envs.types import CallAction, EndReason, ToolCall, call


async def use(session: Session, name: str, **arguments: Any) -> str:
    """What the agent sees of one call."""
    return (await session.step(call(name, **arguments))).view.text


async def test_looking_around(make, open_task) -> None:
    async with open_task(make()) as session:
        assert (await session.reset()).text == "double(5) should be 10"
        assert await use(session, "view", path=".") == ".git/\ncalc.py\ntests/"
        assert (
            await use(session, "view", path="calc.py", first=2, last=3) == "    2      return x + 1\n    3  "
        )
        found = await use(session, "search", pattern=r"def \w+\(x\)")
        assert found == "calc.py:1: def double(x):\ncalc.py:5: def half(x):"
        assert await use(session, "search", pattern="nowhere") == "no match"
        assert await use(session, "shell", command="pwd; git log --oneline | wc -l") == "/workspace\n1"


async def test_edits_reach_the_file_and_are_undone_one_by_one(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        read = session.env.sandbox.read
        before = await read("/workspace/calc.py")
        assert (
            await use(session, "replace", path="calc.py", old="x + 1", new="x + x") == "calc.py was changed"
        )
        assert await use(session, "insert", path="calc.py", line=0, text="# top") == "calc.py was changed"
        assert (await read("/workspace/calc.py")).startswith(b"# top\ndef double(x):\n    return x + x\n")
        await use(session, "undo", path="calc.py")
        await use(session, "undo", path="/workspace/calc.py")
        assert await read("/workspace/calc.py") == before
        assert await use(session, "undo", path="calc.py") == "error: nothing to undo in calc.py"
        assert await use(session, "create", path="new/a.py", content="x = 1\n") == "new/a.py was created"
        assert await read("/workspace/new/a.py") == b"x = 1\n"
        await use(session, "undo", path="new/a.py")
        with pytest.raises(FileNotFoundError):
            await read("/workspace/new/a.py")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("replace", {"path": "calc.py", "old": "x + 2", "new": "y"}, "not in calc.py; view the file"),
        ("replace", {"path": "calc.py", "old": "return", "new": "y"}, "is in calc.py 2 times; add lines"),
        ("replace", {"path": "calc.py", "old": "", "new": "y"}, "the old text is not in calc.py"),
        ("replace", {"path": "calc.py", "old": "x + 1", "new": "x + 1"}, "nothing would change"),
        ("replace", {"path": "missing.py", "old": "a", "new": "b"}, "there is no missing.py"),
        ("replace", {"path": "tests", "old": "a", "new": "b"}, "tests is a folder"),
        ("replace", {"path": "blob", "old": "a", "new": "b"}, "blob is no text in UTF-8; use the shell"),
        ("create", {"path": "calc.py", "content": ""}, "calc.py exists; use replace"),
        ("create", {"path": "../../etc/passwd", "content": ""}, "outside the repository"),
        ("create", {"path": "/opt/x", "content": ""}, "outside the repository"),
        ("create", {"path": ".git/hooks/pre-commit", "content": ""}, "the history is not to be touched"),
        ("create", {"path": "calc.py/x", "content": ""}, "is no folder, or below a file"),
        (
            "insert",
            {"path": "calc.py", "line": 99, "text": "x"},
            "calc.py has 6 lines; give a line from 0 to 6",
        ),
        ("view", {"path": "/etc/passwd"}, "outside the repository; give a path below /workspace"),
        ("view", {"path": "calc.py", "first": 5, "last": 2}, "lines 5 to 2 are none"),
        ("view", {"path": "a\0b"}, "outside the repository"),
        ("search", {"pattern": "("}, "no regular expression"),
        ("search", {"pattern": "x", "path": "nowhere"}, "there is no nowhere"),
        ("test", {"path": "--collect-only"}, "options are not taken"),
    ],
)
async def test_a_mistake_is_told_with_its_remedy(
    make, open_task, name: str, arguments: dict[str, Any], says: str
) -> None:
    async with open_task(make()) as session:
        await session.reset()
        await session.env.sandbox.write("/workspace/blob", b"\xff\xfe")
        step = await session.step(call(name, **arguments))
        assert step.view.text.startswith("error: ")
        assert says in step.view.text
        assert step.record is not None
        assert not step.record.valid
        assert step.end is None


async def test_a_link_out_of_the_repository_reaches_only_the_own_machine(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        await use(session, "shell", command="ln -s /etc/passwd link")
        assert "root:" in await use(
            session, "view", path="link"
        )  # the sandbox's, which the shell shows as well
        assert await use(session, "shell", command="ls /opt/turnwise") == "plain.py"


async def test_commands_tell_how_they_ended(make, open_task) -> None:
    async with open_task(make(limits=SweLimits(observation_chars=200))) as session:
        await session.reset()
        assert await use(session, "shell", command="true") == "(no output)"
        assert await use(session, "shell", command="echo hi; false") == "hi\n[exit 1]"
        long = await use(session, "shell", command="seq 1000")
        assert "characters cut" in long
        assert len(long) < 300
    async with open_task(make(limits=SweLimits(command_seconds=1))) as session:
        await session.reset()
        assert "[ended after 1 s; start long work" in await use(session, "shell", command="sleep 60")


async def test_tests_run_with_what_failed(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        failing = await use(session, "test")
        assert (
            "FAILED tests/test_seen.py::test_one" not in failing
        )  # 1 + 1 is 2: the visible test is too weak
        assert failing == "0 failed, 1 passed"
        await use(session, "replace", path="calc.py", old="x + 1", new="x + 3")
        assert "FAILED tests/test_seen.py::test_one: line 4: AssertionError" in await use(session, "test")
        assert "FAILED nowhere.py" in await use(session, "test", path="nowhere.py")


async def test_tests_that_hang_are_ended(make, open_task) -> None:
    files = {"calc.py": "while True: pass\n", "tests/test_seen.py": "import calc\n"}
    task = make(
        repository=FilesRepository(files=files),
        patch="",
        limits=SweLimits(test_seconds=1),
        sources=("calc.py",),
    )
    async with open_task(task) as session:
        await session.reset()
        step = await session.step(call("test"))
        assert "[ended after 1 s" in step.view.text
        assert step.end is None


async def test_several_calls_of_a_turn_are_carried_out_in_order(make, open_task) -> None:
    async with open_task(make()) as session:
        await session.reset()
        calls = (
            ToolCall(name="replace", arguments={"path": "calc.py", "old": "x + 1", "new": "x + x"}),
            ToolCall(name="view", arguments={"path": "calc.py", "first": 2, "last": 2}),
            ToolCall(name="submit"),
        )
        step = await session.step(CallAction(calls=calls))
        assert (
            step.view.text == "calc.py was changed\n    2      return x + x\nsubmitted\nthe hidden tests pass"
        )
        assert step.end is EndReason.SUBMITTED
        assert session.score == 1.0


async def test_the_agents_own_way_of_running_pytest(make, open_task) -> None:
    task = make(
        runner="pytest",
        fail_to_pass=("test_hidden.py::test_double",),
        pass_to_pass=("test_hidden.py::test_half",),
    )
    async with open_task(task) as session:
        await session.reset()
        assert "1 passed" in await use(session, "shell", command="python3 -m pytest -q")
        assert "1 passed" in await use(session, "test")
        assert "1 passed" in await use(session, "test", path="tests/test_seen.py::test_one")
