"""An image of packages of the distribution, made by mmdebstrap from where this machine has its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from turnwise.sandbox.images import tree
from turnwise.sandbox.images.errors import ImageError

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?")
_DEADLINE = 3600.0
_RETRIES = '--aptopt=Acquire::Retries "5"'
_MISSING = "images: mmdebstrap is not installed; as root: apt-get install mmdebstrap"


@dataclass(frozen=True, slots=True)
class Apt:
    """A minimal system with these packages, as ``name`` or ``name=version``.

    Raises :class:`ImageError` for what is no package's name.
    """

    packages: tuple[str, ...]

    def __post_init__(self) -> None:
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise ImageError(
                    f"images: --apt: {package!r} is no package; write names, with commas between"
                )

    def fill(self, root: Path, scratch: Path) -> str:
        """Have mmdebstrap make it. Raises :class:`ImageError`."""
        if shutil.which("mmdebstrap") is None:
            raise ImageError(_MISSING)
        suite, sources = _release()
        command = ["mmdebstrap", "--variant=minbase", "--format=tar", f"--include={','.join(self.packages)}"]
        command.append(_RETRIES)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if os.geteuid() == 0:  # without root other ids must be able to come there
            environment["TMPDIR"] = str(scratch)
        with tree.unpacking(root) as archive, (scratch / "log").open("w+b") as log:
            _run([*command, suite, "-", *sources], archive.fileno(), log.fileno(), environment)
        return f"{', '.join(self.packages)} of {suite}"


def _run(command: list[str], archive: int, log: int, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=archive, stderr=log, env=environment
    ) as process:
        try:
            process.wait(_DEADLINE)
        except BaseException:
            process.terminate()  # upon which it takes its mounts away
            raise
    if process.returncode:
        told = os.pread(log, 1 << 20, 0).decode(errors="replace").splitlines()
        errors = [line[2:].strip() for line in told if line.startswith("E:")] or told[-1:]
        raise ImageError(f"images: mmdebstrap failed: {errors[0] if errors else process.returncode}")


def _release() -> tuple[str, list[str]]:
    """This machine's release, and the file that says where its packages are, if there is one."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    facts = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    suite = facts.get("VERSION_CODENAME", "")
    if not suite:
        raise ImageError("images: --apt needs Debian, Ubuntu or a relative; use --from or --host here")
    candidates = (f"/etc/apt/sources.list.d/{facts.get('ID')}.sources", "/etc/apt/sources.list")
    return suite, [path for path in candidates if os.path.isfile(path)][:1]
