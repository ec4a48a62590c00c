"""What goes into which step: chunks, prefixes and slots, without threads or clocks."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from turnwise.agents.policy import EpisodeKey
from turnwise.agents.torch import Completion, init_model, sequence_logprobs
from turnwise.agents.torch.forward import build_forward
from turnwise.agents.torch.scheduler import CHUNK, Job, Lane, Scheduler
from turnwise.agents.trajectory import Sampling

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 2048,
    "initializer_range": 0.4,
}
LONG = random.Random(0).choices(range(40), k=2 * CHUNK + 100)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return init_model(LLAMA, seed=0, device="cpu", dtype="float32")


@pytest.fixture
def scheduler(model: PreTrainedModel) -> Scheduler:
    return Scheduler(build_forward(model), torch.device("cpu"), max_context=2048, max_sequences=4)


def job(name: str, ids: list[int], tokens: int, group: str = "") -> Job:
    lane = Lane(EpisodeKey(name, group or name, seed=len(name)))
    return Job(lane, tuple(ids), Sampling(max_tokens=tokens), frozenset())


def finish(scheduler: Scheduler, jobs: list[Job]) -> dict[str, Completion]:
    """Step until the jobs are done."""
    done: dict[str, Completion] = {}
    while len(done) < len(jobs):
        assert not scheduler.idle
        with torch.inference_mode():
            for ended, result in scheduler.step():
                assert isinstance(result, Completion)
                done[ended.lane.key.episode_id] = result
    return done


def right(model: PreTrainedModel, ids: list[int], completion: Completion) -> bool:
    with torch.no_grad():
        logprobs = sequence_logprobs(model, torch.tensor([[*ids, *completion.ids]]))[0, len(ids) - 1 :]
    return completion.logprobs == pytest.approx(logprobs.tolist(), abs=1e-4)


def test_a_long_prompt_does_not_hold_up_the_others(model: PreTrainedModel, scheduler: Scheduler) -> None:
    long, short = job("long", LONG, 1), job("s", [1, 2], 2)
    scheduler.submit([long, short])
    assert set(finish(scheduler, [short])) == {"s"}
    assert scheduler.stats.forwards == 2
    completion = finish(scheduler, [long])["long"]
    assert scheduler.stats.forwards == 3
    assert right(model, LONG, completion)


def test_followers_outlive_the_leader_of_their_prefix(model: PreTrainedModel, scheduler: Scheduler) -> None:
    leader, *followers = [job("x" * n, LONG, 2, group="g") for n in (1, 2, 3)]
    scheduler.submit([leader, *followers])
    with torch.inference_mode():
        assert scheduler.step() == []
    scheduler.close(leader.lane)
    done = finish(scheduler, followers)
    assert all(right(model, LONG, completion) for completion in done.values())
    assert scheduler.stats.fed == CHUNK + len(LONG) + 2
    assert scheduler.stats.shared == len(LONG)


def test_a_closed_follower_does_not_disturb_its_group(model: PreTrainedModel, scheduler: Scheduler) -> None:
    leader, gone, stays = [job("x" * n, LONG, 2, group="g") for n in (1, 2, 3)]
    scheduler.submit([leader, gone, stays])
    with torch.inference_mode():
        scheduler.step()
    scheduler.close(gone.lane)
    other = job("other", [5, 6, 7], 2)
    scheduler.submit([other])
    done = finish(scheduler, [leader, stays, other])
    assert all(right(model, LONG, done[name]) for name in ("x", "xxx"))
    assert right(model, [5, 6, 7], done["other"])


def test_a_prompt_of_old_weights_is_not_shared(model: PreTrainedModel) -> None:
    changing = init_model(LLAMA, seed=1, device="cpu", dtype="float32")
    scheduler = Scheduler(build_forward(changing), torch.device("cpu"), max_context=64, max_sequences=4)
    old = job("old", [1, 2, 3], 2, group="g")
    scheduler.submit([old])
    finish(scheduler, [old])
    changing.load_state_dict(model.state_dict())
    scheduler.refresh()
    new = job("new", [1, 2, 3], 2, group="g")
    scheduler.submit([new])
    assert right(model, [1, 2, 3], finish(scheduler, [new])["new"])
    assert scheduler.stats.shared == 0


def test_without_a_free_slot_a_fork_is_refused_and_a_job_waits(scheduler: Scheduler) -> None:
    jobs = [job("x" * n, [n], 1) for n in (1, 2, 3, 4)]
    scheduler.submit(jobs)
    finish(scheduler, jobs)
    waiting = job("waiting", [9], 1)
    scheduler.submit([waiting])
    with torch.inference_mode():
        assert scheduler.step() == []
    assert scheduler.idle, "a thread that steps until idle must not spin"
    with pytest.raises(RuntimeError, match="raise max_sequences"):
        scheduler.fork(jobs[0].lane, Lane(EpisodeKey("fork", "fork", 0)))
    scheduler.close(jobs[1].lane)
    assert len(finish(scheduler, [waiting])["waiting"].ids) == 1
