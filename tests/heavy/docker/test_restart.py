"""An Engine that ends under its users and comes back: what they had there is over, and they go on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnwise.sandbox import BackendUnavailable, SandboxDied, SandboxError, SandboxSpec
from turnwise.sandbox.docker import DockerBackend
from turnwise.sandbox.docker.engine import connect
from turnwise.sandbox.docker.lease import LABEL

from .test_leases import OWNER

# The docker package leaves a socket that could not connect to whoever collects garbage.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed <socket:ResourceWarning",
)


class Daemon:
    """An Engine of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix://{folder}/docker.sock"

    def start(self) -> None:
        """Returns when it answers."""
        of = self._folder
        (of / "exec/containerd/containerd.pid").unlink(missing_ok=True)  # of one that is not reaped yet
        (of / "daemon.json").write_text("{}")
        options = ["--storage-driver=overlay2", "--iptables=false", "--ip6tables=false", "--bridge=none"]
        options.append("--exec-opt=native.cgroupdriver=cgroupfs")
        for option, name in {"config-file": "daemon.json", "data-root": "data", "exec-root": "exec"}.items():
            options.append(f"--{option}={of / name}")
        with open(of / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["dockerd", *options, f"--pidfile={of / 'pid'}", f"--host={self.address}"],
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 300
        while not self._answers():
            assert self._process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.1)

    def clear(self) -> None:
        """End it for good."""
        self.end()
        mounted = ["umount", "--recursive", str(self._folder / "data")]  # a killed one never undoes this
        subprocess.run(mounted, check=False, stderr=subprocess.DEVNULL)

    def end(self, how: int = signal.SIGTERM) -> None:
        """Returns when it has ended."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(300)

    def containers(self) -> list[str]:
        """The states of those with a lease."""
        with contextlib.closing(connect(60.0)) as client:
            return [found["State"] for found in client.containers(all=True, filters={"label": LABEL})]

    def _answers(self) -> bool:
        try:
            connect(60.0).close()
        except BackendUnavailable:
            return False
        return True


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="turnwise-") as folder:  # tmp_path is long for a socket
        made = Daemon(Path(folder))
        monkeypatch.setenv("DOCKER_HOST", made.address)
        try:
            made.start()
            yield made
        finally:
            made.clear()
            gc.collect()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_an_owner_goes_on_when_its_engine_is_back(daemon: Daemon, how: int) -> None:
    async with DockerBackend().running() as backend:
        box, other = await backend.create(SandboxSpec()), await backend.create(SandboxSpec())
        running = asyncio.create_task(box.exec("echo > begun; sleep 1000"))
        await box.exec("until [ -e begun ]; do sleep 0.01; done")
        await asyncio.to_thread(daemon.end, how)
        with pytest.raises(SandboxDied):
            await running
        with pytest.raises(SandboxError):
            await backend.create(SandboxSpec())
        await asyncio.to_thread(daemon.start)
        await box.close()
        await other.recycle()
        assert (await other.exec("echo up")).stdout == b"up\n"
    assert await asyncio.to_thread(daemon.containers) == []


async def test_what_an_owner_left_that_was_killed_meanwhile_is_removed(daemon: Daemon) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    await asyncio.to_thread(daemon.end, signal.SIGKILL)
    process.kill()
    await process.wait()
    await asyncio.to_thread(daemon.start)
    assert len(await asyncio.to_thread(daemon.containers)) == 2
    async with DockerBackend().running():
        assert await asyncio.to_thread(daemon.containers) == []
