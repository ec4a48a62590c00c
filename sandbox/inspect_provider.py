"""Our sandboxes as a sandbox provider of Inspect AI: ``sandbox="turnwise"``, on any backend.

Inspect finds it by the entry point ``inspect_ai``. A configuration's backend is started with the first of its
tasks and closed after the last; each sample gets a sandbox of its own. Paths, streams and failures are
translated, and nothing else: what Inspect tells apart by exceptions, our contract tells apart as well.

    Task(dataset, sandbox="turnwise")
    Task(dataset, sandbox=SandboxEnvironmentSpec("turnwise", SandboxConfig(limits=Limits(memory=2 << 30))))
    Task(dataset, sandbox=("turnwise", "sandbox.yaml"))    # a file with the fields of a SandboxConfig
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from inspect_ai.util import (
    ExecResult,
    OutputLimitExceededError,
    SandboxEnvironment,
    SandboxEnvironmentLimits,
    SandboxUnavailableError,
    SandboxUserUnsupportedError,
    sandboxenv,
)
from pydantic import BaseModel, ConfigDict

from turnwise.sandbox.backends import backend
from turnwise.sandbox.contract import (
    Backend,
    LimitExceeded,
    Limits,
    MiB,
    Sandbox,
    SandboxError,
    SandboxSpec,
    UserUnsupported,
)

A_DAY = 86_400.0
"""The time of a command that Inspect gives no timeout, in seconds."""
NOT_EXECUTABLE = 126


class SandboxConfig(BaseModel):
    """What a task's sandboxes are made of. A string in its place names a YAML file with these fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str | None = None
    """None is the best that runs here."""
    root: Path | None = None
    limits: Limits = Limits(disk=1024 * MiB, file_size=1024 * MiB, output=10 * MiB)

    @classmethod
    def of(cls, config: BaseModel | str | None) -> SandboxConfig:
        """From what Inspect hands on. Raises ``ValueError`` for a file with other fields, and ``TypeError``
        for another provider's configuration."""
        match config:
            case None:
                return cls()
            case str():
                return cls.model_validate(yaml.safe_load(Path(config).read_text()) or {})
            case SandboxConfig():
                return config
        raise TypeError(
            f"sandbox turnwise: its configuration is a SandboxConfig, not {type(config).__name__}"
        )


@dataclass(slots=True)
class Running:
    """A configuration's backend, and how many tasks use it."""

    backend: Backend
    tasks: int = 1


_running: dict[SandboxConfig, Running] = {}
"""Inspect starts and ends tasks one after another, so nothing more guards it."""


@sandboxenv(name="turnwise")
class TurnwiseSandboxEnvironment(SandboxEnvironment):
    """One sample's sandbox, its working directory ``/workspace``."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self.sandbox = sandbox

    # -- life

    @classmethod
    async def task_init(cls, task_name: str, config: BaseModel | str | None) -> None:
        """Start the backend. Raises ``BackendUnavailable``, and ``ValueError`` for an unknown one."""
        key = SandboxConfig.of(config)
        if key in _running:
            _running[key].tasks += 1
            return
        chosen = await asyncio.to_thread(backend, key.backend)
        await chosen.start()
        _running[key] = Running(chosen)

    @classmethod
    async def task_cleanup(cls, task_name: str, config: BaseModel | str | None, cleanup: bool) -> None:
        """Close the backend, and with it every sandbox that is left, after the last task."""
        key = SandboxConfig.of(config)
        running = _running[key]
        running.tasks -= 1
        if running.tasks == 0:
            del _running[key]
            await running.backend.close()

    @classmethod
    async def sample_init(
        cls, task_name: str, config: BaseModel | str | None, metadata: dict[str, str]
    ) -> dict[str, SandboxEnvironment]:
        """A pristine sandbox."""
        key = SandboxConfig.of(config)
        sandbox = await _running[key].backend.create(SandboxSpec(limits=key.limits, root=key.root))
        return {"default": cls(sandbox)}

    @classmethod
    async def sample_cleanup(
        cls,
        task_name: str,
        config: BaseModel | str | None,
        environments: dict[str, SandboxEnvironment],
        interrupted: bool,
    ) -> None:
        """Destroy it."""
        for environment in environments.values():
            await environment.as_type(cls).sandbox.close()

    @classmethod
    def config_deserialize(cls, config: dict[str, Any]) -> BaseModel:
        """A configuration as a log has it."""
        return SandboxConfig.model_validate(config)

    # -- commands and files

    async def exec(
        self,
        cmd: list[str],
        input: str | bytes | None = None,  # noqa: A002  Inspect's name
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        user: str | None = None,
        timeout: int | None = None,
        timeout_retry: bool = True,
        concurrency: bool = True,
    ) -> ExecResult[str]:
        """Run a command; see Inspect for what is raised. One that timed out is not tried again."""
        with failures():
            result = await self.sandbox.exec(
                cmd,
                cwd=cwd or "/workspace",
                env=env,
                stdin=input.encode() if isinstance(input, str) else input or b"",
                timeout=A_DAY if timeout is None else float(timeout),
                user=user,
            )
        stdout, stderr = (stream.decode(errors="replace") for stream in (result.stdout, result.stderr))
        if result.timed_out:
            late = TimeoutError(f"Command timed out after {timeout} seconds")
            late.truncated_output = stdout + stderr  # type: ignore[attr-defined]  # where Inspect looks for it
            raise late
        most = self.sandbox.spec.limits.output
        if result.truncated:
            raise OutputLimitExceededError(f"{most:,} bytes", stdout + stderr)
        if result.exit_code == NOT_EXECUTABLE and stderr.strip().endswith(f"{cmd[0]}: Permission denied"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), cmd[0])
        return ExecResult(result.exit_code == 0, result.exit_code, stdout, stderr)

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file. One that is there keeps its mode. A full disk is an ``OSError``."""
        with failures():
            try:
                known = await self.sandbox.stat(file)
                mode = known.mode if known.kind == "file" else 0o644
            except (FileNotFoundError, NotADirectoryError):
                mode = 0o644
            data = contents.encode() if isinstance(contents, str) else contents
            await self.sandbox.write(file, data, mode=mode)

    async def read_file(self, file: str, text: bool = True) -> str | bytes:
        """Read a file; a text as it is, its line ends included."""
        most = SandboxEnvironmentLimits.MAX_READ_FILE_SIZE
        with failures():
            data = await self.sandbox.read(file, limit=most + 1)
        if len(data) > most:
            raise OutputLimitExceededError(SandboxEnvironmentLimits.MAX_READ_FILE_SIZE_STR, None)
        return data.decode() if text else data


@contextmanager
def failures() -> Iterator[None]:
    """The contract's failures as Inspect knows them; ``OSError`` is the same in both."""
    try:
        yield
    except UserUnsupported as error:
        raise SandboxUserUnsupportedError(str(error)) from error
    except LimitExceeded as error:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} ({error})") from error
    except SandboxError as error:
        raise SandboxUnavailableError(str(error)) from error
