"""The backends by name, and the choice of one for this machine."""

from __future__ import annotations

import difflib
import importlib
import logging

from turnwise.sandbox.contract import Backend, BackendUnavailable, Probe

logger = logging.getLogger(__name__)

BACKENDS = {
    "namespaces": "turnwise.sandbox.namespaces:NamespacesBackend",
    "docker": "turnwise.sandbox.docker:DockerBackend",
    "process": "turnwise.sandbox.process:ProcessBackend",
}
"""Name to class, the best first. A backend is imported when it is asked for."""


def load(name: str) -> type[Backend]:
    """The class of a backend, or of a variant such as ``docker:runsc``.

    Raises ``ValueError`` for a name that is none.
    """
    kind, colon, variant = name.partition(":")
    if kind not in BACKENDS or (colon and not variant):
        names = ", ".join(BACKENDS)
        nearest = difflib.get_close_matches(kind.lower(), BACKENDS, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"sandbox backend: {name!r} is none of {names}{hint}")
    module, _, attribute = BACKENDS[kind].partition(":")
    found: type[Backend] = getattr(importlib.import_module(module), attribute)
    return found.variant(variant) if variant else found


def require(name: str) -> None:
    """Raises :class:`BackendUnavailable`, with the reason and a remedy, for a backend that does not run here,
    and ``ValueError`` for a name that is none."""
    probe = load(name).probe()
    if not probe.available:
        raise BackendUnavailable(f"backend {name!r} does not run: {_told(probe)}")


def probes() -> list[Probe]:
    """What every backend finds out about this machine, the best first, and each variant after its backend."""
    return [load(name).probe() for kind in BACKENDS for name in (kind, *load(kind).variants())]


def backend(name: str | None = None) -> Backend:
    """A backend, not yet started; without a name the best that runs here, which is never a variant.

    A choice made here that lacks protections is told as a warning in the
    log. Raises ``ValueError`` for an unknown name and :class:`BackendUnavailable`, with each backend's
    reason and remedy, when none runs here.
    """
    if name is not None:
        return load(name)()
    refused: list[str] = []
    for candidate in BACKENDS:
        probe = load(candidate).probe()
        if probe.available:
            if probe.lost:
                logger.warning(
                    "Chose the sandbox backend %r, which lacks here: %s. %s",
                    *(probe.backend, ", ".join(probe.lost), " ".join(refused)),
                )
            return load(candidate)()
        refused.append(f"{candidate}: {_told(probe)}")
    raise BackendUnavailable("no sandbox backend runs here: " + " ".join(refused))


def _told(probe: Probe) -> str:
    return f"{probe.detail}." + (f" Remedy: {probe.remedy}." if probe.remedy else "")
