"""What a package needs, installed in an image that its sandboxes stand on.

A package without needs stands on this machine's ``/usr``. One that has some gets an image of this machine's
Python with them, pinned: what its metadata declare, and what its tests ask for in an extra or a dependency
group named ``test``, ``tests`` or ``testing``. Of pytest and its plugins there is the runner's own alone, and
the package itself is never among them, since it would be the repair.
"""

from __future__ import annotations

import asyncio
import logging
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from turnwise.envs.swe.factory.problems import PackageFault, PackageProblem
from turnwise.envs.swe.factory.sdist import Sdist
from turnwise.sandbox import images
from turnwise.sandbox.images.python import Python, name_of, python_version, resolved

logger = logging.getLogger(__name__)

OF_TESTS = ("test", "tests", "testing")
"""Extras and dependency groups."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Of one package, as requirements that pip is given."""

    own: tuple[str, ...]
    """Without which it cannot be imported."""
    tests: tuple[str, ...]


async def installed(sdist: Sdist, beside: Sequence[str]) -> tuple[str, ...]:
    """What was installed, pinned, in an image that is there now. ``beside``: requirements of the user's.

    Raises :class:`PackageProblem`.
    """
    try:
        return await asyncio.to_thread(_installed, sdist, tuple(beside))
    except images.ImageError as error:
        raise PackageProblem(PackageFault.NEEDS, f"{sdist.name}-{sdist.version}", str(error)) from None


def _installed(sdist: Sdist, beside: tuple[str, ...]) -> tuple[str, ...]:
    needs = needs_of(sdist, python_version())
    own = (*needs.own, *beside)
    try:
        pinned = _pinned((*own, *needs.tests), sdist)
    except images.ImageError as error:
        if not needs.tests:
            raise
        logger.warning("%s-%s: without what only its tests ask for: %s", sdist.name, sdist.version, error)
        pinned = _pinned(own, sdist)
    make_image(pinned)
    return pinned


def _pinned(requires: Sequence[str], sdist: Sdist) -> tuple[str, ...]:
    found = resolved(requires) if requires else ()
    if any(canonicalize_name(each.partition("==")[0]) == sdist.name for each in found):
        raise images.ImageError(f"what it needs itself needs {sdist.name}, which would show the repair")
    return found


def make_image(pinned: Sequence[str]) -> None:
    """The image of pinned requirements, where it is not there. Raises ``ImageError``."""
    if not pinned:
        return
    try:
        images.find(name_of(pinned))
    except images.ImageError:
        images.Store().build(name_of(pinned), Python(tuple(pinned)))


def needs_of(sdist: Sdist, python: str) -> Needs:
    """What a distribution declares, for an interpreter of this version."""
    own = [*_chosen(sdist.needs, "", python)]
    extras = [each for name in OF_TESTS for each in _chosen(sdist.needs, name, python)]
    grouped = _chosen(_grouped(sdist), "", python)
    tests = dict.fromkeys(each for each in (*extras, *grouped) if each not in own)
    return Needs(tuple(dict.fromkeys(own)), tuple(tests))


def _chosen(declared: Iterable[str], extra: str, python: str) -> Iterator[str]:
    """Those that hold here, without their markers; none that names a place to fetch it from."""
    short = python.rpartition(".")[0]
    environment = {"extra": extra, "python_full_version": python, "python_version": short}
    for text in declared:
        try:
            found = Requirement(text)
        except InvalidRequirement as error:
            logger.warning("Left out a requirement that cannot be read: %s", error)
            continue
        if found.marker is not None and not found.marker.evaluate(environment):
            continue
        if found.url is not None:
            logger.warning("Left out a requirement that says where to fetch it: %s", text)
        elif not canonicalize_name(found.name).startswith("pytest"):
            extras = f"[{','.join(sorted(found.extras))}]" if found.extras else ""
            yield f"{found.name}{extras}{found.specifier}"


def _grouped(sdist: Sdist) -> list[str]:
    """The dependency groups of tests (PEP 735), those that they include left out."""
    try:
        groups: Any = tomllib.loads(sdist.files["pyproject.toml"].decode()).get("dependency-groups", {})
    except (KeyError, ValueError):
        return []
    return [each for name in OF_TESTS for each in groups.get(name, []) if isinstance(each, str)]
