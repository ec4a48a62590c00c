"""The torch rollout engine: an asyncio face on a thread that runs forwards.

Tasks post requests and await futures; the thread takes whatever is there, runs one step and hands all
results of the step back in one wake-up of the event loop. The sequences' keys and values stay in the
cache between turns, so a turn feeds only the last sampled token and what the environment answered.

Environments are often faster than a forward: before a step the thread waits a moment for sequences that
are out in their environment, as long as requests keep coming, because fuller batches cost less per token.
In deterministic mode it waits for every open sequence instead and takes them in their order, so that
what is computed together depends on the episodes alone and not on time: then the same seeds give the
same bits. That needs the sequences of a wave to be open before its first ``generate``, and the next
sequence to be opened before the last one is closed where they are replaced one by one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from turnwise.agents.policy import EpisodeKey
from turnwise.agents.torch.forward import build_forward
from turnwise.agents.torch.scheduler import Completion, EngineStats, Job, Lane, Outcome, Scheduler
from turnwise.agents.trajectory import Sampling

GATHER_SECONDS = 0.002
"""Longest wait for a fuller batch."""
QUIET_SECONDS = 0.0003
"""The wait ends early when no request came for this long."""


class EngineClosed(RuntimeError):
    """The engine is not running: it was closed, or never entered."""


class Sequence:
    """One episode's tokens in the engine, from :meth:`Engine.open`."""

    def __init__(self, engine: Engine, key: EpisodeKey) -> None:
        self._engine = engine
        self._lane = Lane(key)

    @property
    def length(self) -> int:
        """Tokens so far, sampled ones included."""
        return self._lane.length

    async def generate(self, ids: Iterable[int], sampling: Sampling, stop: frozenset[int]) -> Completion:
        """Feed ``ids``, then sample until a stop id (kept), ``max_tokens`` or the end of the context.

        ``ids`` are the tokens since the last completion; its last token is fed by the engine. With no
        room for a single new token nothing is fed and the completion is empty with finish ``context``.
        A cancelled ``generate`` closes the sequence, whose history is then unknown.

        Raises ``ValueError`` for ids outside the vocabulary or nothing to feed, ``RuntimeError`` on a
        closed or busy sequence, ``FloatingPointError`` for NaN logits, :class:`EngineClosed`, and
        whatever a forward raised.
        """
        return await self._engine._generate(self, tuple(ids), sampling, stop)

    async def fork(self, key: EpisodeKey) -> Sequence:
        """Another sequence with the same history so far, under its own key."""
        return await self._engine._fork(self, key)

    def close(self) -> None:
        """Give the slot back; a pending ``generate`` is cancelled. May be called twice."""
        self._engine._close(self._lane)


