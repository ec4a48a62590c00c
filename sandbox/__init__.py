"""Where untrusted commands run: one contract, several backends, a pool, snapshots and limits.

    async with backend().running() as machines, Pool(machines, SandboxSpec(), size=8) as pool:
        async with pool.lease() as sandbox:
            result = await sandbox.exec("echo hello")

See :mod:`turnwise.sandbox.contract` for what every backend offers and raises.
"""

from turnwise.sandbox.backends import backend, probes
from turnwise.sandbox.contract import (
    Backend,
    BackendUnavailable,
    ExecResult,
    FileInfo,
    LimitExceeded,
    Limits,
    Match,
    MiB,
    Probe,
    Sandbox,
    SandboxDied,
    SandboxError,
    SandboxSpec,
    ShellSilent,
    Snapshot,
    UserUnsupported,
)
from turnwise.sandbox.pool import Pool, PoolMetrics, PoolTimeout

__all__ = [
    "Backend",
    "BackendUnavailable",
    "ExecResult",
    "FileInfo",
    "LimitExceeded",
    "Limits",
    "Match",
    "MiB",
    "Pool",
    "PoolMetrics",
    "PoolTimeout",
    "Probe",
    "Sandbox",
    "SandboxDied",
    "SandboxError",
    "SandboxSpec",
    "ShellSilent",
    "Snapshot",
    "UserUnsupported",
    "backend",
    "probes",
]
