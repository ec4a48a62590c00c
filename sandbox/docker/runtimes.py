"""What containers of an Engine run on: its default runtime, or another that it knows by name.

gVisor (``runsc``) puts a kernel of its own between the agent and the host's. All of that kernel is in the
container's bounds, and what exceeds them ends the sandbox as a whole. So it gets more than the resident alone
does, and the agent's processes are counted inside (:mod:`turnwise.sandbox.docker.inside.resident`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from turnwise.sandbox.contract import BackendUnavailable, MiB


@dataclass(frozen=True, slots=True)
class Kernel:
    """What answers the agent's system calls, and what a container gets for it and the resident."""

    memory: int
    """Beyond the sandbox's limit."""
    processes: int
    """The same: the resident and the commands' inits."""
    threads: int = 1
    """Of the host, for each process."""
    out_of_threads: int | None = None
    """What a container exits with when the kernel gets no more of them."""
    lost: tuple[str, ...] = ()


NO_ENGINES_FILTER = "the Engine's own system-call filter (agent code has ours)"
LINUX = Kernel(memory=32 * MiB, processes=16)
GVISOR = Kernel(
    memory=192 * MiB,  # 150 were seen after a thousand commands, and no more after two thousand
    processes=256,
    threads=12,  # six at rest, more where processes come and go
    out_of_threads=2,  # as every program in Go that gives up
    lost=(
        NO_ENGINES_FILTER,
        "memory limit of a command (what exceeds the sandbox's ends the sandbox)",
        "refusal of one process too many (all that run are ended)",
    ),
)


def named(info: dict[str, Any]) -> list[str]:
    """The runtimes that an Engine was told of or always has, without its names for shims."""
    return [name for name in info["Runtimes"] if not name.startswith("io.containerd.")]


def others(info: dict[str, Any]) -> list[str]:
    """Those beside the default one. None of podman's, which names all it ever heard of, installed or not."""
    if "BuildahVersion" in info:
        return []
    return [name for name in named(info) if name != info["DefaultRuntime"]]


def kernel(info: dict[str, Any], runtime: str | None) -> Kernel:
    """What a runtime runs on, None for the default one: gVisor by its name, its program or its shim.

    Raises :class:`BackendUnavailable` for a runtime that the Engine lacks.
    """
    known = info["Runtimes"]
    if runtime is not None and runtime not in known:
        raise BackendUnavailable(
            f"runtime {runtime!r} is none of this Docker Engine's ({', '.join(named(info))}); "
            "name it in its daemon.json"
        )
    name = runtime or info["DefaultRuntime"]
    return GVISOR if "runsc" in f"{name} {known.get(name)}" else LINUX
