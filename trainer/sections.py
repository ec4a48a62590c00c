"""The sections of a recipe: what can be chosen, with its default, its unit and what it is for.

Each docstring beneath a field is also its description in the recipe's schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Field,
    GetJsonSchemaHandler,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from turnwise.envs.errors import UsageError
from turnwise.envs.types import Split
from turnwise.trainer.section import Section, Share
from turnwise.trainer.stage import BoundStage, find_stage, stages


class StageRef(Section):
    """A stage of credit: its name alone, or a mapping with its name as ``kind`` beside its parameters.

    Parameters left out are filled in, so that a stored recipe means the same when a default changes.
    """

    kind: str
    params: dict[str, JsonValue]

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping) or not isinstance(value.get("kind"), str):
            raise UsageError(f"{value!r} is no stage: write its name, or {{kind: name}} with parameters")
        given = {name: entry for name, entry in value.items() if name != "kind"}
        bound = find_stage(value["kind"]).bind(given)
        return {"kind": value["kind"], "params": bound.params.model_dump(mode="json")}

    @model_serializer
    def _flat(self) -> str | dict[str, JsonValue]:
        return {"kind": self.kind, **self.params} if self.params else self.kind

    def bind(self) -> BoundStage:
        """The stage with its parameters."""
        return find_stage(self.kind).bind(self.params)

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        forms: list[dict[str, Any]] = [{"enum": list(stages())}]
        for name, stage in stages().items():
            schema = handler.resolve_ref_schema(handler(stage.params.__pydantic_core_schema__))
            properties = {"kind": {"const": name}, **schema.get("properties", {})}
            forms.append(
                {
                    "type": "object",
                    "title": name,
                    "description": stage.summary,
                    "properties": properties,
                    "required": ["kind", *schema.get("required", [])],
                    "additionalProperties": False,
                }
            )
        return {"title": "Stage", "anyOf": forms}


class TinyModel(Section):
    """The project's own small Qwen3, made from nothing; its vocabulary is the environment's."""

    kind: Literal["tiny"] = "tiny"
    hidden_size: PositiveInt = 128
    """Width of a layer."""
    layers: PositiveInt = 2
    """Number of layers."""
    heads: PositiveInt = 4
    """Attention heads of a layer."""
    kv_heads: PositiveInt = 2
    """Key and value heads of a layer; divides ``heads``."""
    ffn_size: PositiveInt = 384
    """Width of the feed-forward part."""
    context: PositiveInt = 512
    """Tokens of an episode at most; beyond it the episode ends as ``context_limit``."""


class FolderModel(Section):
    """A model and tokenizer saved in a folder, in the transformers format."""

    kind: Literal["folder"] = "folder"
    path: str
    """The folder."""


ModelSection: TypeAlias = Annotated[TinyModel | FolderModel, Field(discriminator="kind")]


class WarmStart(Section):
    """Imitation before reinforcement, until the model succeeds often enough to learn from itself."""

    demonstrations: PositiveInt = 1500
    """Episodes shown by the environment's oracle."""
    oracle: Share = 0.85
    """How often the demonstrator takes the best action; otherwise it takes one at random."""
    gate: Share = 0.4
    """Warm start is over when this share of sampled episodes succeeds; a run that does not get there
    within ``max_steps`` stops, because reinforcement would have nothing to reinforce."""
    max_steps: PositiveInt = 600
    """Gradient steps at most."""
    check_every: PositiveInt = 25
    """Gradient steps between looks at the gate."""
    lr: PositiveFloat = 0.002
    """Peak learning rate."""
    batch: PositiveInt = 32
    """Demonstrations per gradient step."""


