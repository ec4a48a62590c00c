"""Episodes graded by the judge: what a forged pass is worth, what an agent is told, whose fault it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.envs.swe.conftest import BROKEN, Make, Open
from turnwise.cli import run
from turnwise.envs.local import LocalEnvs
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.envs.swe.admission import admit, machines_for, suite_of, trees
from turnwise.envs.swe.environment import SweEnv
from turnwise.envs.swe.grading import Reason
from turnwise.envs.swe.sample.packages import packaged_tasks
from turnwise.envs.swe.sample.small import small_task
from turnwise.envs.swe.task import SweTask
from turnwise.envs.types import EndReason, Grade, StepRecord, TextBlock, call

CHEAT = "class Always(float):\n    def __eq__(self, other):\n        return True\n\n\n"
FORGED = CHEAT + "def double(x):\n    return Always(0)\n\n\ndef half(x):\n    return x / 2\n"
CODE = """
from calc import double

def test_double():
    assert double.__code__.co_argcount == 1
    assert double(5) == 10
"""
RIGHT = BROKEN.replace("x + 1", "x + x")


@pytest.fixture
async def admitted(envs: LocalEnvs, make: Make) -> SweTask:
    """``double``, admitted."""
    return await _admitted(envs, make(sources=("calc.py",)))


async def _admitted(envs: LocalEnvs, task: SweTask) -> SweTask:
    assert task.repository.kind == "files"
    base = {path: text.encode() for path, text in task.repository.files.items()}
    reference = base | {"calc.py": RIGHT.encode()}
    return await admit(task, base, reference, machines_for(task, await envs.backend()))


async def _hand_in(session: Session, **files: str) -> tuple[StepRecord, str]:
    """What the record and the agent's view say after files were written and submitted."""
    await session.reset()
    for name, content in files.items():
        await session.env.sandbox.write(f"/workspace/{name.replace('_py', '.py')}", content.encode())
    assert isinstance(session.env, SweEnv)
    await session.step(call("shell", command="true"))
    step = await session.step(call("submit"))
    assert step.record is not None
    return step.record, " ".join(block.text for block in step.view.content if isinstance(block, TextBlock))


async def test_a_right_repair_passes_and_a_forged_one_does_not(admitted: SweTask, open_task: Open) -> None:
    assert admitted.assurance == "split"
    async with open_task(admitted) as session:
        record, said = await _hand_in(session, calc_py=RIGHT)
    assert (record.score, record.end) == (1.0, EndReason.SUBMITTED)
    assert record.grade == Grade(score=1.0, reason=Reason.PASSED, assurance="split")
    assert said.endswith(Reason.PASSED)
    async with open_task(admitted) as session:
        record, said = await _hand_in(session, calc_py=FORGED)
    assert record.score == 0.0
    assert said.endswith(Reason.FAILED)


async def test_a_task_that_was_not_admitted_believes_a_forged_pass_and_says_so(
    make: Make, open_task: Open
) -> None:
    async with open_task(make()) as session:
        record, _ = await _hand_in(session, calc_py=FORGED)
    assert record.grade is not None
    assert (record.score, record.grade.assurance) == (1.0, "one-process")


async def test_a_tree_that_cannot_be_taken_is_the_agents_fault(admitted: SweTask, open_task: Open) -> None:
    async with open_task(admitted) as session:
        await session.reset()
        await session.step(call("shell", command="ln -sf /etc/passwd calc.py"))
        step = await session.step(call("submit"))
    assert step.record is not None
    assert (step.record.end, step.record.score) == (EndReason.AGENT_FAULT, 0.0)
    assert "link: calc.py" in step.record.error


async def test_what_is_no_python_is_wrong_and_no_fault(admitted: SweTask, open_task: Open) -> None:
    async with open_task(admitted) as session:
        record, said = await _hand_in(session, calc_py="def double(x:\n")
    assert (record.end, record.score) == (EndReason.SUBMITTED, 0.0)
    assert said.endswith(Reason.FAILED)


async def test_a_changed_suite_is_refused_before_the_episode(admitted: SweTask, open_task: Open) -> None:
    hidden = {path: text + "\n# changed\n" for path, text in admitted.hidden.items()}
    changed = SweTask.model_validate(dict(admitted) | {"hidden": hidden})
    async with open_task(changed) as session:
        with pytest.raises(EpisodeFailed, match="was changed after it was admitted") as failed:
            await session.reset()
    assert failed.value.end is EndReason.ENV_ERROR


@pytest.mark.parametrize(
    ("hidden", "fields", "found"),
    [
        ("def test_double():\n    from calc import double\n    assert double(5) == 10\n", {}, "split"),
        (CODE, {}, "in-process"),
        ("def test_double(five):\n    assert five\n", {}, "one-process"),
        (
            "def test_double():\n    from calc import double\n    assert double(5) == 10\n",
            {"sources": ()},
            "one-process",
        ),
    ],
    ids=["split", "in-process", "a fixture of the repository", "no sources"],
)
async def test_a_task_is_admitted_to_the_best_class_it_allows(
    envs: LocalEnvs, make: Make, hidden: str, fields: dict[str, object], found: str
) -> None:
    task = make(
        hidden={"test_hidden.py": hidden},
        pass_to_pass=(),
        **{"sources": ("calc.py",), "runner": "pytest"} | fields,
    )
    assert (await _admitted(envs, task)).assurance == found


def test_the_sample_is_admitted_as_it_is() -> None:
    for task in (*packaged_tasks(), small_task(0), small_task(1 << 32)):
        assert task.repository.kind == "files"
        suite = suite_of(task, {path: text.encode() for path, text in task.repository.files.items()})
        assert suite is not None
        assert task.assurance == "split", task.id
        assert suite.calibrated.digest == suite.digest


async def test_what_level_1_says_of_its_tests_is_what_calibration_finds(envs: LocalEnvs) -> None:
    task = small_task(5)
    assert task.calibration is not None
    base, reference = await trees(task)
    found = (await admit(task, base, reference, machines_for(task, await envs.backend()))).calibration
    assert found is not None
    functions = tuple(entry for entry in found.surface[task.module] if entry[1] == "function")
    assert {task.module: functions} == task.calibration.surface
    assert (found.digest, found.collected) == (task.calibration.digest, task.calibration.collected)


def test_admitted_rows_can_be_moved_and_played(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make: Make
) -> None:
    task = make(sources=("calc.py",), verified=False)
    assert task.repository.kind == "files"
    for path, content in task.repository.files.items():
        (tmp_path / "one/repo" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "one/repo" / path).write_text(content)
    row = task.model_dump(mode="json") | {"repository": {"kind": "folder", "path": "repo"}}
    bad = row | {"id": "bad", "patch": task.patch.replace("x + 1", "x + 7")}
    absent = row | {"id": "absent", "fail_to_pass": ["test_hidden.py::test_absent"]}
    broken = row | {"id": "broken", "hidden": {"test_hidden.py": "def test_double(:\n"}}
    rows = [row, bad, absent, broken]
    (tmp_path / "one/rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = tmp_path / "one/admitted.jsonl"
    assert run(["tasks", "admit", str(tmp_path / "one/rows.jsonl"), "--out", str(out)]) == 0
    assert re.search(r"1 split\n1 tasks in .*, 3 left out", capsys.readouterr().out)
    (tmp_path / "one").rename(tmp_path / "two")
    env = f"swe/tasks?path={tmp_path / 'two/admitted.jsonl'}"
    assert run(["eval", env, "--policy", "scripted:oracle", "--tasks", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"success +100%", shown)
    assert re.search(r"graded +1 split", shown)
