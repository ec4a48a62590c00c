"""From what a sandbox is to be made of to an image that it can be started from.

The base is an image of the Engine, an extracted root that is imported, or one that is made of this machine's
programs. Over it comes one layer with the kit (:mod:`turnwise.sandbox.docker.kit`). Imports and layers are
named by what is in them, so each is made once for an Engine and found by every later owner. They stay when
the backend closes: ``docker image rm $(docker image ls -q turnwise-sandbox turnwise-root turnwise-host)``
removes them.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import os
import platform
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from turnwise.sandbox.contract import SandboxError, SandboxSpec
from turnwise.sandbox.docker import closure, kit
from turnwise.sandbox.docker.engine import Client, Engine, absent, remove
from turnwise.sandbox.docker.inside.launcher import AGENT_ID
from turnwise.sandbox.images import Host, host, tree

SANDBOX, ROOT, HOST = "localhost/turnwise-sandbox", "localhost/turnwise-root", "localhost/turnwise-host"
_PROCESSORS = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Image:
    """An image with the kit in it."""

    name: str
    own_interpreter: bool
    environment: dict[str, str]
    checked: bool
    """Whether the image has a health check of its own."""


class Images:
    """What was found or made so far, for one Engine."""

    def __init__(self, engine: Engine, new_name: Callable[[str], str]) -> None:
        self._engine, self._new_name = engine, new_name
        self._made: dict[tuple[Path | None, str | None], asyncio.Task[Image]] = {}

    async def of(self, spec: SandboxSpec) -> Image:
        """The image for a spec.

        Raises ``ValueError`` for one that the Engine lacks, ``OSError`` for a root that is no directory.
        """
        key = (spec.root, spec.image)
        if key not in self._made:
            self._made[key] = asyncio.create_task(self._make(spec))
        task = self._made[key]
        try:
            return await asyncio.shield(task)
        except BaseException:
            if task.done() and self._made.get(key) is task:
                del self._made[key]  # the next who asks tries again
            raise

    async def _make(self, spec: SandboxSpec) -> Image:
        return await self._engine.call(_prepare, spec, self._new_name("build"), self._engine.labels)

    async def close(self) -> None:
        """When nobody waits any more for what is being made."""
        if self._made:
            await asyncio.wait(self._made.values())


def _prepare(client: Client, spec: SandboxSpec, scratch: str, labels: Mapping[str, str]) -> Image:
    if spec.image is not None and spec.root is not None:
        raise ValueError("spec.image, spec.root: a sandbox has one of the two")
    base = _base(client, spec)
    try:
        found = client.inspect_image(base)
    except absent():
        message = f"spec.image: {base!r} is not there for this Docker Engine; docker pull or docker build it"
        raise ValueError(message) from None
    own = closure.portable() and found["Architecture"] == _PROCESSORS.get(platform.machine())
    tag = hashlib.sha256((found["Id"] + kit.digest(own)).encode()).hexdigest()[:32]
    name = f"{SANDBOX}:{tag}"
    if not _exists(client, name):
        _add_kit(client, found, tag, own, scratch, labels)
    config = found["Config"] or {}
    variables = dict(text.partition("=")[::2] for text in config.get("Env") or [])
    return Image(name, own, variables, bool(config.get("Healthcheck")))


def _exists(client: Client, name: str) -> bool:
    try:
        client.inspect_image(name)
    except absent():
        return False
    return True


def _add_kit(
    client: Client, base: Mapping[str, Any], tag: str, own: bool, scratch: str, labels: Mapping[str, str]
) -> None:
    client.create_container(base["Id"], command=["none"], name=scratch, labels=labels)
    try:
        with tempfile.TemporaryFile() as archive:
            kit.write(archive, own)
            archive.seek(0)
            client.put_archive(scratch, "/", archive)
        if (base["Config"] or {}).get("Volumes"):  # which would be writable without bound
            _import(client, f"{SANDBOX}:{tag}", functools.partial(_export, client, scratch))
        else:
            client.commit(scratch, SANDBOX, tag, changes=[f"LABEL {name}=" for name in labels])
    finally:
        remove(client, scratch)


def _export(client: Client, container: str, target: IO[bytes]) -> None:
    for chunk in client.export(container):
        target.write(chunk)


def _import(client: Client, name: str, write: Callable[[IO[bytes]], None]) -> None:
    """An image of nothing but the files of a tar file."""
    repository, _, tag = name.partition(":")
    with tempfile.TemporaryFile() as archive:
        write(archive)
        archive.seek(0)
        answer = client.import_image_from_data(archive, repository)
    told = json.loads(answer.splitlines()[-1])
    if "status" not in told:
        raise SandboxError(f"the Docker Engine imported no image: {answer}")
    client.tag(told["status"], repository, tag)  # podman's import knows no tag


# -------------------------------------------------------------- bases
def _base(client: Client, spec: SandboxSpec) -> str:
    if spec.image is not None:
        return spec.image
    if spec.root is not None:
        write = functools.partial(_write_root, spec.root)
        return _imported(client, f"{ROOT}:{_root_digest(spec.root)[:32]}", write)
    if not closure.portable():
        raise ValueError(
            "spec.image: no image can be made of this machine's programs; name one of the Engine"
        )
    return _imported(client, f"{HOST}:{_host_digest()[:32]}", _write_host)


def _imported(client: Client, name: str, write: Callable[[IO[bytes]], None]) -> str:
    if not _exists(client, name):
        _import(client, name, write)
    return name


def _root_digest(root: Path) -> str:
    """Names a root by its files' names, sizes and times, as reading all of them takes long."""
    seen = hashlib.sha256()
    for top, folders, files in os.walk(_directory(root)):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(top, name)
            status = os.lstat(path)
            size = status.st_size if stat.S_ISREG(status.st_mode) else 0
            time = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
            seen.update(repr((os.path.relpath(path, root), status.st_mode, size, time)).encode())
    return seen.hexdigest()


def _write_root(root: Path, target: IO[bytes]) -> None:
    with tarfile.open(fileobj=target, mode="w") as tar:
        tar.add(root, ".", filter=_as_root if os.geteuid() != 0 else None)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An ordinary user's extracted root is that user's; in the container it is root's."""
    entry.uid = entry.gid = 0
    return entry


def _directory(path: Path) -> Path:
    resolved = path.resolve(strict=True)
    if not resolved.is_dir():
        raise NotADirectoryError(20, "Not a directory", str(path))
    return resolved


def _host_digest() -> str:
    """Names the root of this machine's programs, by their sizes and times."""
    seen = hashlib.sha256(Path(host.__file__).read_bytes() + Path(__file__).read_bytes())
    for name in (*host.WANTED, *host.BASICS):
        path = host.python() if name == "python3" else shutil.which(name, path=host.PATH)
        status = None if path is None else os.stat(path)
        seen.update(repr(status and (path, status.st_size, status.st_mtime_ns)).encode())
    return seen.hexdigest()


def _write_host(target: IO[bytes]) -> None:
    """The default root: this machine's shell, tools, git and Python, with the agent among its users."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        root.mkdir()
        Host().fill(root, Path(folder))
        tree.settle(root)
        for name, line in (("passwd", f":{AGENT_ID}::/tmp:/bin/sh"), ("group", ":")):
            with open(root / "etc" / name, "a") as file:
                file.write(f"agent:x:{AGENT_ID}{line}\n")
        _write_root(root, target)
