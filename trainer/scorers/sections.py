"""The sections of a recipe that choose its scorers, and the columns each of them gives."""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from turnwise.envs.errors import UsageError
from turnwise.trainer.columns import TOKEN
from turnwise.trainer.section import Section, Share


class ImplicitReward(Section):
    """A reward model that is a language model: its log-ratio against a reference is the reward.

    The defaults are the form of iStar (arXiv 2509.19199): pairs of success and failure of one task, the
    policy that acted as the reference, scores after the update. With ``loss: cross_entropy``,
    ``reference: initial`` and ``accuracy: [0.2, 0.8]`` it is PRIME's (arXiv 2502.01456).
    """

    kind: Literal["implicit"] = "implicit"
    loss: Literal["preference", "cross_entropy"] = "preference"
    """``preference``: success above failure, pair by pair. ``cross_entropy``: success or not, episode by
    episode, which needs no pairs (arXiv 2412.01981)."""
    total: Literal["sum", "step_mean"] = "sum"
    """An episode's score in the loss: the sum over its turns (the papers), or their mean (iStar's code)."""
    reference: Literal["rolling", "initial"] = "rolling"
    """``rolling``: the policy that sampled the tokens, whose log-probabilities are known. ``initial``: the
    policy before reinforcement, which costs a forward pass."""
    beta: PositiveFloat = 0.05
    """Reward per unit of log-ratio."""
    success: Share = 1.0
    """The score from which an episode counts as a success."""
    accuracy: tuple[Share, Share] = (0.0, 1.0)
    """Groups are learned from whose share of successes lies within these bounds."""
    scored: Literal["all", "mixed"] = "all"
    """Which groups' turns get a reward: all, or those with both a success and a failure."""
    score: Literal["after_update", "before_update"] = "after_update"
    """Whether a step's turns are scored by the model that has learned from them, or by that of before."""
    warm_up: int = Field(default=0, ge=0)
    """Training steps in which it learns and scores nothing."""
    replay: int = Field(default=0, ge=0)
    """Groups remembered from earlier steps and learned from again."""
    minibatch: PositiveInt | None = None
    """Groups per optimiser step; null takes all there are."""
    optimizer_steps: PositiveInt = 1
    """Optimiser steps per training step, each on groups drawn from this step's and the remembered ones."""
    lr: PositiveFloat = 1e-6
    """Learning rate (AdamW), constant."""
    grad_clip: PositiveFloat = 10.0
    """Largest norm of the gradient."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        low, high = self.accuracy
        if low > high:
            raise UsageError(f"accuracy={list(self.accuracy)}: the lower bound comes first")
        if self.replay and self.minibatch is None:
            raise UsageError("replay needs minibatch: how many groups an optimiser step takes")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it gives: a turn's reward, NaN where not scored, and each token's part of it."""
        return ("implicit", f"{TOKEN}implicit")

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it learns from, besides those that every environment gives."""
        return ()


class Critics(Section):
    """Two critics on one network that starts from the policy and reads each turn's state before the turn is
    written: the probability of success and, where there are milestones, the progress made (MiRA, arXiv
    2603.19685). The paper's settings are not known; these are ours."""

    kind: Literal["critics"] = "critics"
    potential: bool = True
    """Whether progress is predicted beside success; needs an environment with milestones."""
    success: Share = 1.0
    """The score from which an episode counts as a success."""
    minibatch: PositiveInt | None = None
    """Episodes per optimiser step (contexts, where one has several); null takes all there are."""
    replay: int = Field(default=0, ge=0)
    """Episodes remembered from earlier steps; every step learns from them once more, after its own."""
    lr: PositiveFloat = 5e-4
    """Learning rate (AdamW), constant."""
    grad_clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it gives: what it says of the states before and after every turn."""
        success, potential = SUCCESS, PREDICTED if self.potential else ()
        return (*success, *potential)

    @property
    def needs(self) -> tuple[str, ...]:
        """The columns it learns from, besides those that every environment gives."""
        return ("potential_before", "potential_after") if self.potential else ()


SUCCESS = ("success_before", "success_after")
PREDICTED = ("predicted_potential_before", "predicted_potential_after")

ScorerSection: TypeAlias = Annotated[ImplicitReward | Critics, Field(discriminator="kind")]


def scorer_giving(column: str) -> str | None:
    """The kind of the scorer that gives a column by default, if there is one."""
    for section in (ImplicitReward(), Critics()):
        if column in section.columns:
            return section.kind
    return None
