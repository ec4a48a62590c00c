"""What the docker backend says where no Engine is; with one it is tested in ``tests/heavy/docker``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from turnwise.sandbox import BackendUnavailable
from turnwise.sandbox.docker.runtimes import GVISOR, LINUX, kernel, others

RUNTIMES = {
    "runc": {"path": "runc"},
    "io.containerd.runc.v2": {"path": "runc"},
    "strong": {"path": "/usr/bin/runsc", "runtimeArgs": ["--network=none"]},
    "runsc": {"runtimeType": "io.containerd.runsc.v1"},
    "crun": {"path": "/usr/bin/crun"},
}

PROBE = """
from turnwise.sandbox.docker import DockerBackend, probing
probing.DEADLINE = 0.2
probe = DockerBackend.probe()
print(probe.available, probe.detail, probe.remedy, sep="|")
"""


@pytest.mark.parametrize("place", ["absent", "silent"])
def test_without_an_engine_the_probe_says_so_and_what_to_do(place: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        if place == "silent":
            listener.bind(str(tmp_path / place))
            listener.listen()
        environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/{place}"}
        command = [sys.executable, "-c", PROBE]
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=300
        )
    available, detail, remedy = result.stdout.strip().split("|")
    assert available == "False"
    assert detail
    assert "DOCKER_HOST" in remedy or "pip install" in remedy


def test_gvisor_is_known_by_its_program_its_shim_or_its_name() -> None:
    info = {"DefaultRuntime": "runc", "Runtimes": RUNTIMES}
    kernels = {name: kernel(info, name) for name in (None, *RUNTIMES)}
    assert {name for name, found in kernels.items() if found is GVISOR} == {"strong", "runsc"}
    assert kernels[None] is LINUX
    assert kernel({**info, "DefaultRuntime": "strong"}, None) is GVISOR


def test_the_runtimes_beside_the_default_are_told_but_for_those_that_podman_has_heard_of() -> None:
    info = {"DefaultRuntime": "runc", "Runtimes": RUNTIMES}
    assert others(info) == ["strong", "runsc", "crun"]
    assert others({**info, "BuildahVersion": "1.28.2"}) == []


def test_a_runtime_that_the_engine_lacks_is_answered_with_those_it_has() -> None:
    info = {"DefaultRuntime": "runc", "Runtimes": RUNTIMES}
    with pytest.raises(
        BackendUnavailable, match=r"'kata' is none of .*\(runc, strong, runsc, crun\); .*daemon"
    ):
        kernel(info, "kata")
