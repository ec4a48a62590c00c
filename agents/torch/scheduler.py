"""Continuous batching, one step at a time: which tokens of which sequences the next forward takes.

A step feeds every decoding sequence its last token and every waiting one its next chunk, as one ragged
batch, and draws a token wherever a history is complete. Sequences that open with the same prompt in one
group share it: the first computes it, the others get its keys, values and logits. Nothing here knows of
threads or event loops.
"""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from turnwise.agents.policy import EpisodeKey
from turnwise.agents.torch.batch import Ints, layout, width_class
from turnwise.agents.torch.cache import KVCache
from turnwise.agents.torch.forward import Forward
from turnwise.agents.torch.sampling import draw, uniforms
from turnwise.agents.torch.slots import SlotTable
from turnwise.agents.trajectory import Sampling

CHUNK = 512
"""Most tokens of one sequence in one forward, so that a long prompt does not hold up the others' turns."""
STEP_TOKENS = 8192
"""Most tokens of new chunks in one forward."""

Finish: TypeAlias = Literal["stop", "length", "context"]


@dataclass(frozen=True, slots=True)
class Completion:
    """What one ``generate`` sampled."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural log, float32, of the distribution sampled from; see ``sampling.draw``."""
    versions: tuple[int, ...]
    """Weight version each token was sampled under."""
    finish: Finish
    """``stop``: the last id is a stop id; ``length``: ``max_tokens`` reached; ``context``: no room left."""


@dataclass(slots=True, eq=False)
class Lane:
    """One open sequence, as the scheduler sees it."""

    key: EpisodeKey
    slot: int | None = None
    length: int = 0
    """Tokens of the sequence, sampled ones included."""
    unfed: int | None = None
    """The last sampled token, not in the cache yet."""
    failure: Exception | None = None
    """Why this sequence cannot go on."""
    closed: bool = False
    prefix: Prefix | None = None
    """The prompt it computes for its group."""


@dataclass(slots=True, eq=False)
class Job:
    """One ``generate``: tokens to feed, then tokens to sample."""

    lane: Lane
    ids: tuple[int, ...]
    sampling: Sampling
    stop: frozenset[int]
    feed: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    offset: int = 0
    """How much of ``feed`` is in the cache."""
    fills_context: bool = False
    """Whether the context ends before ``max_tokens`` does."""


@dataclass(slots=True, eq=False)
class Prefix:
    """A prompt computed once for a group."""

    key: tuple[str, bytes]
    """The group, and the prompt's ids."""
    length: int
    leader: Lane
    followers: list[Job] = field(default_factory=list)
    """Who waits for it."""
    logits: Tensor | None = None
    """``[1, vocabulary]`` after its last token, once computed."""


@dataclass(slots=True)
class EngineStats:
    """Counters since the engine was built."""

    generated: int = 0
    """Tokens sampled."""
    fed: int = 0
    """Tokens that went through the model."""
    shared: int = 0
    """Tokens whose keys and values were copied from another sequence instead."""
    forwards: int = 0
    forward_cpu_seconds: float = 0.0
    """CPU time of the engine's thread inside forwards."""


Outcome: TypeAlias = tuple[Job, Completion | Exception]


