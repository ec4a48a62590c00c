"""An image of a Dockerfile, built by a Docker Engine, of which the files are taken."""

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


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A Dockerfile; its folder is what it may copy from. Raises :class:`ImageError` where it is no file."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise ImageError(f"images: --from: {str(self.path)!r} is no file; name a Dockerfile")

    def fill(self, root: Path, scratch: Path) -> str:
        """Have the Engine build it, and take the files. Raises :class:`ImageError`."""
        place, tag = self.path.resolve(), f"turnwise-build:{scratch.name}"
        with _engine() as engine:
            said = engine.build(
                path=str(place.parent), dockerfile=place.name, tag=tag, rm=True, forcerm=True, decode=True
            )
            errors = [line["error"] for line in said if "error" in line]
            if errors:
                raise ImageError(f"images: {place.name} could not be built: {_line(errors[0])}")
            try:
                container = engine.create_container(tag, command=["none"])["Id"]
                try:
                    with tree.unpacking(root) as archive:
                        for chunk in engine.export(container):
                            archive.write(chunk)
                finally:
                    engine.remove_container(container, v=True)
            finally:
                engine.remove_image(tag)
        return f"{self.path.name} in {place.parent.name}"


@contextmanager
def _engine() -> Iterator[Any]:
    """An ``APIClient`` of the ``docker`` package, which has no types. Raises :class:`ImageError`."""
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
        yield client.api
    except failures as error:
        raise ImageError(f"images: the Docker Engine refused: {_line(error)}") from None
    finally:
        client.close()


def _line(error: object) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())
