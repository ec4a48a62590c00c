"""Imitation alone: from demonstrations and from a run's own successes, and reinforcement after it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from turnwise.agents.renderer import CompactRenderer
from turnwise.agents.rollout import RolloutPlan, rollout
from turnwise.agents.scripted import imperfect
from turnwise.agents.store import read_episodes
from turnwise.agents.tokenizer import build_tokenizer
from turnwise.agents.torch import init_model
from turnwise.agents.trajectory import Episode, Span
from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.envs.registry import EnvSpec
from turnwise.envs.types import TextAction
from turnwise.trainer.demonstrations import Demonstration, recorded, render, successes, transcript
from turnwise.trainer.imitation import Imitator
from turnwise.trainer.learner import DivergedError
from turnwise.trainer.recipe import WarmStart
from turnwise.trainer.run_folder import Run
from turnwise.trainer.sft import sft
from turnwise.trainer.train import train

TIMES = {"wall_seconds", "cpu_seconds", "seconds", "tokens_per_second"}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Metrics but for times, without starts and resumes."""
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in found
        if row["kind"] not in ("start", "resume")
    ]


def weights(folder: Path) -> bytes:
    return (newest_model(folder) / "model.safetensors").read_bytes()


def vocabulary(run: Run) -> str:
    return (newest_model(run.folder) / "tokenizer.json").read_text()


def newest_model(folder: Path) -> Path:
    newest = (folder / "checkpoints" / "latest").read_text()
    return folder / "checkpoints" / newest / "model"


# ---------------------------------------------------------------- as a run


async def test_reinforcement_goes_on_from_imitation(guess: ModuleType, tmp_path: Path) -> None:
    """In two parts it is the run that it would have been in one, to the last bit."""
    recipe = guess.recipe(deterministic=True)
    first = await sft(recipe, run=tmp_path / "a")
    assert (first.summary.steps, first.summary.episodes, first.summary.stopped) == (0, 0, "finished")
    assert first.summary.held_out_success is not None
    *warm, before, final = rows(first.folder)
    assert {row["kind"] for row in warm} == {"warm_start"}
    assert (before["kind"], final["kind"]) == ("eval", "final")
    assert (first.folder / "checkpoints" / "latest").read_text() == "000000"
    await train(recipe, run=first.folder, resume=True)
    whole = await train(recipe, run=tmp_path / "whole")
    assert rows(first.folder) == rows(whole.folder)
    assert weights(first.folder) == weights(whole.folder)


