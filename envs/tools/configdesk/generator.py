"""From a level and a seed to a task, the same bytes on every machine.

Splits do not overlap: a question belongs to the split in whose share of hash space its fingerprint
falls (train 8 tenths, validation 1, test 1), and a seed's question is drawn again until it belongs to
the seed's split. So no question of the training split, with the same values, is ever in another.

Only methods of ``random.Random`` are used that give the same numbers in every version of Python 3; a
test holds the hashes of some tasks.
"""

from __future__ import annotations

import hashlib
import random

from turnwise.envs.errors import UsageError
from turnwise.envs.tools.configdesk.large import LARGE
from turnwise.envs.tools.configdesk.problem import Level, Problem, Question
from turnwise.envs.tools.configdesk.small import HORIZONS, SMALL
from turnwise.envs.types import SPLITS, Split

LEVELS: dict[int, Level] = {**SMALL, **LARGE}


def share(fingerprint: str) -> Split:
    """The split that a question belongs to."""
    tenth = int.from_bytes(hashlib.sha256(fingerprint.encode()).digest()[:8], "big") % 10
    return SPLITS[max(tenth - 7, 0)]


def sized(level: int, horizon: int | None) -> Level:
    """The size of a level's tasks, at its own horizon or at another one.

    Raises ``UsageError`` for a horizon that does not exist, or not at this level.
    """
    if horizon is None:
        return LEVELS[level]
    if level not in SMALL:
        having = " or ".join(map(str, SMALL))
        raise UsageError(
            f"{horizon} does not fit level {level}, which has its own alone; choose level {having}"
        )
    if horizon not in HORIZONS:
        raise UsageError(f"{horizon} is none of {', '.join(map(str, HORIZONS))}")
    return SMALL[level].at(horizon)


def draw(level: int, seed: int, horizon: int | None = None) -> tuple[Question, random.Random]:
    """The question of a seed, and the stream that its files are drawn from.

    The upper half of a seed is its split's index (see :func:`turnwise.envs.tasks.seeds`).
    """
    split, rng = SPLITS[seed >> 32], random.Random(f"configdesk/{level}/{seed}")
    size = sized(level, horizon)
    while True:
        question = size.draw(rng)
        if share(question.fingerprint) == split:
            return question, rng


def generate(level: int, seed: int, horizon: int | None = None) -> Problem:
    """The whole task of a seed."""
    question, rng = draw(level, seed, horizon)
    return question.problem(rng)


def words(level: int) -> tuple[str, ...]:
    """Every word and sign of a terse level's instructions, calls and observations, for a tokenizer; they
    are the same at every horizon.

    Raises ``ValueError`` for a level whose text is not from a small vocabulary.
    """
    if level not in SMALL:
        raise ValueError(f"level {level} has no closed vocabulary; levels with one: {sorted(SMALL)}")
    return SMALL[level].words()
