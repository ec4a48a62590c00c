"""The desk on real sandboxes: it can be solved, and only by solving it; nothing leads to the answer."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncIterator

import pytest

from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import EpisodeFailed, Session
from turnwise.envs.tools.configdesk import ConfigDesk, words
from turnwise.envs.tools.configdesk.problem import entries
from turnwise.envs.types import Action, EndReason, EpisodeLimits, FinishAction, Task, TaskPublic, call
from turnwise.sandbox.backends import probes

BACKENDS = [probe.backend for probe in probes() if probe.available]
BEST = {1: 8, 2: 14, 3: 12, 4: 21, 5: 23}
"""The turns that the oracle needs at most."""
AT_HORIZONS = [f"level={level}&horizon={horizon}" for level in (1, 2) for horizon in (4, 8, 16)]
OPTIONS = [*(f"level={level}" for level in BEST), *AT_HORIZONS]


@pytest.fixture
async def envs() -> AsyncIterator[LocalEnvs]:
    """On the best backend that this machine has."""
    async with LocalEnvs(backend=BACKENDS[0], capacity=8) as envs:
        yield envs


@pytest.fixture(params=BACKENDS)
async def each_backend(request: pytest.FixtureRequest) -> AsyncIterator[LocalEnvs]:
    """On every backend that this machine has."""
    async with LocalEnvs(backend=request.param, capacity=8) as envs:
        yield envs


@pytest.fixture
async def one(envs: LocalEnvs) -> AsyncIterator[Session]:
    """A task of level 1, begun."""
    async with envs.open("tools/configdesk", seed=1) as session:
        await session.reset()
        yield session


def desk(session: Session) -> ConfigDesk:
    assert isinstance(session.env, ConfigDesk)
    return session.env


async def do(session: Session, name: str, **arguments: str) -> str:
    """One call; what the agent is shown."""
    return (await session.step(call(name, **arguments))).view.text


async def follow_oracle(session: Session, turns: int = 100) -> None:
    """Let the oracle go on, for some turns or to the end."""
    while session.end is None and turns > 0:
        await session.step(await desk(session).oracle())
        turns -= 1


async def solve_up_to(session: Session, milestone: str) -> None:
    """Let the oracle go on until a milestone is reached."""
    while milestone not in session.reached:
        await follow_oracle(session, 1)


# ---------------------------------------------------------------- who solves it


@pytest.mark.parametrize("level", BEST)
async def test_the_oracle_solves_every_level_in_the_fewest_turns(each_backend: LocalEnvs, level: int) -> None:
    for seed in range(5):
        async with each_backend.open(f"tools/configdesk?level={level}", seed=seed, split="test") as session:
            await session.reset()
            while session.end is None:
                step = await session.step(await desk(session).oracle())
                assert step.record is not None
                assert step.record.valid
            assert (session.end, session.score) == (EndReason.SUBMITTED, 1.0)
            assert session.turn <= BEST[level] < session.limits.turns
            assert list(session.reached) == ["source_read", "target_opened", "value_set", "check_passed"]
            turns = list(session.reached.values())
            assert turns == sorted(set(turns)), "each takes a turn of its own"


@pytest.mark.parametrize("options", OPTIONS)
async def test_the_oracle_finds_its_way_from_any_state(envs: LocalEnvs, options: str) -> None:
    rng = random.Random(options)
    spec = EnvSpec.parse(f"tools/configdesk?{options}")
    for seed in range(3):
        task = spec.make().task_set("train")[seed]
        patient = TaskPublic(instruction=task.public.instruction, limits=EpisodeLimits(turns=200))
        lost = task.model_copy(update={"public": patient})
        async with envs.open(spec, task=lost) as session:
            await session.reset()
            env = desk(session)
            for name in rng.sample(list(env.problem.tree), 3):
                await do(session, "open", file=name)
                for key in entries(env.problem.tree[name]):
                    await do(session, "set", key=key, value="7")
                for action in [env.random_action(rng) for _ in range(5)]:
                    if action != call("submit"):
                        await session.step(action)
            assert await do(session, "check") == "fail"
            await follow_oracle(session)
            assert session.score == 1.0


@pytest.mark.parametrize("options", OPTIONS)
async def test_chance_does_not_solve_it(envs: LocalEnvs, options: str) -> None:
    rng = random.Random(options)
    for seed in range(4):
        async with envs.open(f"tools/configdesk?{options}", seed=seed) as session:
            await session.reset()
            while session.end is None:
                step = await session.step(desk(session).random_action(rng))
                assert not step.view.text.startswith("error: unknown"), "random actions are well formed"
            assert session.score == 0.0


@pytest.mark.parametrize("options", OPTIONS)
async def test_doing_nothing_does_not_solve_it(envs: LocalEnvs, options: str) -> None:
    async with envs.open(f"tools/configdesk?{options}", seed=1) as session:
        await session.reset()
        await session.step(FinishAction())
        assert (session.end, session.score, session.reached) == (EndReason.SUBMITTED, 0.0, {})


# ---------------------------------------------------------------- what counts as solved


async def test_work_that_is_not_submitted_does_not_count(one: Session) -> None:
    await solve_up_to(one, "check_passed")
    await one.step(FinishAction())
    assert one.score == 0.0


async def test_work_that_is_not_checked_does_not_count(one: Session) -> None:
    await solve_up_to(one, "value_set")
    assert await do(one, "submit") == "submitted"
    assert one.score == 0.0


async def test_a_check_holds_for_the_files_it_saw_only(one: Session) -> None:
    await solve_up_to(one, "check_passed")
    target = desk(one).problem.copies[0].target
    assert await do(one, "set", key=target.key, value="off" if target.value != "off" else "1") == "ok"
    assert not desk(one).check_passed()
    await do(one, "set", key=target.key, value=target.value)
    assert await do(one, "submit") == "submitted"
    assert one.score == 0.0


async def test_another_key_changed_fails_the_check_until_it_is_put_back(one: Session) -> None:
    await solve_up_to(one, "target_opened")
    env = desk(one)
    target = env.problem.copies[0].target
    (other,) = (key for key in entries(env.problem.tree[target.file]) if key != target.key)
    before = await do(one, "get", key=other)
    await do(one, "set", key=other, value="7")
    await do(one, "set", key=target.key, value=target.value)
    assert "value_set" not in one.reached
    assert await do(one, "check") == "fail"
    await do(one, "set", key=other, value=before)
    assert "value_set" in one.reached
    assert await do(one, "check") == "pass"


@pytest.mark.parametrize("level", [1, 5])
@pytest.mark.parametrize("spoil", ["append", "add", "delete"])
async def test_the_frozen_copy_is_judged_to_the_last_byte(
    each_backend: LocalEnvs, level: int, spoil: str
) -> None:
    async with each_backend.open(f"tools/configdesk?level={level}", seed=2) as session:
        await session.reset()
        await solve_up_to(session, "check_passed")
        sandbox, env = session.env.sandbox, desk(session)
        untouched = next(name for name in env.problem.tree if name not in env.written)
        path = f"/workspace/conf/{env.problem.path(untouched)}"
        match spoil:
            case "append":
                await sandbox.write(path, await sandbox.read(path) + b" ")
            case "add":
                await sandbox.write("/workspace/conf/extra", b"")
            case "delete":
                await sandbox.delete(path)
        await do(session, "submit")
        assert session.score == 0.0


async def test_the_check_looks_at_the_real_files(one: Session) -> None:
    await solve_up_to(one, "value_set")
    env = desk(one)
    (name,) = env.written
    await one.env.sandbox.write(f"/workspace/conf/{name}.conf", env.problem.tree[name])
    assert await do(one, "check") == "fail"


async def test_files_count_as_modified_while_they_differ_from_those_given(one: Session) -> None:
    await solve_up_to(one, "target_opened")
    target = desk(one).problem.copies[0].target
    before = await do(one, "get", key=target.key)
    actions: list[tuple[Action, float]] = [
        (call("set", key=target.key, value="7" if before != "7" else "8"), 1.0),
        (call("check"), 1.0),
        (call("set", key=target.key, value=before), 0.0),
        (call("set", key=target.key, value=target.value), 1.0),
        (FinishAction(), 1.0),
    ]
    for action, changed in actions:
        record = (await one.step(action)).record
        assert record is not None
        assert {term.channel: term.value for term in record.terms}["modified"] == changed


# ---------------------------------------------------------------- milestones


async def test_a_guess_is_not_progress_until_the_source_is_read(one: Session) -> None:
    copy = desk(one).problem.copies[0]
    await do(one, "open", file=copy.target.file)
    await do(one, "get", key=copy.target.key)
    await do(one, "set", key=copy.target.key, value=copy.target.value)
    assert one.reached == {}
    assert await do(one, "check") == "pass"
    assert list(one.reached) == ["check_passed"]
    await do(one, "open", file=copy.reads[0].file)
    assert list(one.reached) == ["check_passed"]
    await do(one, "get", key=copy.reads[0].key)
    assert list(one.reached) == ["check_passed", "source_read", "value_set"]
    await do(one, "open", file=copy.target.file)
    assert "target_opened" in one.reached


async def test_a_source_that_was_overwritten_is_not_read(one: Session) -> None:
    source = desk(one).problem.copies[0].reads[0]
    await do(one, "open", file=source.file)
    await do(one, "set", key=source.key, value="7")
    assert await do(one, "get", key=source.key) == "7"
    assert one.reached == {}


async def test_with_several_copies_a_milestone_takes_them_all(envs: LocalEnvs) -> None:
    async with envs.open("tools/configdesk?level=2", seed=4) as session:
        await session.reset()
        first, second = desk(session).problem.copies
        for copy in (first, second):
            assert session.reached == {}
            await do(session, "open", file=copy.reads[0].file)
            await do(session, "get", key=copy.reads[0].key)
            if copy is first:
                await do(session, "open", file=copy.target.file)
                await do(session, "set", key=copy.target.key, value=copy.target.value)
        assert list(session.reached) == ["source_read"]
        await do(session, "open", file=second.target.file)
        assert list(session.reached) == ["source_read", "target_opened"]
        await do(session, "set", key=second.target.key, value=second.target.value)
        assert list(session.reached) == ["source_read", "target_opened", "value_set"]


# ---------------------------------------------------------------- tools


async def test_tools_answer_in_single_words_at_level_1(one: Session) -> None:
    env = desk(one)
    copy = env.problem.copies[0]
    source, target = copy.reads[0], copy.target
    assert env.problem.instruction == f"copy {source.key} to {target.key}"
    assert await do(one, "get", key=source.key) == "error: open a file first"
    assert await do(one, "grep", word=source.key) == source.file
    assert await do(one, "grep", word="zebra") == "none"
    assert await do(one, "open", file="zebra") == "error: no file"
    assert await do(one, "open", file=source.file) == "ok"
    assert await do(one, "get", key=source.key) == source.value
    assert await do(one, "get", key=target.key) == "error: no key"
    assert await do(one, "set", key=target.key, value="1") == "error: no key"
    assert await do(one, "check") == "fail"


async def test_set_changes_a_value_and_no_other_byte(envs: LocalEnvs) -> None:
    for seed in range(3):
        async with envs.open("tools/configdesk?level=5", seed=seed) as session:
            await session.reset()
            target = desk(session).problem.copies[0].target
            shown = await do(session, "open", file=target.file)
            await do(session, "set", key=target.key, value="31337")
            lines = zip(
                shown.split("\n"), (await do(session, "open", file=target.file)).split("\n"), strict=True
            )
            ((before, after),) = ((old, new) for old, new in lines if old != new)
            assert re.sub(r"\d+", "31337", before, count=1) == after
            assert before.startswith(target.key)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("open", {"file": "../../etc/passwd"}),
        ("open", {"file": "/etc/passwd"}),
        ("open", {"file": ""}),
        ("get", {"key": ".*"}),
        ("get", {"key": ""}),
        ("set", {"key": "# x", "value": "1"}),
        ("set", {"key": "x\ny", "value": "1"}),
        ("set", {"key": "KEY", "value": ""}),
        ("set", {"key": "KEY", "value": "1\nport = 2"}),
        ("set", {"key": "KEY", "value": "1 # note"}),
        ("set", {"key": "KEY", "value": "é"}),
        ("set", {"key": "KEY", "value": "1" * 41}),
    ],
)
async def test_an_argument_that_makes_no_sense_is_refused_and_changes_nothing(
    one: Session, tool: str, arguments: dict[str, str]
) -> None:
    env = desk(one)
    spot = env.problem.copies[0].reads[0]
    await do(one, "open", file=spot.file)
    arguments = {name: spot.key if value == "KEY" else value for name, value in arguments.items()}
    assert re.fullmatch("error: (no file|no key|bad value)", await do(one, tool, **arguments))
    tree = await one.env.sandbox.read_tree("/workspace/conf")
    assert tree == {f"{name}.conf": data for name, data in env.problem.tree.items()}


@pytest.mark.parametrize("word", ["", " ", ".*", "(", "\\", "a\0b", "\n", "time", "conf"])
async def test_grep_takes_a_word_for_what_it_is(one: Session, word: str) -> None:
    assert await do(one, "grep", word=word) == "none"


async def test_a_number_may_be_given_as_one(one: Session) -> None:
    await solve_up_to(one, "target_opened")
    target = desk(one).problem.copies[0].target
    assert (await one.step(call("set", key=target.key, value=77))).view.text == "ok"
    assert await do(one, "get", key=target.key) == "77"


# ---------------------------------------------------------------- what the agent can see


@pytest.mark.parametrize("options", ["level=1", "level=2", *AT_HORIZONS])
async def test_the_vocabulary_is_closed_and_small(envs: LocalEnvs, options: str) -> None:
    spec = EnvSpec.parse(f"tools/configdesk?{options}")
    level = int(str(spec.options["level"]))
    known, rng, said = set(words(level)), random.Random(0), []
    for seed in range(12):
        async with envs.open(spec, seed=seed) as session:
            said.append((await session.reset()).text)
            while session.end is None:
                env = desk(session)
                action = await env.oracle() if rng.random() < 0.5 else env.random_action(rng)
                assert action.kind == "calls"
                said.append(" ".join([action.calls[0].name, *map(str, action.calls[0].arguments.values())]))
                said.append((await session.step(action)).view.text)
    assert {word for line in said for word in re.findall(r"\w+|[^\w\s]", line)} <= known
    assert len(words(level)) == len(known) <= {1: 60, 2: 90}[level]


def test_a_level_without_a_closed_vocabulary_says_so() -> None:
    with pytest.raises(ValueError, match=r"level 3 has no closed vocabulary.*\[1, 2\]"):
        words(3)


@pytest.mark.parametrize("options", OPTIONS)
async def test_the_sandbox_holds_the_files_and_nothing_of_the_answer(
    each_backend: LocalEnvs, options: str
) -> None:
    spec = EnvSpec.parse(f"tools/configdesk?{options}")
    async with each_backend.open(spec, seed=6) as session:
        await session.reset()
        env = desk(session)
        tree = await session.env.sandbox.read_tree("/workspace")
        assert tree == {f"conf/{env.problem.path(name)}": data for name, data in env.problem.tree.items()}
        assert session.task.secret.data == {}
        for target in env.problem.targets:
            assert entries(tree[f"conf/{env.problem.path(target.file)}"])[target.key] != target.value


async def test_a_task_of_another_level_is_refused(envs: LocalEnvs) -> None:
    task: Task = ConfigDesk().task_set("train")[0]
    async with envs.open("tools/configdesk?level=2", task=task) as session:
        with pytest.raises(EpisodeFailed, match="level-1/train/0 is not one of level-2") as failed:
            await session.reset()
    assert failed.value.end is EndReason.ENV_ERROR


async def test_forks_of_an_episode_end_apart(each_backend: LocalEnvs) -> None:
    async with each_backend.open("tools/configdesk", seed=1) as session:
        await session.reset()
        await solve_up_to(session, "target_opened")
        a, b = await session.fork(2)
        async with a, b:
            await follow_oracle(a)
            assert (a.score, b.end) == (1.0, None)
            await do(b, "submit")
            assert b.score == 0.0
        await follow_oracle(session)
        assert session.score == 1.0
