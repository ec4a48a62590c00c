"""One session of OpenEnv's: episodes one after another, in one place of the service.

It is carried out by the requests of our own protocol, so that it is bounded, timed, recorded and permitted
like every other session. An episode of OpenEnv's is a session of the service, and a reset opens the next
one in the place of the last.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any
from uuid import uuid4

from turnwise.envs.openenv.messages import CallToolAction, KnownTask, OpenEnvAction, ResetData, State
from turnwise.envs.openenv.offer import Offer, Result
from turnwise.envs.serving.faults import Code, Refusal
from turnwise.envs.serving.served_session import Owner, Principal
from turnwise.envs.serving.service import Service
from turnwise.envs.serving.wire import (
    AttachRequest,
    OpenRequest,
    ResetReply,
    ResetRequest,
    SessionInfo,
    SessionReply,
    StepReply,
    StepRequest,
    TaskByRef,
    TaskBySeed,
    TaskChoice,
)
from turnwise.envs.types import SPLITS, EndReason, Step


class Unplayable(Exception):
    """The environment or the machine failed: an episode without a score, which must not look like one."""


def choose(offer: Offer, data: ResetData) -> TaskChoice:
    """The task that a reset asks for."""
    if isinstance(data.task, KnownTask):
        return TaskByRef(ref=data.task.ref, public=data.task.public)
    seed = data.seed
    if seed is None:
        size = len(offer.spec.make().task_set(data.split)) if data.split in SPLITS else 1
        seed = random.randrange(size)
    return TaskBySeed(seed=seed, split=data.split)


def playable(step: Step) -> Step:
    """A step of an episode that can go on or was graded. Raises :class:`Unplayable` for another."""
    if step.end is None or step.end.trainable:
        return step
    reason = "" if step.record is None else f": {step.record.error}"
    raise Unplayable(f"the episode ended ({step.end}) and has no score{reason}")


class Player:
    """A session as the trainer holds one, or as the agent of one does. See the module."""

    def __init__(self, service: Service, caller: Principal, offer: Offer, owner: Owner, name: str) -> None:
        place = service.roster.place
        self.id = str(uuid4()) if place.workers == 1 else f"{place.index}.{uuid4()}"
        """Names it in JSON-RPC and leads back to its worker, where there are several."""
        self.offer = offer
        self._service, self._caller, self._owner, self._name = service, caller, owner, name
        self._episode: str | None = None
        self._began = caller.held is not None
        self._turns = asyncio.Lock()

    @classmethod
    async def open(cls, service: Service, caller: Principal, offer: Offer, owner: Owner) -> Player:
        """A new session, or the one of an agent's token. Raises :class:`Refusal`; ``BUSY`` at once where no
        place is free."""
        if caller.held is not None:
            if caller.held.spec.name != offer.spec.name:
                raise Refusal(Code.FORBIDDEN, f"the agent's session is one of {caller.held.spec}")
            return cls(service, caller, offer, owner, caller.held.name)
        if service.roster.full:
            raise Refusal(Code.BUSY, "no place is free")
        name = uuid4().hex
        first = OpenRequest(id=0, session=name, env=offer.spec, task=TaskBySeed())
        await service.answer(caller, first, owner)
        return cls(service, caller, offer, owner, name)

    async def reset(self, data: ResetData) -> Result:
        """Start the next episode. Raises :class:`Refusal`."""
        if self._caller.held is not None:
            raise Refusal(Code.FORBIDDEN, "an agent may not reset")
        async with self._turns:
            name = uuid4().hex
            task = choose(self.offer, data)
            request = OpenRequest(id=0, session=name, env=self.offer.spec, task=task, instead=self._name)
            opened = await self._service.answer(self._caller, request, self._owner)
            assert isinstance(opened, SessionReply)
            self._name, self._began = name, True
            self._episode = data.episode_id or str(uuid4())
            start = ResetRequest(id=0, session=name)
            reply = await self._service.answer(self._caller, start, self._owner)
            assert isinstance(reply, ResetReply)
        return self.offer.opening(reply.view, _beside(opened.info))

    async def step(self, action: OpenEnvAction) -> Result:
        """Carry out an action. Raises :class:`Refusal` and :class:`Unplayable`."""
        if not isinstance(action, CallToolAction):
            return self.offer.listed()
        async with self._turns:
            if not self._began:
                raise Refusal(Code.WRONG_ORDER, "this session is new and has no episode yet: reset it")
            request = StepRequest(id=0, session=self._name, action=self.offer.action(action))
            reply = await self._service.answer(self._caller, request, self._owner)
        assert isinstance(reply, StepReply)
        return self.offer.turn(action, playable(reply.step))

    async def call(self, action: CallToolAction) -> Result:
        """The same for a caller that cannot reset: the first call starts an episode."""
        if not self._began:
            await self.reset(ResetData())
        return await self.step(action)

    async def state(self) -> State:
        """How it stands. Raises :class:`Refusal`."""
        if not self._began:
            return State()
        request = AttachRequest(id=0, session=self._name)
        reply = await self._service.answer(self._caller, request, self._owner)
        assert isinstance(reply, SessionReply)
        end: EndReason | None = reply.info.end
        return State(episode_id=self._episode or self._name, step_count=reply.info.turn, end=end)

    async def close(self) -> None:
        """Give up its episode and its place; those of an agent are not its own."""
        if self._caller.held is None:
            await self._service.roster.close(self._name)


def _beside(info: SessionInfo) -> dict[str, Any]:
    """What the trainer learns of a new episode."""
    return {"task": info.ref, "limits": info.limits, "agent_token": info.agent_token}
