"""Images and a Docker Engine: built there from a Dockerfile, or handed there to run on."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from turnwise.sandbox.images import tree
from turnwise.sandbox.images.errors import ImageError

_DEADLINE = 3600
_NEEDS = "start one, or podman's socket, and let DOCKER_HOST name it"


@contextmanager
def _engine() -> Iterator[Any]:
    """A client of the ``docker`` package, which has no types. Raises :class:`ImageError`."""
    try:
        docker, requests = importlib.import_module("docker"), importlib.import_module("requests")
    except ImportError:
        raise ImageError("images: this needs the docker package: pip install 'turnwise[docker]'") from None
    failures = (docker.errors.DockerException, requests.RequestException)
    try:
        client = docker.from_env(timeout=_DEADLINE)
    except failures as error:
        raise ImageError(f"images: no Docker Engine answers ({_line(error)}); {_NEEDS}") from None
    try:
        yield client
    except failures as error:
        raise ImageError(f"images: the Docker Engine refused: {_line(error)}") from None
    finally:
        client.close()


def _line(error: Exception) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A Dockerfile; its folder is what it may copy from."""

    path: Path

    def fill(self, root: Path, scratch: Path) -> str:
        """Have the Engine build it, and take the files. Raises :class:`ImageError`."""
        if not self.path.is_file():
            raise ImageError(f"images: --from: {str(self.path)!r} is no file; name a Dockerfile")
        place = self.path.resolve()
        with _engine() as client:
            built, _ = client.images.build(
                path=str(place.parent), dockerfile=place.name, rm=True, forcerm=True
            )
            try:
                container = client.containers.create(built.id, "none")
                try:
                    with tree.unpacking(root) as archive:
                        for chunk in container.export():
                            archive.write(chunk)
                finally:
                    container.remove(v=True)
            finally:
                client.images.remove(built.id)
        return f"{self.path.name} in {place.parent.name}"


def into_docker(root: Path) -> str:
    """Hand a root to the Engine, where it does not have it yet, and return what it is called there.

    ``SandboxSpec(image=into_docker(find("tools")))``. Raises :class:`ImageError`.
    """
    tag = tree.measure(root).digest[:32]
    with _engine() as client:
        if not client.images.list(f"turnwise:{tag}"):
            with tree.packing(root) as archive:
                client.api.import_image(src=archive, repository="turnwise", tag=tag)
    return f"turnwise:{tag}"
