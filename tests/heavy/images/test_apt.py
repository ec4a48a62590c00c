"""An image of packages, made for real by mmdebstrap through the command line, and run on. Takes minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

TURNWISE = [sys.executable, "-c", "from turnwise.cli import main; main()"]
LOOK = """
import asyncio, json, sys
from turnwise.sandbox import SandboxSpec, images
from turnwise.sandbox.namespaces import NamespacesBackend

COMMIT = '''set -e
git init -q r && cd r && git config user.name a && git config user.email a@a.test
echo x > file && git add file && git commit -qm first && git clone -q . ../copy && ls ../copy'''

async def main():
    async with NamespacesBackend().running() as backend:
        async with await backend.create(SandboxSpec(root=images.find("tools"))) as box:
            python = await box.exec(["python3", "-c", "import json, ssl, sqlite3, ctypes; print('ok')"])
            shell = await box.shell(COMMIT, timeout=60)
            told = await box.exec("cat /etc/hostname; find / -xdev -perm /6000; ls /etc/resolv.conf")
            certificates = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)"
            known = await box.exec(["python3", "-c", certificates])
            results = [python, shell, told, known]
            print(json.dumps([result.stdout.decode(errors="replace") for result in results]))

asyncio.run(main())
"""
ORDINARY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
ORDINARY += [
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=-all,+dac_read_search",
]  # for the interpreter


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Of a store with the image ``tools``."""
    environment = {**os.environ, "TURNWISE_IMAGES": str(tmp_path_factory.mktemp("images"))}
    command = [*TURNWISE, "images", "build", "tools", "--apt", "python3,git,ca-certificates"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "python3, git, ca-certificates of" in result.stdout
    return environment


def look(environment: Mapping[str, str], *prefix: str) -> list[str]:
    """What is seen in a sandbox that stands on it."""
    command = [*prefix, sys.executable, "-B", "-c", LOOK]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 0, result.stderr
    seen: list[str] = json.loads(result.stdout)
    return seen


WANTED = ["ok\n", "file\n", "sandbox\n", "True\n"]


def test_python_and_git_run_on_it(environment: Mapping[str, str]) -> None:
    assert look(environment) == WANTED


def test_an_ordinary_user_whose_files_they_are_runs_on_it_too(environment: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["cp", "-a", f"{environment['TURNWISE_IMAGES']}/.", folder], check=True)
        if os.geteuid() == 0:
            subprocess.run(["chown", "-R", "65534:65534", folder], check=True)
        prefix = ORDINARY if os.geteuid() == 0 else []
        assert look({**environment, "TURNWISE_IMAGES": folder}, *prefix) == WANTED


def test_it_is_what_was_built_and_nothing_else_is_left(environment: Mapping[str, str]) -> None:
    for command in (["show", "tools"], ["remove", "tools"]):
        subprocess.run([*TURNWISE, "images", *command], env=environment, timeout=1800, check=True)
    store = Path(environment["TURNWISE_IMAGES"])
    assert [path for name in ("building", "names", "roots") for path in (store / name).iterdir()] == []


def test_what_mmdebstrap_refuses_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TURNWISE_IMAGES": str(tmp_path)}
    command = [*TURNWISE, "images", "build", "tools", "--apt", "no-such-package-at-all"]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: images: mmdebstrap failed: ")
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "building").iterdir()) == []
