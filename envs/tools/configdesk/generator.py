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

from turnwise.envs.tools.configdesk.large import LARGE
from turnwise.envs.tools.configdesk.problem import Level, Problem, Question
from turnwise.envs.tools.configdesk.small import SMALL
from turnwise.envs.types import SPLITS, Split

LEVELS: dict[int, Level] = {**SMALL, **LARGE}


def share(fingerprint: str) -> Split:
    """The split that a question belongs to."""
    tenth = int.from_bytes(hashlib.sha256(fingerprint.encode()).digest()[:8], "big") % 10
    return SPLITS[max(tenth - 7, 0)]


def draw(level: int, seed: int) -> tuple[Question, random.Random]:
    """The question of a seed, and the stream that its files are drawn from.

    The upper half of a seed is its split's index (see :func:`turnwise.envs.tasks.seeds`).
    """
    split, rng = SPLITS[seed >> 32], random.Random(f"configdesk/{level}/{seed}")
    while True:
        question = LEVELS[level].draw(rng)
        if share(question.fingerprint) == split:
            return question, rng


def generate(level: int, seed: int) -> Problem:
    """The whole task of a seed."""
    question, rng = draw(level, seed)
    return question.problem(rng)


def words(level: int) -> tuple[str, ...]:
    """Every word and sign of a terse level's instructions, calls and observations, for a tokenizer.

    Raises ``ValueError`` for a level whose text is not from a small vocabulary.
    """
    if level not in SMALL:
        raise ValueError(f"level {level} has no closed vocabulary; levels with one: {sorted(SMALL)}")
    return SMALL[level].words()