class Rollout(Section):
    """What is sampled in a training step."""

    tasks: PositiveInt = 16
    """Tasks per step."""
    group: PositiveInt = 8
    """Episodes per task; methods that compare within a group need 2 or more."""
    temperature: PositiveFloat = 1.0
    """Of sampling; training uses the same."""
    max_tokens: PositiveInt = 16
    """Tokens per turn at most."""
    concurrency: PositiveInt = 128
    """Episodes open at once."""
    retries: int = Field(default=1, ge=0)
    """How often an episode is started anew after a failure of the machine."""


class Optimizer(Section):
    """How the weights are updated (AdamW)."""

    lr: PositiveFloat = 0.001
    """Learning rate, constant."""
    betas: tuple[Share, Share] = (0.9, 0.95)
    """Decay of the running averages of gradient and squared gradient."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay."""
    grad_clip: PositiveFloat = 1.0
    """Largest norm of the gradient."""
    minibatch: PositiveInt = 32
    """Episodes per gradient step."""
    epochs: PositiveInt = 1
    """Passes over a step's episodes."""
    max_tokens: PositiveInt = 2048
    """Tokens of one forward pass at most, padding counted; bounds memory, not what is learned."""


class ClipLoss(Section):
    """The clipped surrogate (PPO, arXiv 1707.06347, eq. 7)."""

    kind: Literal["clip"] = "clip"
    ratio: Literal["token", "turn"] = "token"
    """What the probability ratio is taken of: each token, or the whole turn as one action."""
    low: PositiveFloat = 0.2
    """The ratio is clipped below ``1 - low``."""
    high: PositiveFloat = 0.2
    """The ratio is clipped above ``1 + high``."""


class RegressionLoss(Section):
    """Regression of the log-ratio on the advantage: ``(beta log(pi / pi_ref) - A)^2``, with the policy that
    sampled as ``pi_ref``. The actor of MiRA (arXiv 2603.19685), in a form inferred from its family."""

    kind: Literal["regression"] = "regression"
    ratio: Literal["token", "turn"] = "turn"
    """What the log-ratio is taken of: each token, or the whole turn as one action."""
    beta: PositiveFloat = 1.0
    """An advantage of ``beta`` is to make an action ``e`` times as likely: the larger, the closer the policy
    stays. The paper's value is not known; 1 suits advantages of deviation 1."""


class WeightedLoss(Section):
    """Imitation weighted by the advantage: ``-exp(A / beta) log pi`` (AWR, arXiv 1910.00177)."""

    kind: Literal["weighted"] = "weighted"
    beta: PositiveFloat = 1.0
    """How much better an action must be to weigh ``e`` times as much."""
    cap: PositiveFloat = 20.0
    """The largest weight."""


LossSection: TypeAlias = Annotated[ClipLoss | RegressionLoss | WeightedLoss, Field(discriminator="kind")]


class Evaluate(Section):
    """Evaluation during training."""

    every: PositiveInt = 5
    """Training steps between evaluations; there is one before the first step and one at the end."""
    tasks: PositiveInt = 128
    """Tasks, the same ones every time."""
    split: Split = "validation"
    """Where the tasks are from; keep ``test`` for the end."""
    stop_at: Share | None = None
    """End training when success here reaches this; null trains all steps."""


class Guards(Section):
    """What a run watches over itself for."""

    logprob_gap: PositiveFloat = 0.1
    """Stop when the trainer's log-probabilities of sampled tokens differ from the rollout's by more than
    this on average: the weights are out of step. In fp32 they agree to 1e-4, in bf16 to some 1e-2."""
    excluded: Share = 0.5
    """Stop when more than this share of a step's episodes failed through no fault of the agent."""
    grad_norm: PositiveFloat = 1000.0
    """Stop before a step whose gradient norm, before clipping, is larger: the loss has run away."""
    collapse: Share | None = 0.2
    """Stop when mean success over 5 steps falls below this share of its best over 5 steps, once that was
    at least 10%; null lets a run collapse, to be looked at."""
    completion_drop: Share = 0.3
    """Warn when the share of episodes submitted falls this far below its best."""
