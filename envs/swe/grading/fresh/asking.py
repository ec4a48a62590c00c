"""Questions and answers: what a function makes of an input, and what it should.

An answer is the value that a function returns, the items of an iterator, or the class of the exception that
it raises. Inputs by which the original fails as if by mistake (``TypeError``, say) are not asked about.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from turnwise.envs.swe.grading.fresh.draw import draws
from turnwise.envs.swe.grading.fresh.original import Guard, Original, function
from turnwise.envs.swe.grading.fresh.values import NotPlain, alike, read

ASKED = 200
"""Questions of one test with one seed."""
FEWEST = 20
"""With which a test is still one."""
DRAWN = 3 * ASKED
"""Inputs drawn for them, at most."""
SECONDS = 8.0
"""Of the processor, for the original's answers to them."""
ITEMS = 50
"""Of an iterator, that are looked at."""
ACCIDENTS = (AttributeError, MemoryError, NameError, RecursionError, TypeError)


class NoAnswer(Exception):
    """What the function makes of an input is nothing that could be compared."""


@dataclass(frozen=True, slots=True)
class Question:
    """An input, with the answer of the original."""

    text: str
    expected: Any


def answer(asked: Callable[..., Any], text: str, *, judged: bool = False) -> Any:
    """What a function makes of an input.

    Raises :class:`NoAnswer` where that is nothing to go by; ``judged``, an accident is an answer.
    """
    args, kwargs = read(text)
    items: list[Any] = []
    try:
        value = asked(*args, **kwargs)
        try:
            return {"returned": alike(value)}
        except NotPlain:
            if not hasattr(type(value), "__next__"):
                raise
        for item in itertools.islice(value, ITEMS):
            items.append(alike(item))
        return {"items": items}
    except NotPlain as error:
        raise NoAnswer(str(error)) from None
    except ACCIDENTS as error:
        if judged:
            return {"raised": type(error).__name__, "after": items}
        raise NoAnswer(type(error).__name__) from None
    except Exception as error:  # noqa: BLE001  # which is an answer, too
        return {"raised": type(error).__name__, "after": items}


def answered(asked: Callable[..., Any], texts: Iterable[str]) -> Iterator[Question]:
    """Questions to which a function has an answer, of its own."""
    for text in texts:
        with Guard() as guard:
            try:
                expected = answer(asked, text)
            except NoAnswer:
                continue
        if not guard.refused:
            yield Question(text, expected)


def questions(original: Original, name: str, seen: Sequence[str], rng: Random) -> list[Question]:
    """Questions about a function of the original's, ``module:name``, with its answers."""
    found: list[Question] = []
    end = time.process_time() + SECONDS
    with original:
        for question in answered(function(name), itertools.islice(draws(seen, rng), DRAWN)):
            found.append(question)
            if len(found) == ASKED or time.process_time() > end:
                break
    assert len(found) >= FEWEST, f"only {len(found)} inputs have an answer"
    return found
