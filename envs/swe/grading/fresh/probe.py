"""What functions of a package make of fresh inputs: ``bootstrap.py fresh.probe ORDERS``, in a sandbox.

For each function asked for it writes a line of JSON: a word for each input, which is the same where answers
are, or what makes it unfit to be asked. Of the broken package no answer is missed: one that does not come in
time, or is none, is another.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import sys
import time
from random import Random
from types import FrameType
from typing import Any

from turnwise.envs.swe.grading.fresh.asking import DRAWN, NoAnswer, answer
from turnwise.envs.swe.grading.fresh.draw import draws
from turnwise.envs.swe.grading.fresh.original import Guard, function

CALL_SECONDS = 0.5
"""Of the processor, for one call: the original has to answer many of them in a test."""
SECONDS = 5.0
"""Of all of a function's."""


class Late(BaseException):
    """A call took too long."""


def main(orders_path: str) -> None:
    with open(orders_path) as file:
        orders = json.load(file)
    sys.path[:0] = orders["roots"]
    signal.signal(signal.SIGPROF, _late)
    with open(orders["out"], "w") as out:
        for name, seen in orders["functions"].items():
            try:
                told: Any = {"answers": _answers(name, seen, orders["seed"])}
            except BaseException as error:  # noqa: BLE001  # whatever the package does is what is told
                told = {"unfit": f"{type(error).__name__}: {error}"[:200]}
            out.write(json.dumps({"name": name} | told) + "\n")
            out.flush()
    os._exit(0)


def _late(number: int, frame: FrameType | None) -> None:
    raise Late


def _answers(name: str, seen: list[str], seed: str) -> list[str]:
    asked = function(name)
    began, found = time.process_time(), list[str]()
    for text in itertools.islice(draws(seen, Random(f"{seed} {name}")), DRAWN):
        with Guard() as guard:
            signal.setitimer(signal.ITIMER_PROF, CALL_SECONDS)
            try:
                word = _word(answer(asked, text))
            except NoAnswer:
                word = ""
            except Late:
                word = "late"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
        if guard.refused:
            raise OSError(f"it reaches for {guard.refused[0]}")
        found.append(word)
        if time.process_time() - began > SECONDS:
            break
    return found


def _word(told: Any) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]
