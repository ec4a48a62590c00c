"""Where the repositories of rows are: a row names an image and a commit, and has no files itself."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from turnwise.envs.swe.patch import NOTHING, PatchFailed, apply_patch, read_patch
from turnwise.envs.swe.problems import ProblemKind, TaskProblem
from turnwise.envs.swe.repository import check_folder
from turnwise.envs.swe.task import FolderRepository, ImageRepository, Repository
from turnwise.sandbox import images
from turnwise.sandbox.images.python import name_of


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look: plain folders first, then the store of images."""

    repositories: Path | None = None
    """Holds a folder per task, named by its id, with the files at the base commit."""

    def find(self, task: str, image: str, *, at: str = "/testbed", setup: str = "") -> Repository:
        """The repository of a row. Raises :class:`TaskProblem` where there is none."""
        if self.repositories is not None and (self.repositories / task).is_dir():
            folder = self.repositories / task
            check_folder(task, folder)
            return FolderRepository(path=str(folder.resolve()))
        name = stored_name(image)
        try:
            root = images.find(name)
        except images.ImageError:
            raise TaskProblem(
                ProblemKind.IMAGE,
                task,
                f"there is no image {name}; make it from {image} with turnwise images build, or give the "
                "files in a folder of repositories",
            ) from None
        if not (root / at.lstrip("/")).is_dir():
            raise TaskProblem(ProblemKind.IMAGE, task, f"its image {name} has no {at}")
        return ImageRepository(image=image, root=str(root), at=at, setup=setup)


def on_python(task: str, folder: Path, requires: Sequence[str]) -> FolderRepository:
    """A folder, on the image of pinned distributions if it needs some. Raises :class:`TaskProblem`."""
    if not requires:
        return FolderRepository(path=str(folder))
    name = name_of(requires)
    try:
        root = images.find(name)
    except images.ImageError:
        command = f"turnwise images build {name} --python '{' '.join(requires)}'"
        raise TaskProblem(ProblemKind.IMAGE, task, f"there is no image {name}; make it: {command}") from None
    return FolderRepository(path=str(folder), image=name, root=str(root))


def stored_name(image: str) -> str:
    """What the store calls a published image."""
    plain = re.sub(r"[^a-z0-9._-]", "_", image.lower().removesuffix(":latest"))
    return plain[-63:].lstrip("._-")


def base_files(task: str, repository: Repository, patch: str) -> dict[str, bytes]:
    """What the files that a patch is about hold at the base. Raises :class:`TaskProblem`."""
    try:
        files = read_patch(patch)
    except PatchFailed as error:
        kind = ProblemKind.SUBMODULES if "submodule" in str(error) else ProblemKind.PATCH
        raise TaskProblem(kind, task, f"its patch: {error}") from None
    found = {}
    for path in {path for file in files for path in (file.old, file.new)} - {NOTHING}:
        data = read_file(repository, path)
        if data is not None:
            found[path] = data
    return found


def read_file(repository: Repository, path: str) -> bytes | None:
    """A file of a repository before any overlay; None where there is none."""
    match repository:
        case FolderRepository(path=top):
            place = Path(top) / path
        case ImageRepository(root=root, at=at):
            place = Path(root) / at.lstrip("/") / path
        case _:
            text = repository.files.get(path)
            return None if text is None else text.encode()
    return place.read_bytes() if place.is_file() and not place.is_symlink() else None


def check_patch(task: str, repository: Repository, patch: str) -> None:
    """Raises :class:`TaskProblem` for a patch that does not apply."""
    patched(task, repository, patch)


def patched(task: str, repository: Repository, patch: str) -> dict[str, str]:
    """The files that a patch leaves, as text. Raises :class:`TaskProblem`."""
    base = base_files(task, repository, patch)
    try:
        changes = apply_patch(patch, base)
        return {path: data.decode() for path, data in changes.items() if data is not None}
    except PatchFailed as error:
        raise TaskProblem(ProblemKind.PATCH, task, f"its patch does not apply: {error}") from None
    except UnicodeDecodeError as error:
        raise TaskProblem(
            ProblemKind.PATCH, task, f"its patch leaves a file that is no text: {error}"
        ) from None
