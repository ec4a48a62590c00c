"""What a run watches over itself for: the guards of a recipe.

A guard that stops a run does so before harm is done to the weights, with its reason in the summary and
a checkpoint to go on from. A warning is a row of metrics and a line on the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from turnwise.agents.trajectory import Episode
from turnwise.trainer.recipe import Guards

WINDOW = 20
"""Steps over which exclusions are compared with the policy's progress."""
PATIENCE = 5
"""Steps over which success is averaged, and after which a batch without any signal is warned of."""
WORTH = 0.1
"""Mean success from which on there is something to lose."""


class RunStopped(Exception):
    """A guard ended the run; the message is the reason."""


class Watch:
    """Sees every step; its state is in the checkpoint."""

    def __init__(self, guards: Guards, state: dict[str, Any]) -> None:
        self.guards = guards
        fresh = {"best_completion": 0.0, "excluded": [], "success": [], "best_success": 0.0, "silent": 0}
        self.state: dict[str, Any] = fresh | state

    def step(self, row: dict[str, Any], episodes: Sequence[Episode]) -> list[str]:
        """Warnings of a step. Raises what :meth:`exclusions` raises, and :class:`RunStopped` when success
        has collapsed."""
        share = self.exclusions(episodes)
        warnings = [*self._completion(row["completion"]), *self._selection(share, row["success"])]
        self._collapse()
        return warnings

    def signal(self, groups: int, without: int) -> list[str]:
        """Warnings of a step's credit: how many of its groups have advantages that are all 0."""
        self.state["silent"] = self.state["silent"] + 1 if without == groups else 0
        if self.state["silent"] != PATIENCE:
            return []
        return [
            f"the last {PATIENCE} steps taught nothing: in every group all episodes got the same reward, so "
            "there is nothing to compare; choose easier or harder tasks, or a larger rollout.group"
        ]

    def exclusions(self, episodes: Sequence[Episode]) -> float:
        """The share of episodes that say nothing about the agent. Raises :class:`RunStopped` when they are
        too many, or all."""
        share = float(np.mean([not e.end.trainable for e in episodes]))
        if share > self.guards.excluded or share == 1.0:
            reasons = ", ".join(sorted({e.error for e in episodes if not e.end.trainable})[:3])
            raise RunStopped(
                f"{share:.0%} of the episodes failed through no fault of the agent (guards.excluded is "
                f"{self.guards.excluded:.0%}): {reasons}"
            )
        return share

    def _completion(self, completion: float) -> list[str]:
        """Paying for progress can teach an agent not to submit, which forfeits progress to come."""
        best = self.state["best_completion"] = max(self.state["best_completion"], completion)
        if best - completion <= self.guards.completion_drop:
            return []
        return [
            f"completion fell to {completion:.0%} from {best:.0%}: episodes end without being submitted; "
            "compare with the outcome recipe or lower the weight of progress"
        ]

    def _collapse(self) -> None:
        recent = self.state["success"][-PATIENCE:]
        if self.guards.collapse is None or len(recent) < PATIENCE:
            return
        mean = float(np.mean(recent))
        best = self.state["best_success"] = max(self.state["best_success"], mean)
        if best >= WORTH and mean < self.guards.collapse * best:
            raise RunStopped(
                f"success collapsed to {mean:.1%} over {PATIENCE} steps, from {best:.1%} (guards.collapse is "
                f"{self.guards.collapse:g}): lower optimizer.lr, or look at what the reward pays for"
            )

    def _selection(self, share: float, success: float) -> list[str]:
        """Excluding episodes is harmless only while it does not depend on what the policy does."""
        for name, value in (("excluded", share), ("success", success)):
            self.state[name] = [*self.state[name], value][-WINDOW:]
        excluded, succeeded = np.array(self.state["excluded"]), np.array(self.state["success"])
        if len(excluded) < WINDOW or excluded.mean() < 0.01 or not (excluded.std() and succeeded.std()):
            return []
        correlation = float(np.corrcoef(excluded, succeeded)[0, 1])
        if abs(correlation) < 0.5:
            return []
        return [
            f"excluded episodes ({excluded.mean():.1%}) go with success (correlation {correlation:+.2f} over "
            f"{WINDOW} steps): leaving them out biases training; look at their errors"
        ]
