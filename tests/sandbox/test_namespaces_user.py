"""The same sandboxes for an ordinary user: other tests again, in a process that is not root.

All it keeps of root is the right to read files (CAP_DAC_READ_SEARCH): the interpreter may be where
others cannot look, as below /root. No capability of the machine's helps with namespaces or mounts.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from turnwise.sandbox import Probe

HERE = Path(__file__).parent
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
AS_NOBODY += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
PREFIX = [] if os.geteuid() else AS_NOBODY

FILES = [
    str(HERE / f"test_namespaces_{name}.py")
    for name in ("attacks", "survivors", "snapshots", "limits", "roots", "images")
]
LEFT_OUT = "not never_ends and not (flattening and 2) and not was_seen"  # long, and the same for all


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """In the project's directory, as an ordinary user."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*PREFIX, sys.executable, *command],
        cwd=HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def test_it_holds_for_an_ordinary_user() -> None:
    result = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES, "-k", LEFT_OUT)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    assert "passed" in result.stdout


def test_where_namespaces_are_forbidden_the_process_backend_is_chosen_and_both_are_told() -> None:
    """In a user namespace that may have no others, as in many containers, and with no Docker Engine."""
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    code = "from turnwise.sandbox.backends import backend; print(backend().name)"
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", sys.executable, "-c", code],
        cwd=HERE.parents[1],
        env={**os.environ, "DOCKER_HOST": "unix:///absent"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.stdout == "process\n", result.stderr
    assert "lacks here: file system isolation, network isolation" in result.stderr
    assert re.search(
        r"namespaces cannot be used here \(clone: [^()]+[a-z]\)\. Remedy: allow user name", result.stderr
    )
    assert "None" not in result.stderr


def test_the_probe_tells_what_is_lost() -> None:
    code = "from turnwise.sandbox.namespaces import NamespacesBackend; print(repr(NamespacesBackend.probe()))"
    result = run("-c", code)
    assert result.returncode == 0, result.stderr
    probe: Probe = eval(result.stdout, {"Probe": Probe})  # what we printed ourselves
    assert probe.available, probe
    assert probe.lost == (
        "memory limit of the whole (each process has its own)",
        "processor limit",
        "user ids of its own for each sandbox",
        "other users than the agent",
    )
    assert probe.remedy == "run as root"
