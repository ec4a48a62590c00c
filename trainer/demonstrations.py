"""Demonstrations as token sequences, for supervised training.

Two sources: a scripted demonstrator, whose actions are rendered with the learner's own renderer; and
the successes of an earlier run, whose tokens are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from turnwise.agents.renderer import Renderer
from turnwise.agents.store import episode_files, read_episodes
from turnwise.agents.trajectory import Episode
from turnwise.envs.env import Env, describe
from turnwise.envs.errors import UsageError


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One episode's tokens; ``taught`` marks those to be imitated."""

    ids: tuple[int, ...]
    taught: tuple[bool, ...]


def render(episode: Episode, renderer: Renderer, env: type[Env]) -> Demonstration:
    """A scripted episode as the learner would have seen and written it. Raises ``UsageError`` for an action
    that the learner's form cannot say."""
    tools = env.interface.specs
    ids = list(renderer.opening(describe(env), episode.opening))
    taught = [False] * len(ids)
    for turn in episode.turns:
        try:
            written = renderer.encode(turn.action, tools)
        except ValueError as error:
            raise UsageError(f"demonstration {episode.episode_id}: {error}") from None
        ids += written
        taught += [True] * len(written)
        if turn is not episode.turns[-1]:
            shown = renderer.observation(turn.observation)
            ids += shown
            taught += [False] * len(shown)
    return Demonstration(tuple(ids), tuple(taught))


def successes(run: Path) -> list[Episode]:
    """The successful training episodes of a run. Raises ``UsageError`` where there are none."""
    episodes = [
        episode
        for file in episode_files(run)
        if file.name.startswith("step-")
        for episode in read_episodes(file)
        if episode.score is not None and episode.score >= 1.0
    ]
    if not episodes:
        raise UsageError(f"run {str(run)!r} has no successful episode to learn from")
    return episodes


def recorded(episode: Episode) -> Demonstration | None:
    """A sampled episode's own tokens; None where it was played by a policy without tokens."""
    spans = [span for turn in episode.turns for span in turn.spans]
    if not any(span.source == "policy" for span in spans):
        return None
    return Demonstration(
        tuple(i for span in spans for i in span.ids),
        tuple(span.source == "policy" for span in spans for _ in span.ids),
    )


def transcript(episodes: Iterable[Episode], env: type[Env]) -> list[str]:
    """Every piece of text of some episodes: what a tokenizer for them has to know."""
    texts = []
    for episode in episodes:
        texts.append(episode.opening.text)
        for turn in episode.turns:
            texts.append(turn.observation.text)
            if turn.action.kind == "calls":
                for call in turn.action.calls:
                    texts.append(" ".join([call.name, *(str(v) for v in call.arguments.values())]))
    names: Sequence[str] = [spec.name for spec in env.interface.specs]
    return texts + list(names)