@pytest.fixture(scope="module")
def teacher(guess: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with successes to learn from."""
    recipe = guess.recipe(env="test/guess?numbers=1", steps=6)
    return asyncio.run(train(recipe, run=tmp_path_factory.mktemp("runs") / "teacher"))


async def test_a_runs_successes_are_imitated_with_their_own_tokens(
    guess: ModuleType, tmp_path: Path, teacher: Run
) -> None:
    recipe = guess.recipe(env="test/guess?numbers=1", seed=3, warm_start={"gate": 0.5, "max_steps": 300})
    run = await sft(recipe, run=tmp_path / "a", source=teacher.folder)
    taught = list(read_episodes(run.folder / "demonstrations.jsonl"))
    assert taught == successes(teacher.folder)
    assert len(taught) > 20
    assert all(episode.score == 1.0 for episode in taught)
    for episode in taught:
        demonstration = recorded(episode)
        assert demonstration is not None
        spans = [span for turn in episode.turns for span in turn.spans]
        assert demonstration.ids == sum((span.ids for span in spans), ())
        assert sum(demonstration.taught) == episode.sampled_tokens
    assert vocabulary(run) == vocabulary(teacher)
    assert run.summary.stopped == "finished"
    assert rows(run.folder)[-2]["success"] >= 0.5


async def test_an_imitation_cut_short_goes_on_with_what_it_imitated(
    guess: ModuleType, tmp_path: Path, teacher: Run
) -> None:
    """Also before its first checkpoint: the run's successes, not the demonstrator in their place."""
    recipe = guess.recipe(env="test/guess?numbers=1", steps=1)

    class Impatient:
        def phase(self, name: str, done: int, total: int) -> None:
            raise KeyError(name)

    with pytest.raises(KeyError, match="warm start"):
        await sft(recipe, run=tmp_path / "a", source=teacher.folder, watcher=Impatient())
    assert not (tmp_path / "a" / "checkpoints").exists()
    run = await train(recipe, run=tmp_path / "a", resume=True)
    assert (run.summary.steps, run.summary.stopped) == (1, "finished")
    assert list(read_episodes(run.folder / "demonstrations.jsonl")) == successes(teacher.folder)
    assert vocabulary(run) == vocabulary(teacher)


async def test_what_to_imitate_is_there_before_the_run_is(
    guess: ModuleType, tmp_path: Path, teacher: Run, disk: Any
) -> None:
    """Ended while it copies them, it leaves no run that would go on with the demonstrator instead."""
    recipe = guess.recipe(env="test/guess?numbers=1")
    disk(20_000)
    with pytest.raises(OSError, match=r"File too large: '.*/a/demonstrations\.jsonl'"):
        await sft(recipe, run=tmp_path / "a", source=teacher.folder)
    disk(math.inf)
    with pytest.raises(UsageError, match=r"has no config\.yaml"):
        await train(recipe, run=tmp_path / "a", resume=True)


async def test_a_recipe_without_a_warm_start_gets_one(guess: ModuleType, tmp_path: Path) -> None:
    recipe = guess.recipe(warm_start=None, evaluate={"tasks": 4})
    with pytest.raises(UsageError, match="no successful episode to learn from"):
        await sft(recipe, run=tmp_path / "a", source=tmp_path)
    assert os.listdir(tmp_path) == []


async def test_what_cannot_be_imitated_is_refused_and_no_folder_made(
    guess: ModuleType, tmp_path: Path, teacher: Run
) -> None:
    recipe = guess.recipe()
    with pytest.raises(UsageError, match=r"run '/absent' has no successful episode"):
        await sft(recipe, run=tmp_path / "a", source="/absent")
    with pytest.raises(UsageError, match="exists"):
        await sft(recipe, run=teacher.folder, source=teacher.folder)
    other = tmp_path / "model"
    build_tokenizer(["other words"]).save_pretrained(other)
    (other / "config.json").write_text("{}")
    of_other = recipe.override(model={"kind": "folder", "path": str(other)})
    with pytest.raises(UsageError, match="written with another tokenizer than that of"):
        await sft(of_other, run=tmp_path / "a", source=teacher.folder)
    assert os.listdir(tmp_path) == ["model"]


# ---------------------------------------------------------------- demonstrations


@pytest.fixture
async def shown(guess: ModuleType) -> list[Episode]:
    """What the imperfect demonstrator plays."""
    spec = EnvSpec(name="test/guess", options={"numbers": 3})
    plan = RolloutPlan(spec.make().task_set("train")[:20], group_size=1, seed=0, label="demonstration")
    async with LocalEnvs() as envs:
        return await rollout(envs, spec, imperfect(0.5), plan)


@pytest.fixture
def renderer(guess: ModuleType, shown: list[Episode]) -> CompactRenderer:
    return CompactRenderer(build_tokenizer(transcript(shown, guess.Guess)))


def test_a_demonstration_is_what_the_learner_would_see_and_write(
    guess: ModuleType, shown: list[Episode], renderer: CompactRenderer
) -> None:
    for episode in shown:
        made = render(episode, renderer, guess.Guess)
        words = renderer.tokenizer.convert_ids_to_tokens(list(made.ids))
        text, taught = "", ""
        for word, is_taught in zip(words, made.taught, strict=True):
            text += word.replace("Ġ", " ")
            taught += word.replace("Ġ", " ") if is_taught else ""
        expected = "<task> guess<act>"
        written = ""
        for turn in episode.turns:
            call = turn.action.calls[0]  # type: ignore[union-attr]
            line = " ".join(["", call.name, *map(str, call.arguments.values())]) + "<end>"
            seen = f" {turn.observation.text}<act>" if turn is not episode.turns[-1] else ""
            expected, written = expected + line + seen, written + line
        assert text == expected
        assert taught == written


def test_every_word_of_the_demonstrations_is_a_token(
    guess: ModuleType, shown: list[Episode], renderer: CompactRenderer
) -> None:
    made = [render(episode, renderer, guess.Guess) for episode in shown]
    words = renderer.tokenizer.convert_ids_to_tokens(sorted({i for d in made for i in d.ids}))
    calls = [turn.action.calls[0] for e in shown for turn in e.turns]  # type: ignore[union-attr]
    assert set(words) == {
        *("<task>", "<act>", "<end>", "Ġguess", "Ġsubmit", "Ġyes", "Ġhigher", "Ġlower"),
        *(f"Ġ{number}" for number in {c.arguments["number"] for c in calls if c.name == "guess"}),
    }


def test_an_action_that_the_form_cannot_say_is_named(
    guess: ModuleType, shown: list[Episode], renderer: CompactRenderer
) -> None:
    said = replace(shown[0].turns[0], action=TextAction(text="hello"))
    with pytest.raises(UsageError, match=r"demonstration demonstration/0-0: the compact form says one call"):
        render(replace(shown[0], turns=(said,)), renderer, guess.Guess)


def test_only_what_was_sampled_is_taught_of_a_recorded_episode(lab: SimpleNamespace) -> None:
    spans = (lab.env_span(1, 2), lab.policy_span(3, 4), Span((5,), "forced"))
    episode = lab.episode("a", "g", [lab.turn("a", "g", 0, spans=spans), lab.turn("a", "g", 1)])
    made = recorded(episode)
    assert made == Demonstration(
        (1, 2, 3, 4, 5, 1, 2, 10, 11), (False, False, True, True, False, False, False, True, True)
    )
    scripted = lab.episode("a", "g", [lab.turn("a", "g", 0, spans=())])
    assert recorded(scripted) is None


# ---------------------------------------------------------------- the imitator


@pytest.fixture
def batch() -> list[Demonstration]:
    """Three of different lengths, some tokens taught."""
    rng = random.Random(0)
    return [
        Demonstration(
            tuple(rng.randrange(20) for _ in range(length)),
            tuple([False] + [rng.random() < 0.5 for _ in range(length - 2)] + [True]),
        )
        for length in (4, 9, 6)
    ]


def imitator(demonstrations: list[Demonstration], **settings: Any) -> Imitator:
    config = {
        "model_type": "qwen3",
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "intermediate_size": 16,
    }
    model = init_model(config, seed=0, device="cpu")
    return Imitator(model, demonstrations, WarmStart(**settings), seed=0)


def test_the_loss_is_over_the_taught_tokens_alone(batch: list[Demonstration]) -> None:
    """Against each demonstration by itself, without padding."""
    ours = imitator(batch)
    total, count = 0.0, 0
    for demonstration in batch:
        with torch.no_grad():
            logits = ours.model(torch.tensor([demonstration.ids])).logits[0].log_softmax(-1)
        for place, taught in enumerate(demonstration.taught):
            if taught:
                total -= float(logits[place - 1, demonstration.ids[place]])
                count += 1
    assert ours.step(0) == pytest.approx(total / count, abs=1e-5)


def test_what_is_shown_is_learned(batch: list[Demonstration]) -> None:
    ours = imitator(batch, lr=0.01)
    losses = [ours.step(number) for number in range(60)]
    assert losses[-1] < losses[0] / 10


def test_a_step_depends_on_its_number_and_not_on_those_before(batch: list[Demonstration]) -> None:
    """So a resumed warm start draws what an unbroken one would have drawn."""
    many = [replace(batch[i % 3], ids=tuple((t + i) % 20 for t in batch[i % 3].ids)) for i in range(30)]
    one, other = imitator(many, batch=2), imitator(many, batch=2)
    losses = [one.step(number) for number in range(8)]
    for number in range(4):
        other.step(number)
    again = imitator(many, batch=2)
    again.model.load_state_dict(other.model.state_dict())
    again.optimizer.load_state_dict(other.optimizer.state_dict())
    assert [again.step(number) for number in range(4, 8)] == losses[4:]
    assert len(set(losses)) == 8


def test_a_step_that_is_not_finite_is_not_taken(batch: list[Demonstration]) -> None:
    ours = imitator(batch, lr=1e30)
    ours.step(0)
    before = [parameter.clone() for parameter in ours.model.parameters()]
    with pytest.raises(DivergedError, match=r"lower warm_start\.lr$"):
        ours.step(1)
    assert all(torch.equal(a, b) for a, b in zip(before, ours.model.parameters(), strict=True))


def test_the_tokenizer_of_a_run_reads_as_it_wrote(teacher: Run) -> None:
    """Loaded from a checkpoint it gives the ids that are in the episodes."""
    renderer = CompactRenderer(AutoTokenizer.from_pretrained(newest_model(teacher.folder)))
    for episode in successes(teacher.folder)[:10]:
        assert episode.turns[0].spans[0].ids == renderer.opening("", episode.opening)
        for before, turn in pairwise(episode.turns):
            assert turn.spans[-2].ids == renderer.observation(before.observation)
