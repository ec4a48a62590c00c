"""The store of images: folders named by what is in them, and names for them.

    roots/DIGEST        an extracted root, never changed
    names/NAME.json     which one a name means, and how it was made
    building/…          where roots are made, each folder locked by whoever makes one in it

A root is made beside the others and moved into place, so that it is there whole or not at all; a name is
a small file replaced in one step. What a killed process left, and roots without a name that no process
runs on, are removed by the next change. A root in use is locked by its user (:meth:`Store.find`), so
building a name anew leaves running sandboxes what they stand on.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from turnwise.sandbox.images import tree
from turnwise.sandbox.images.errors import ImageError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_used: dict[str, int] = {}
"""Open and locked folders of the roots that this process runs on, by path."""


class Image(BaseModel):
    """A name, and what it means."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    source: str
    """What it was made of, in a few words."""
    size: int
    """Bytes."""
    files: int
    built: datetime


class Source(Protocol):
    """What an image is made of."""

    def fill(self, root: Path, scratch: Path) -> str:
        """Make the files of an empty root; says what of. ``scratch`` is a folder that goes afterwards.

        Raises :class:`ImageError`.
        """


class Store:
    """The images below a folder: ``TURNWISE_IMAGES``, or ``~/.cache/turnwise/images``."""

    def __init__(self, folder: Path | None = None) -> None:
        chosen = folder or os.environ.get("TURNWISE_IMAGES") or Path.home() / ".cache/turnwise/images"
        self.folder = Path(chosen).absolute()
        self._roots, self._names, self._building = (
            self.folder / name for name in ("roots", "names", "building")
        )

    # ------------------------------------------------------------ looking
    def images(self) -> list[Image]:
        """All of them, by name."""
        found = []
        for path in sorted(self._names.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # removed just now
                found.append(Image.model_validate_json(path.read_bytes()))
        return found

    def image(self, name: str) -> Image:
        """One of them. Raises :class:`ImageError` for a name that is none."""
        with contextlib.suppress(FileNotFoundError):
            return Image.model_validate_json(self._entry(name).read_bytes())
        names = [image.name for image in self.images()]
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"build it: turnwise images build {name}"
        raise ImageError(f"image {name!r}: there is none of that name in {self.folder}; {hint}")

    def root(self, image: Image) -> Path:
        """Where an image's files are."""
        return self._roots / image.digest

    def find(self, name: str) -> Path:
        """The root of an image, which is kept as long as this process lives.

        Raises :class:`ImageError` where there is none, or where its files are another user's: the user of a
        sandbox would own nothing there.
        """
        with self._locked() if self.folder.exists() else contextlib.nullcontext():
            root = self.root(self.image(name))
            if root.stat().st_uid != os.geteuid():
                raise ImageError(
                    f"image {name!r}: its files are another user's; name a store of your own in "
                    "TURNWISE_IMAGES, and build it there"
                )
            if str(root) not in _used:
                opened = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
                fcntl.flock(opened, fcntl.LOCK_SH)
                _used[str(root)] = opened
        return root

    def names_of(self, root: Path) -> list[str] | None:
        """The names that mean a root; None for one that is not of this store."""
        if root.parent != self._roots:
            return None
        return [image.name for image in self.images() if image.digest == root.name]

    # ------------------------------------------------------------ changing
    def build(self, name: str, source: Source) -> Image:
        """Make an image and give it a name, which may have meant another. Raises :class:`ImageError`."""
        entry = self._entry(name)
        with self._scratch() as scratch:
            root = scratch / "root"
            root.mkdir(mode=0o755)
            made_of = source.fill(root, scratch)
            tree.settle(root)
            found = tree.measure(root)
            image = Image(
                name=name,
                digest=found.digest,
                source=made_of,
                size=found.size,
                files=found.files,
                built=datetime.now(UTC).replace(microsecond=0),
            )
            with self._locked():
                if not self.root(image).exists():
                    root.rename(self.root(image))
                draft = scratch / "entry"
                draft.write_text(image.model_dump_json(indent=2) + "\n", encoding="utf-8")
                draft.replace(entry)
        self._sweep()
        return image

    def remove(self, name: str) -> None:
        """Forget a name, and its root unless another name means it too or a process runs on it.

        Raises :class:`ImageError` for a name that is none.
        """
        self.image(name)
        self._entry(name).unlink(missing_ok=True)
        self._sweep()

    # ------------------------------------------------------------ how
    def _entry(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ImageError(
                f"image name {name!r}: use at most 63 lower-case letters, digits, '.', '_' and '-'"
            )
        return self._names / f"{name}.json"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the store, for a moment."""
        with _opened(self.folder / "lock", os.O_CREAT) as file:  # whoever may look may lock
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A folder of one's own in the store. Raises :class:`ImageError` where none can be made."""
        try:
            for folder in (self._roots, self._names, self._building):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(
                f"images: {self.folder} cannot be made ({error.strerror}); name another in TURNWISE_IMAGES"
            ) from None
        with contextlib.ExitStack() as stack:
            with self._locked():
                scratch = Path(tempfile.mkdtemp(dir=self._building))
                held = stack.enter_context(_opened(scratch))
                fcntl.flock(held, fcntl.LOCK_EX)
            stack.callback(shutil.rmtree, scratch)
            yield scratch

    def _sweep(self) -> None:
        """Remove what nobody needs: folders of ended builders, and roots without a name or a user."""
        with self._scratch() as bin_, self._locked():
            named = {image.digest for image in self.images()}
            for path in [*self._building.iterdir(), *self._roots.iterdir()]:
                if path.name not in named and _free(path):
                    path.rename(bin_ / f"{path.parent.name}-{path.name}")


def _free(folder: Path) -> bool:
    """Whether a folder is there and nobody holds it: its holder may have removed it while it was locked."""
    try:
        with _opened(folder) as opened:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return folder.exists()
    except (BlockingIOError, FileNotFoundError):
        return False


@contextmanager
def _opened(path: Path, flags: int = 0) -> Iterator[int]:
    """A file or folder to lock."""
    opened = os.open(path, os.O_RDONLY | flags, 0o644)
    try:
        yield opened
    finally:
        os.close(opened)