class Engine:
    """Continuous batching over one model. Use as an async context manager.

    ``max_context`` is the longest history in tokens (default: what the model was made for),
    ``max_sequences`` how many may hold a cache slot; further ones wait. The engine runs on its own copy
    of the weights, so a trainer may update the model's in place at any time; :meth:`refresh` takes them
    over. ``deterministic`` is explained above; a sequence that does not come within
    ``lockstep_seconds`` then fails the wave with ``TimeoutError``.

    Raises :class:`UnsupportedModelError` when the model's architecture cannot run on this cache.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        max_context: int | None = None,
        max_sequences: int = 256,
        deterministic: bool = False,
        lockstep_seconds: float = 60.0,
    ) -> None:
        forward = build_forward(model)
        limit: int = model.config.get_text_config().max_position_embeddings
        if max_context is not None and not 2 <= max_context <= limit:
            raise ValueError(f"max_context {max_context} must be 2 to {limit}, what the model was made for")
        if max_sequences < 1:
            raise ValueError(f"max_sequences {max_sequences} must be at least 1")
        embedding: Any = model.get_input_embeddings()
        self._vocabulary: int = embedding.weight.shape[0]
        self._deterministic, self._lockstep_seconds = deterministic, lockstep_seconds
        self._scheduler = Scheduler(
            forward, model.device, max_context=max_context or limit, max_sequences=max_sequences
        )
        self._turnstile = threading.Condition()
        self._open: set[Lane] = set()
        self._pending: dict[Lane, asyncio.Future[Completion]] = {}
        self._jobs: list[Job] = []
        self._commands: list[tuple[Callable[[], None], asyncio.Future[None] | None]] = []
        self._running = False
        self._asleep = False
        self._delivered = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def version(self) -> int:
        """How often the weights were refreshed."""
        return self._scheduler.version

    @property
    def stats(self) -> EngineStats:
        """Counters, written by the engine's thread."""
        return self._scheduler.stats

    async def __aenter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("an engine runs once: build another")
        self._loop = asyncio.get_running_loop()
        self._running = True
        self._thread = threading.Thread(target=self._work, name="turnwise-engine", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._turnstile:
            self._running = False
            self._turnstile.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def open(self, key: EpisodeKey) -> Sequence:
        """A new, empty sequence; it takes a cache slot at its first ``generate``."""
        sequence = Sequence(self, key)
        with self._turnstile:
            self._require_running()
            self._open.add(sequence._lane)
        return sequence

    async def refresh(self) -> None:
        """Take over the model's weights as they are now; ``version`` grows by one.

        Open sequences keep the keys and values of the old weights until they are opened anew, so their
        further log-probabilities are those of neither version alone.
        """
        await self._command(self._scheduler.refresh)

    async def _generate(
        self, sequence: Sequence, ids: tuple[int, ...], sampling: Sampling, stop: frozenset[int]
    ) -> Completion:
        lane = sequence._lane
        self._check(lane, ids)
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        with self._turnstile:
            self._require_running()
            self._pending[lane] = future
            self._jobs.append(Job(lane, ids, sampling, stop))
            self._wake()
        try:
            return await future
        except asyncio.CancelledError:
            self._close(lane)
            raise

    def _check(self, lane: Lane, ids: tuple[int, ...]) -> None:
        name = f"sequence of episode {lane.key.episode_id!r}"
        self._require_running()
        if lane not in self._open:
            raise RuntimeError(f"{name} is closed: open another")
        if lane in self._pending:
            raise RuntimeError(f"{name} is already generating: await that first")
        if lane.failure is not None:
            raise RuntimeError(f"{name} has failed and cannot go on: {lane.failure}") from lane.failure
        if not ids and lane.unfed is None:
            raise ValueError(f"{name} is empty and ids is empty: there is nothing to continue")
        if ids and not 0 <= min(ids) <= max(ids) < self._vocabulary:
            strange = sorted({i for i in ids if not 0 <= i < self._vocabulary})
            raise ValueError(
                f"ids {strange} are outside the model's vocabulary of {self._vocabulary}: "
                "use the tokenizer the model was made with"
            )

    async def _fork(self, sequence: Sequence, key: EpisodeKey) -> Sequence:
        source = sequence._lane
        if source in self._pending or source not in self._open:
            raise RuntimeError(
                f"sequence of episode {source.key.episode_id!r} is generating or closed: it cannot be forked"
            )
        if source.failure is not None:
            raise RuntimeError(
                f"sequence of episode {source.key.episode_id!r} has failed and cannot be forked"
            ) from source.failure
        fork = self.open(key)
        try:
            await self._command(lambda: self._scheduler.fork(source, fork._lane))
        except BaseException:
            fork.close()
            raise
        return fork

    def _close(self, lane: Lane) -> None:
        with self._turnstile:
            self._open.discard(lane)
            future = self._pending.pop(lane, None)
            if not lane.closed:
                self._commands.append((lambda: self._scheduler.close(lane), None))
                self._turnstile.notify()
        if future is not None:
            future.cancel()

    async def _command(self, function: Callable[[], None]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._turnstile:
            self._require_running()
            self._commands.append((function, future))
            self._turnstile.notify()
        await future

    def _require_running(self) -> None:
        if not self._running:
            raise EngineClosed("the engine is not running: use it inside `async with Engine(...)`")

    def _wake(self) -> None:
        """Wake the thread only where that lets it go on: it also looks by itself while it gathers."""
        if self._asleep or len(self._pending) == len(self._open):
            self._turnstile.notify()

    def _work(self) -> None:
        """The engine's thread."""
        try:
            with torch.inference_mode():
                while self._iterate():
                    pass
        finally:
            self._shut()

    def _iterate(self) -> bool:
        with self._turnstile:
            late = self._await_wave() if self._deterministic else None
            if not self._deterministic:
                self._await_jobs()
            if not self._running:
                return False
            commands, self._commands = self._commands, []
            ready = self._complete or not self._deterministic or late is not None
            jobs: list[Job] = []
            if ready:
                jobs, self._jobs = self._jobs, []
        for function, future in commands:
            self._execute(function, future)
        if self._deterministic:
            jobs.sort(key=lambda job: (job.lane.key.order, job.lane.key.episode_id))
        self._scheduler.submit(jobs)
        if late is not None:
            self._publish(self._scheduler.fail_all(late))
        elif ready:
            try:
                outcomes = self._scheduler.step()
            except Exception as error:  # noqa: BLE001 - every waiting task gets it
                outcomes = self._scheduler.fail_all(error)
            self._publish(outcomes)
        return True

    @property
    def _complete(self) -> bool:
        """Whether every open sequence is waiting for tokens."""
        return bool(self._pending) and len(self._pending) == len(self._open)

    def _sleep(self) -> None:
        self._asleep = True
        self._turnstile.wait()
        self._asleep = False

    def _await_jobs(self) -> None:
        """Sleep until there is work, then a moment longer for sequences that may come along."""
        while self._running and not self._commands and not self._jobs and self._scheduler.idle:
            self._sleep()
        if not self._jobs and not self._delivered:
            return
        until = time.monotonic() + GATHER_SECONDS
        while self._running and not self._commands and not self._complete:
            seen = len(self._jobs)
            self._turnstile.wait(QUIET_SECONDS)
            if len(self._jobs) == seen or time.monotonic() >= until:
                return

    def _await_wave(self) -> TimeoutError | None:
        """Sleep until every open sequence wants tokens; an error naming those that did not come."""
        until = time.monotonic() + self._lockstep_seconds
        while self._running and not self._commands and not self._complete:
            if not self._pending:
                self._sleep()
                until = time.monotonic() + self._lockstep_seconds
            elif not self._turnstile.wait(max(0.0, until - time.monotonic())):
                absent = sorted(lane.key.episode_id for lane in self._open - self._pending.keys())
                return TimeoutError(
                    f"deterministic wave incomplete after {self._lockstep_seconds:g} s: no request from "
                    f"episodes {absent}; close sequences that are done, or raise lockstep_seconds"
                )
        return None

    def _execute(self, function: Callable[[], None], future: asyncio.Future[None] | None) -> None:
        error: Exception | None = None
        try:
            function()
        except Exception as failure:
            if future is None:
                raise
            error = failure
        if future is not None:
            self._deliver([(future, error)])

    def _publish(self, outcomes: list[Outcome]) -> None:
        self._delivered = bool(outcomes)
        if outcomes:
            with self._turnstile:
                waiting = [(self._pending.pop(job.lane, None), result) for job, result in outcomes]
            self._deliver([(future, result) for future, result in waiting if future is not None])

    def _shut(self) -> None:
        with self._turnstile:
            self._running = False
            futures: list[asyncio.Future[Any]] = [*self._pending.values()]
            futures += [future for _, future in self._commands if future is not None]
            self._pending.clear()
            self._commands.clear()
            self._open.clear()
        self._deliver([(future, EngineClosed("the engine was closed")) for future in futures])

    def _deliver(self, results: list[tuple[asyncio.Future[Any], Any]]) -> None:
        """Hand results to the event loop: one wake-up however many they are."""
        if results and self._loop is not None:
            self._loop.call_soon_threadsafe(_settle, results)


def _settle(results: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in results:
        if future.done():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
