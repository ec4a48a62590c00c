"""Whether a Docker Engine answers, and what it cannot enforce."""

from __future__ import annotations

from typing import Any

from turnwise.sandbox.contract import BackendUnavailable, Probe
from turnwise.sandbox.docker import runtimes
from turnwise.sandbox.docker.engine import connect, failures, told

DEADLINE = 30.0
"""Seconds for an answer: an Engine that listens is there, however slow its machine is now."""
ALWAYS_LOST = (
    "a view of the agent's own processes only (it can see the resident's, not reach them)",
    "user ids of its own for each sandbox",
    "other users than the agent",
    "a disk larger than the memory (what is written counts as memory)",
)
_LIMITS = {
    "MemoryLimit": "memory limit of the whole",
    "PidsLimit": "process limit",
    "CpuCfsQuota": "processor limit",
}


def ask() -> dict[str, Any]:
    """What the Engine that the environment names says of itself. Raises :class:`BackendUnavailable`."""
    client = connect(DEADLINE)
    try:
        found: dict[str, Any] = client.info()
    except failures() as error:
        raise BackendUnavailable(f"the Docker Engine does not answer ({told(error)}); restart it") from error
    finally:
        client.close()
    return found


def variants(name: str) -> tuple[str, ...]:
    """The backend's names for the Engine's runtimes beside the default one."""
    try:
        info = ask()
    except BackendUnavailable:
        return ()
    return tuple(f"{name}:{other}" for other in runtimes.others(info))


def probe(name: str, runtime: str | None) -> Probe:
    """Whether the Engine answers, and has the runtime."""
    try:
        info = ask()
        kernel = runtimes.kernel(info, runtime)
    except BackendUnavailable as error:
        detail, _, remedy = str(error).partition("; ")
        return Probe(name, False, detail, remedy)
    if info["OSType"] != "linux":
        return Probe(
            name,
            False,
            f"the Docker Engine runs {info['OSType']} containers",
            "switch it to Linux containers",
        )
    detail = f"Engine {info['ServerVersion']}, {info['Driver']}, runtime {runtime or info['DefaultRuntime']}"
    lost = dict.fromkeys((*ALWAYS_LOST, *_lost(info), *kernel.lost))
    return Probe(name, True, detail, "", tuple(lost))


def _lost(info: dict[str, Any]) -> list[str]:
    lost = [what for key, what in _LIMITS.items() if not info.get(key)]
    if not any("seccomp" in option for option in info.get("SecurityOptions") or []):
        lost.append(runtimes.NO_ENGINES_FILTER)
    return lost
