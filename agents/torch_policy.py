"""A language model as a policy: the renderer's tokens in, the engine's tokens out, all of them kept.

An actor feeds the engine what happened since its last completion and records exactly that as spans. The
concatenation of an episode's spans is the sequence the engine holds; their lengths are compared at every
turn, because one token lost between a turn and the next would shift everything the trainer computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from transformers import PreTrainedModel

from turnwise.agents.chat_renderer import renderer_for
from turnwise.agents.policy import Actor, EpisodeKey, EpisodeSession
from turnwise.agents.renderer import Renderer
from turnwise.agents.tokenizer import load_tokenizer
from turnwise.agents.torch.engine import Engine, Sequence
from turnwise.agents.torch.model import load_model
from turnwise.agents.trajectory import Decision, Sampling, Span
from turnwise.envs.errors import UsageError
from turnwise.envs.types import AgentView, InvalidAction, ToolSpec

LEARNER = "learner"
"""The author of what the policy in training writes."""


class InexactTokens(RuntimeError):
    """The recorded spans are not the sequence the engine holds."""


class TorchPolicy:
    """Acts with a model that runs in an engine of this process, in any number of episodes at once."""

    def __init__(
        self, engine: Engine, renderer: Renderer, *, sampling: Sampling, name: str = LEARNER
    ) -> None:
        self.engine = engine
        self.renderer = renderer
        self.sampling: Sampling | None = sampling
        self.name = name
        self._sampling = sampling

    @asynccontextmanager
    async def open(self, key: EpisodeKey, session: EpisodeSession) -> AsyncIterator[Actor]:
        """An actor with a sequence of its own in the engine, given back with the block."""
        sequence = self.engine.open(key)
        try:
            yield TorchActor(sequence, self.renderer, self._sampling, self.name, session.guide)
        finally:
            sequence.close()


class TorchActor:
    """One episode of a :class:`TorchPolicy`."""

    def __init__(
        self, sequence: Sequence, renderer: Renderer, sampling: Sampling, author: str, guide: str
    ) -> None:
        self._sequence = sequence
        self._renderer = renderer
        self._sampling = sampling
        self._author = author
        self._guide = guide
        self._tools: tuple[ToolSpec, ...] = ()
        self._tokens = 0
        """In the spans so far."""
        self._last: int | None = None
        """The last token of the last completion."""

    async def act(self, view: AgentView) -> Decision:
        """Feed what is new and sample a turn.

        Where the context has no room for one more token nothing is fed: the decision has no spans and
        says ``context_full``; where the room ends within the turn, it has both. Raises what
        :meth:`Sequence.generate` raises, and :class:`InexactTokens`.
        """
        fed = self._feed(view)
        ids = [token for span in fed for token in span.ids]
        completion = await self._sequence.generate(ids, self._sampling, self._renderer.stop_ids)
        if not completion.ids:
            return Decision(InvalidAction(text="", error="the context is full"), context_full=True)
        self._last = completion.ids[-1]
        self._tokens += len(ids) + len(completion.ids)
        if self._tokens != self._sequence.length:
            raise InexactTokens(f"{self._tokens} tokens recorded, {self._sequence.length} in the engine")
        action, text = self._renderer.parse(completion.ids, self._tools)
        written = Span(
            completion.ids,
            "policy",
            author=self._author,
            logprobs=completion.logprobs,
            versions=completion.versions,
        )
        return Decision(
            action,
            (*fed, written),
            text,
            context_full=completion.finish == "context",
            truncated=completion.finish != "stop",
        )

    def _feed(self, view: AgentView) -> tuple[Span, ...]:
        self._tools = view.tools or self._tools
        if self._last is None:
            return (Span(self._renderer.opening(self._guide, view), "env"),)
        seen = Span(self._renderer.observation(view), "env")
        if self._last == self._renderer.stop_id:
            return (seen,)
        return (Span((self._renderer.stop_id,), "forced"), seen)


@asynccontextmanager
async def load_policy(
    folder: Path,
    *,
    sampling: Sampling,
    device: str = "auto",
    dtype: str = "auto",
    max_context: int | None = None,
    max_sequences: int = 256,
) -> AsyncIterator[TorchPolicy]:
    """The policy of a Hugging Face folder (model and tokenizer), named after the folder; its engine
    stops with the block. Raises ``UsageError`` where the folder holds no such thing."""
    model, renderer = await asyncio.to_thread(_load, folder, device, dtype)
    async with Engine(model, max_context=max_context, max_sequences=max_sequences) as engine:
        yield TorchPolicy(engine, renderer, sampling=sampling, name=str(folder))


def _load(folder: Path, device: str, dtype: str) -> tuple[PreTrainedModel, Renderer]:
    if not (folder / "config.json").is_file():
        raise UsageError(f"{str(folder)!r} is no model's folder: it has no config.json")
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, device=device, dtype=dtype)
    rows = model.config.get_text_config().vocab_size
    if len(tokenizer) > rows:
        raise UsageError(f"{str(folder)!r}: the tokenizer has {len(tokenizer)} tokens, the model {rows}")
    return model, renderer_for(tokenizer)
