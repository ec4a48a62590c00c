"""Whether a Docker Engine answers, and what it cannot enforce."""

from __future__ import annotations

from typing import Any

from turnwise.sandbox.contract import BackendUnavailable, Probe
from turnwise.sandbox.docker.engine import connect, failures, told

DEADLINE = 3.0
ALWAYS_LOST = (
    "a view of the agent's own processes only (it can see the resident's, not reach them)",
    "user ids of its own for each sandbox",
    "a disk larger than the memory (what is written counts as memory)",
)
_LIMITS = {
    "MemoryLimit": "memory limit of the whole",
    "PidsLimit": "process limit",
    "CpuCfsQuota": "processor limit",
}


def probe(name: str) -> Probe:
    """Asks the Engine that the environment names, with a short deadline."""
    try:
        client = connect(DEADLINE)
    except BackendUnavailable as error:
        detail, _, remedy = str(error).partition("; ")
        return Probe(name, False, detail, remedy)
    try:
        info = client.info()
    except failures() as error:
        return Probe(name, False, f"the Docker Engine does not answer ({told(error)})", "restart it")
    finally:
        client.close()
    if info["OSType"] != "linux":
        return Probe(
            name,
            False,
            f"the Docker Engine runs {info['OSType']} containers",
            "switch it to Linux containers",
        )
    detail = f"Engine {info['ServerVersion']}, {info['Driver']}, runtime {info['DefaultRuntime']}"
    return Probe(name, True, detail, "", (*ALWAYS_LOST, *_lost(info)))


def _lost(info: dict[str, Any]) -> list[str]:
    lost = [what for key, what in _LIMITS.items() if not info.get(key)]
    if not any("seccomp" in option for option in info.get("SecurityOptions") or []):
        lost.append("the Engine's own system-call filter (agent code has ours)")
    return lost
