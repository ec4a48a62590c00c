"""What a set of episodes says about a policy: success with an interval, pass@k, and how they ended.

Excluded episodes (failures of the environment or the machine) count in no rate and are reported.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from turnwise.agents.trajectory import Episode
from turnwise.envs.types import EndReason, SandboxRecord


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of running a policy on a split."""

    env: str
    policy: str
    split: str
    task_hash: str
    episodes: tuple[Episode, ...]
    seconds: float
    sandbox: SandboxRecord | None = None
    """What the episodes ran in; None where they needed no sandbox, or ran elsewhere."""

    def __str__(self) -> str:
        """One line: how many episodes count, and their success with its interval."""
        low, high = self.interval
        left = f", {sum(self.excluded.values())} more excluded" if self.excluded else ""
        success = f"success {self.success:.1%}, 95% interval {low:.1%} to {high:.1%}"
        success = success if self.scored else "nothing scored"
        return f"{self.policy} on {self.env}, {self.split}: {success} (n = {len(self.scored)}{left})"

    @property
    def scored(self) -> list[Episode]:
        """Episodes that say something about the agent."""
        return [e for e in self.episodes if e.score is not None]

    @property
    def excluded(self) -> dict[str, int]:
        """How many episodes failed through no fault of the agent's, by reason."""
        return dict(Counter(str(e.end) for e in self.episodes if not e.end.trainable))

    @property
    def success(self) -> float:
        """Mean score over scored episodes; NaN where there are none."""
        scores = [e.score for e in self.scored if e.score is not None]
        return float(np.mean(scores)) if scores else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of :attr:`success`, tasks being the unit: episodes of one task are not
        independent. Wilson's for one 0/1 episode a task, else a bootstrap over tasks."""
        groups = self._by_task()
        if not groups:
            return (math.nan, math.nan)
        if all(len(g) == 1 and g[0] in (0.0, 1.0) for g in groups):
            return wilson(sum(g[0] for g in groups), len(groups))
        means = np.array([np.mean(g) for g in groups])
        picks = np.random.default_rng(0).integers(0, len(means), size=(2000, len(means)))
        low, high = np.quantile(means[picks].mean(axis=1), (0.025, 0.975))
        return (float(low), float(high))

    def pass_at(self, k: int) -> float:
        """Chance that at least one of ``k`` tries succeeds (score 1), averaged over tasks: the unbiased
        estimator of Chen et al., 2021 (arXiv 2107.03374, equation 1). Raises ``ValueError`` when some
        task has fewer than ``k`` scored tries."""
        estimates = []
        for tries in self._by_task():
            n, c = len(tries), sum(t >= 1.0 for t in tries)
            if n < k:
                raise ValueError(f"pass_at({k}) needs {k} scored tries of every task; one has {n}")
            estimates.append(1.0 - math.comb(n - c, k) / math.comb(n, k))
        return float(np.mean(estimates)) if estimates else math.nan

    def _by_task(self) -> list[list[float]]:
        groups: dict[str, list[float]] = defaultdict(list)
        for episode in self.scored:
            assert episode.score is not None
            groups[episode.task.id].append(episode.score)
        return list(groups.values())


def wilson(successes: float, count: int) -> tuple[float, float]:
    """Wilson's 95% interval of a proportion."""
    z = 1.959963984540054
    p, n = successes / count, count
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low = max(0.0, centre - half) if successes else 0.0  # exactly, whatever the rounding
    return (low, min(1.0, centre + half) if successes < count else 1.0)


MODIFIED = "modified"
"""The channel in which an environment says whether what it gave was changed."""


def was_modified(episode: Episode) -> bool | None:
    """Whether the agent had changed what it was given when the episode ended; None where that is not said."""
    values = [
        term.value
        for turn in episode.turns
        for term in turn.record.terms
        if term.channel == MODIFIED and term.value is not None
    ]
    return values[-1] > 0 if values else None


def failure_class(episode: Episode) -> str | None:
    """Why a scored episode is no full success, as one of: ``agent_fault``; not submitted, by what ended it;
    ``unchanged``, submitted as it was given; ``wrong``. None for a success and for what was not scored."""
    if episode.score is None or episode.score >= 1.0:
        return None
    if episode.end is not EndReason.SUBMITTED:
        return str(episode.end)
    return "unchanged" if was_modified(episode) is False else "wrong"


def failure_classes(episodes: Sequence[Episode]) -> dict[str, int]:
    """How many episodes failed in which way."""
    return dict(Counter(kind for kind in map(failure_class, episodes) if kind is not None))


def assurances(episodes: Sequence[Episode]) -> dict[str, int]:
    """How many grades are protected in which way, where the environment has more ways than one."""
    grades = [episode.turns[-1].record.grade for episode in episodes if episode.turns]
    return dict(Counter(grade.assurance for grade in grades if grade is not None and grade.assurance))


def rates(episodes: Sequence[Episode]) -> dict[str, float]:
    """Averages a training curve is drawn from: success, completion (how many submitted; CR), resolution (how
    many submitted what has the full score; RR), turns, validity, sampled tokens, and the share excluded.
    ``modified`` (how many submitted something changed; MR) where the environment says so."""
    scored = [e for e in episodes if e.score is not None]
    out = {"excluded": 1.0 - len(scored) / len(episodes) if episodes else 0.0}
    if not scored:
        return out
    turns = [t for e in scored for t in e.turns]
    out |= {
        "success": float(np.mean([e.score for e in scored])),
        "completion": float(np.mean([e.end is EndReason.SUBMITTED for e in scored])),
        "resolved": float(np.mean([e.score == 1.0 and e.end is EndReason.SUBMITTED for e in scored])),
        "turns": len(turns) / len(scored),
        "valid": float(np.mean([t.record.valid for t in turns])) if turns else 0.0,
        "tokens_per_episode": sum(e.sampled_tokens for e in scored) / len(scored),
    }
    modified = [was_modified(e) for e in scored]
    if any(known is not None for known in modified):
        submitted = [e.end is EndReason.SUBMITTED for e in scored]
        out["modified"] = float(np.mean([bool(m) and s for m, s in zip(modified, submitted, strict=True)]))
    return out


def milestone_rates(episodes: Sequence[Episode], names: Sequence[str]) -> dict[str, float]:
    """The share of scored episodes that reached each milestone."""
    scored = [set(e.milestones) for e in episodes if e.score is not None]
    return {n: float(np.mean([n in reached for reached in scored])) if scored else 0.0 for n in names}