class Scheduler:
    """Slots, waiting jobs and the model, advanced by :meth:`step`."""

    def __init__(
        self, forward: Forward, device: torch.device, *, max_context: int, max_sequences: int
    ) -> None:
        self.version = 0
        self.stats = EngineStats()
        self._forward = forward
        self._device = device
        self._max_context = max_context
        self._cache = KVCache(max_slots=max_sequences, max_length=max_context)
        self._table = SlotTable(max_sequences)
        self._free = list(range(max_sequences))
        self._waiting: list[Job] = []
        self._running: dict[int, Job] = {}
        self._chunking: list[Job] = []
        self._prefixes: dict[tuple[str, bytes], Prefix] = {}

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs."""
        self._waiting.extend(jobs)

    def refresh(self) -> None:
        """Read the model's weights again; prompts computed under the old ones are shared no more."""
        self._forward.refresh()
        self._prefixes.clear()
        self.version += 1

    def fork(self, source: Lane, target: Lane) -> None:
        """Give ``target`` the history of ``source``."""
        if source.slot is not None:
            if not self._free:
                raise RuntimeError(
                    f"no slot is free to fork episode {source.key.episode_id!r}: raise max_sequences"
                )
            target.slot = heapq.heappop(self._free)
            self._share(source.slot, [target.slot], int(self._table.fed[source.slot]))
        target.length, target.unfed = source.length, source.unfed

    def close(self, lane: Lane) -> None:
        """Give the lane's slot back and drop its job."""
        lane.closed = True
        slot, lane.slot = lane.slot, None
        if slot is None:
            return
        if lane.prefix is not None:
            self._disband(lane.prefix)
        job = self._running.pop(slot, None)
        if job in self._chunking:
            self._chunking.remove(job)
        if lane.failure is not None:
            self._cache.clear(slot)
        self._table.decoding[slot] = False
        self._table.fed[slot] = 0
        heapq.heappush(self._free, slot)

    def fail_all(self, error: Exception) -> list[Outcome]:
        """End every job with ``error``; the sequences that were running cannot go on."""
        for job in self._running.values():
            job.lane.failure = error
        jobs = [job for job in [*self._waiting, *self._running.values()] if not job.lane.closed]
        self._waiting, self._chunking = [], []
        self._running.clear()
        self._prefixes.clear()
        self._table.decoding[:] = False
        return [(job, error) for job in jobs]

    @property
    def idle(self) -> bool:
        """Whether a step would do nothing."""
        return not self._running and not (self._waiting and self._free)

    def step(self) -> list[Outcome]:
        """Admit what is waiting, run one forward, draw one token per complete history."""
        outcomes, served = self._admit()
        slots, logits = self._feed()
        for prefix in served + self._computed(slots, logits):
            followers, prefix.followers = [j for j in prefix.followers if not j.lane.closed], []
            if followers and prefix.logits is not None and prefix.leader.slot is not None:
                targets = [_slot(job.lane) for job in followers]
                self._share(prefix.leader.slot, targets, prefix.length)
                slots = np.concatenate([slots, targets])
                logits.append(prefix.logits.expand(len(targets), -1))
        if len(slots):
            outcomes += self._sample(slots, torch.cat(logits) if len(logits) > 1 else logits[0])
        return outcomes

    def _admit(self) -> tuple[list[Outcome], list[Prefix]]:
        """Start waiting jobs that have or get a slot; also the computed prefixes they can share."""
        outcomes: list[Outcome] = []
        served: list[Prefix] = []
        waiting, self._waiting = self._waiting, []
        for job in waiting:
            lane = job.lane
            room = self._max_context - lane.length - len(job.ids)
            if lane.closed:
                continue
            if room < 1:
                outcomes.append((job, Completion((), (), (), "context")))
            elif lane.slot is None and not self._free:
                self._waiting.append(job)
            else:
                prefix = self._start(job, room)
                if prefix is not None and prefix.logits is not None and prefix not in served:
                    served.append(prefix)
        return outcomes, served

    def _start(self, job: Job, room: int) -> Prefix | None:
        """Give the job its slot; the prefix it waits for, if another computes or has computed it."""
        lane = job.lane
        if lane.slot is None:
            lane.slot = heapq.heappop(self._free)
        slot = lane.slot
        limit = min(job.sampling.max_tokens, room)
        job.fills_context = limit < job.sampling.max_tokens
        job.feed = np.array(job.ids if lane.unfed is None else (lane.unfed, *job.ids), dtype=np.int64)
        lane.unfed = None
        lane.length += len(job.ids)
        self._table.begin(slot, lane.key.seed, job.sampling, job.stop, limit)
        self._running[slot] = job
        return self._enqueue(job)

    def _enqueue(self, job: Job) -> Prefix | None:
        """Put a started job behind the prefix it shares, if any, else among those to feed."""
        lane = job.lane
        if self._table.fed[_slot(lane)] == 0:
            key = (lane.key.group_id, job.feed.tobytes())
            prefix = self._prefixes.get(key)
            if prefix is not None:
                prefix.followers.append(job)
                return prefix
            lane.prefix = self._prefixes[key] = Prefix(key, len(job.feed), lane)
        self._chunking.append(job)
        return None

    def _disband(self, prefix: Prefix) -> None:
        """Share a prefix no more, its leader being gone; who still waits for it finds another."""
        if self._prefixes.get(prefix.key) is prefix:
            del self._prefixes[prefix.key]
        followers, prefix.followers = prefix.followers, []
        for job in followers:
            if not job.lane.closed:
                self._enqueue(job)

    def _feed(self) -> tuple[Ints, list[Tensor]]:
        """Run one forward; the slots whose history is now complete, and their logits."""
        table = self._table
        decoding = np.flatnonzero(table.decoding)
        chunks, budget = [table.last(decoding)], STEP_TOKENS
        chunking: list[Job] = []
        for job in self._chunking:
            take = job.feed[job.offset : job.offset + min(CHUNK, budget)]
            if len(take):
                chunks.append(take)
                chunking.append(job)
                budget -= len(take)
        if not len(decoding) and not chunking:
            return decoding, []
        taken = np.array([len(c) for c in chunks[1:]], dtype=np.int64)
        slots = np.concatenate([decoding, np.array([_slot(j.lane) for j in chunking], dtype=np.int64)])
        counts = np.concatenate([np.ones_like(decoding), taken])
        complete = np.ones(len(slots), dtype=bool)
        for row, job in enumerate(chunking, len(decoding)):
            job.offset += int(counts[row])
            complete[row] = job.offset == len(job.feed)
        self._chunking = [job for job in self._chunking if job.offset < len(job.feed)]
        order = np.lexsort((slots, width_class(counts)))
        tokens = _permuted(np.concatenate(chunks), counts, order)
        slots, counts, complete = slots[order], counts[order], complete[order]
        logits = self._run(tokens, slots, counts, np.flatnonzero(complete))
        return slots[complete], [logits]

    def _run(self, tokens: Ints, slots: Ints, counts: Ints, wanted: Ints) -> Tensor:
        starts = self._table.fed[slots]
        self._cache.reserve(int(slots.max()) + 1, int((starts + counts).max()))
        began = time.thread_time()
        batch = layout(tokens, slots, starts, counts, wanted, self._device)
        logits = self._forward(batch, self._cache)
        self.stats.forward_cpu_seconds += time.thread_time() - began
        self.stats.forwards += 1
        self.stats.fed += len(tokens)
        self._table.fed[slots] = starts + counts
        return logits

    def _computed(self, slots: Ints, logits: list[Tensor]) -> list[Prefix]:
        """The prefixes whose leader has just completed its prompt, with their logits."""
        computed = []
        for row in np.flatnonzero(~self._table.decoding[slots]).tolist():
            prefix = self._running[int(slots[row])].lane.prefix
            if prefix is not None and prefix.logits is None:
                prefix.logits = logits[0][row : row + 1].clone()
                computed.append(prefix)
        return computed

    def _share(self, source: int, targets: list[int], length: int) -> None:
        self._cache.reserve(max(targets) + 1, length)
        self._cache.copy(source, targets, length)
        self._table.fed[targets] = length
        self.stats.shared += length * len(targets)

    def _sample(self, slots: Ints, logits: Tensor) -> list[Outcome]:
        table = self._table
        uniform = uniforms(table.seed[slots], table.fed[slots])
        tokens, logprobs = draw(
            logits, uniform, table.temperature[slots], table.top_k[slots], table.top_p[slots]
        )
        stopped, full = table.record(slots, tokens, logprobs, self.version)
        broken = ~np.isfinite(logprobs)
        done = stopped | full | broken
        table.decoding[slots] = ~done
        self.stats.generated += len(slots)
        outcomes: list[Outcome] = []
        for row in np.flatnonzero(done).tolist():
            job = self._running.pop(int(slots[row]))
            outcomes.append((job, self._fail(job) if broken[row] else self._finish(job, bool(stopped[row]))))
        return outcomes

    def _finish(self, job: Job, stopped: bool) -> Completion:
        lane, slot = job.lane, _slot(job.lane)
        ids, logprobs, versions = self._table.completion(slot)
        lane.length += len(ids)
        lane.unfed = ids[-1]
        return Completion(
            ids, logprobs, versions, "stop" if stopped else "context" if job.fills_context else "length"
        )

    def _fail(self, job: Job) -> FloatingPointError:
        job.lane.failure = FloatingPointError(
            f"episode {job.lane.key.episode_id!r} got NaN or infinite logits from weight version "
            f"{self.version}: the weights have diverged or overflow in this dtype"
        )
        return job.lane.failure


def _slot(lane: Lane) -> int:
    if lane.slot is None:
        raise RuntimeError(f"episode {lane.key.episode_id!r} has no cache slot")
    return lane.slot


def _permuted(tokens: Ints, counts: Ints, order: Ints) -> Ints:
    """Chunks laid end to end with ``counts``, in another order."""
    firsts = np.cumsum(counts) - counts
    lengths = counts[order]
    offsets = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return tokens[np.repeat(firsts[order], lengths) + offsets]
