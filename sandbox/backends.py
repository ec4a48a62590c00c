"""The backends by name, and the choice of one for this machine."""

from __future__ import annotations

import difflib
import importlib
import logging
from typing import Any

from turnwise.sandbox.contract import Backend, BackendUnavailable, Probe

logger = logging.getLogger(__name__)

BACKENDS = {
    "namespaces": "turnwise.sandbox.namespaces:NamespacesBackend",
    "docker": "turnwise.sandbox.docker:DockerBackend",
    "process": "turnwise.sandbox.process:ProcessBackend",
}
"""Name to class, the best first. A backend is imported when it is asked for."""


def load(name: str) -> type[Backend]:
    """A backend's class. Raises ``ValueError`` for a name that is none."""
    if name not in BACKENDS:
        names = ", ".join(BACKENDS)
        nearest = difflib.get_close_matches(name.lower(), BACKENDS, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"sandbox backend: {name!r} is none of {names}{hint}")
    module, _, attribute = BACKENDS[name].partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found


def probes() -> list[Probe]:
    """What every backend finds out about this machine, the best backend first."""
    return [load(name).probe() for name in BACKENDS]


def backend(name: str | None = None, **options: Any) -> Backend:
    """A backend, not yet started; without a name the best that runs here.

    ``options`` go to its class. A choice made here that lacks protections is told as a warning in the
    log. Raises ``ValueError`` for an unknown name and :class:`BackendUnavailable`, with each backend's
    reason and remedy, when none runs here.
    """
    if name is not None:
        return load(name)(**options)
    refused: list[str] = []
    for candidate in BACKENDS:
        probe = load(candidate).probe()
        if probe.available:
            if probe.lost:
                logger.warning(
                    "Chose the sandbox backend %r, which lacks here: %s. %s",
                    *(probe.backend, ", ".join(probe.lost), " ".join(refused)),
                )
            return load(candidate)(**options)
        refused.append(f"{candidate}: {told(probe)}")
    raise BackendUnavailable("no sandbox backend runs here: " + " ".join(refused))


def told(probe: Probe) -> str:
    return f"{probe.detail}." + (f" Remedy: {probe.remedy}." if probe.remedy else "")
