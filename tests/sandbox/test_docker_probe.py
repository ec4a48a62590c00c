"""What the docker backend says where no Engine is; with one it is tested in ``tests/heavy/docker``."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnwise.sandbox.docker import DockerBackend, probing


@pytest.fixture(params=["absent", "silent"])
def no_engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Nothing at the Engine's place, or something that never answers."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/engine")
    monkeypatch.setattr(probing, "DEADLINE", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        if request.param == "silent":
            listener.bind(str(tmp_path / "engine"))
            listener.listen()
        yield


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_the_probe_says_so_and_what_to_do() -> None:
    probe = DockerBackend.probe()
    assert not probe.available
    assert probe.detail
    assert "DOCKER_HOST" in probe.remedy or "pip install" in probe.remedy
