"""TRL's side of ``benchmarks/trl.py``, which starts it in TRL's own environment and says what is measured.

    python -P benchmarks/trl_theirs.py {template,train,tools} SHAPE

``template`` gives the chat tokenizer its template. The others do a round for every line they read and
answer with a line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import trl
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

REPLIES = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # whatever the libraries print
WORDS = [f"w{n:02}" for n in range(90)]
GROUP, TOKENS, SAID = 8, 64, 10
EPISODES, CALLS = 16, 8
CALL = '<tool_call>\n{"name": "nothing", "arguments": {"n": 1, "word": "x"}}\n</tool_call>'
ANSWER = "Done."
GUIDE = "Call the tool, then answer."
STOP = "<|im_end|>"
NEVER = -1
"""No token: nothing ends a completion early."""


def clocks() -> tuple[float, float]:
    """Processor time of this process, and the time of day."""
    return time.process_time(), time.perf_counter()


def between(start: tuple[float, float], end: tuple[float, float]) -> dict[str, float]:
    """Seconds of each clock."""
    return {"cpu": end[0] - start[0], "wall": end[1] - start[1]}


def answer(row: dict[str, Any]) -> None:
    """A line to whoever asked."""
    print(json.dumps(row), file=REPLIES, flush=True)


def timed(function: Callable[..., Any], into: dict[str, dict[str, float]], name: str) -> Callable[..., Any]:
    """The function, saying how long it took."""

    def call(*args: Any, **kwargs: Any) -> Any:
        start = clocks()
        result = function(*args, **kwargs)
        into[name] = between(start, clocks())
        return result

    return call


def by_chance(completions: list[Any], **_: Any) -> list[float]:
    """A reward for each, at random."""
    return [random.random() for _ in completions]


def settings(folder: str, **more: Any) -> GRPOConfig:
    """What both kinds of rounds have in common, nothing on that costs time."""
    return GRPOConfig(
        output_dir=str(Path(folder, "out")),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        num_generations=GROUP,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        beta=0.0,
        temperature=1.0,
        logging_steps=1_000_000,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **more,
    )


# ---------------------------------------------------------------- training


class Rounds(TrainerCallback):
    """Waits for a line before each round and answers after it."""

    def __init__(self, took: dict[str, dict[str, float]], steps: int, tokens: int) -> None:
        self.took, self.steps, self.tokens = took, steps, tokens
        self.start = clocks()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.steps == 0:
            if not sys.stdin.readline():
                os._exit(0)
            self.start = clocks()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.steps == 0:
            whole, scored = between(self.start, clocks()), self.took["scored"]
            trained = {clock: whole[clock] - scored[clock] for clock in whole}
            row = {"tokens": self.tokens, "generated": self.took["generated"]}
            answer({**row, "trained": trained, "whole": whole, "peak_mb": peak_mb()})


def peak_mb() -> float:
    """The largest resident size so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def train(shape: dict[str, Any]) -> None:
    """Rounds of training."""
    folder = shape["folder"]
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=SAID)) for _ in range(shape["prompts"])]
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left", split_special_tokens=False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    completions = shape["prompts"] * GROUP
    steps = completions // shape["minibatch"]
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=by_chance,
        train_dataset=Dataset.from_list([{"prompt": f"<task> {said}<act>"} for said in texts * 64]),
        args=settings(
            folder,
            per_device_train_batch_size=shape["minibatch"],
            steps_per_generation=steps,
            max_completion_length=TOKENS,
            max_steps=1_000_000,
        ),
    )
    for owner in (trainer.generation_config, trainer.model.generation_config):
        owner.eos_token_id = None
    trainer.eos_token_ids = [NEVER]
    took: dict[str, dict[str, float]] = {}
    generate = trainer._generate

    def checked(prompts: list[Any]) -> Any:
        result = timed(generate, took, "generated")(prompts)
        assert {len(ids) for ids in result[0]} == {SAID + 2}
        assert [len(ids) for ids in result[1]] == [TOKENS] * completions
        return result

    trainer._generate = checked
    trainer._generate_and_score_completions = timed(trainer._generate_and_score_completions, took, "scored")
    trainer.add_callback(Rounds(took, steps, completions * TOKENS))
    trainer.train()


# ---------------------------------------------------------------- tools


class Nothing:
    """The environment: one tool that does nothing."""

    def reset(self, **_: Any) -> None:
        """Start."""

    def nothing(self, n: int, word: str) -> str:
        """Do nothing.

        Args:
            n: A number.
            word: A word.
        """
        return str(random.randrange(10**9))


def prompt(number: int) -> list[dict[str, str]]:
    """How an episode begins."""
    return [{"role": "system", "content": GUIDE}, {"role": "user", "content": f"go {number}"}]


def tools(shape: dict[str, Any]) -> None:
    """Rounds of episodes with tool calls."""
    folder = shape["folder"]
    tokenizer = AutoTokenizer.from_pretrained(Path(folder, "chat"), split_special_tokens=False)
    said = [CALL] * CALLS + [ANSWER]
    script = [tokenizer.encode(one + STOP) for one in said]
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, max_position_embeddings=8192),  # it does not run
        processing_class=tokenizer,
        reward_funcs=by_chance,
        environment_factory=Nothing,
        train_dataset=Dataset.from_list([{"prompt": prompt(0)}] * EPISODES),
        args=settings(folder, per_device_train_batch_size=EPISODES, max_completion_length=8192),
    )
    turn, number = 0, 0

    def scripted(prompt_ids: list[Any], *_: Any, **__: Any) -> Any:
        nonlocal turn
        turn += 1
        return [list(script[turn - 1]) for _ in prompt_ids], None

    took: dict[str, dict[str, float]] = {}
    trainer._generate_single_turn = scripted
    trainer._generate = timed(trainer._generate, took, "generated")
    trainer.model.train()
    while sys.stdin.readline():
        inputs = [{"prompt": prompt(number + place // GROUP)} for place in range(EPISODES)]
        turn, number = 0, number + EPISODES // GROUP
        trainer._generate_and_score_completions(inputs)
        assert turn == CALLS + 1
        assert trainer._metrics["train"]["tools/call_frequency"][-1] == CALLS
        assert trainer._metrics["train"]["tools/failure_frequency"][-1] == 0
        answer({"calls": EPISODES * CALLS, **took["generated"]})


def template(shape: dict[str, Any]) -> None:
    """Qwen3's, as TRL ships it."""
    folder = Path(shape["folder"], "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shipped = Path(trl.__file__).parent / "chat_templates" / "qwen3_instruct_2507.jinja"
    tokenizer.chat_template = shipped.read_text()
    tokenizer.save_pretrained(folder)


def main() -> None:
    kind, shape = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(1)
    {"template": template, "train": train, "tools": tools}[kind](shape)


if __name__ == "__main__":
    main()
