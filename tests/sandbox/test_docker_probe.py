"""What the docker backend says where no Engine is; with one it is tested in ``tests/heavy/docker``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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
            command, env=environment, capture_output=True, text=True, check=True, timeout=60
        )
    available, detail, remedy = result.stdout.strip().split("|")
    assert available == "False"
    assert detail
    assert "DOCKER_HOST" in remedy or "pip install" in remedy
