"""Roots to stand on: the host's ``/usr`` with a small ``/etc`` of our own, or an extracted root.

As root each is shown once per range of ids through an id-mapped mount, so that its root is the
sandbox's root. The host's own root is never id-mapped: files only root may read (``/etc/shadow``)
would be the agent's.
"""

from __future__ import annotations

import os
import stat

from turnwise.sandbox import roots
from turnwise.sandbox.namespaces import syscalls
from turnwise.sandbox.namespaces.ranges import Range
from turnwise.sandbox.namespaces.syscalls import MS_NODEV, MS_NOSUID, MS_RDONLY

HOST = "/host"
"""Where the hub has the host's files."""
SKELETON = "/skeleton"
_FOLDERS = ["usr", "etc", "proc", "dev", "tmp", "run", "run/shm", "root", "var", "var/tmp", "workspace"]
_SHARED_FOLDERS = ("tmp", "run/shm", "var/tmp")


def make_skeleton() -> None:
    """The root of sandboxes without one of their own; ``/usr`` is bound into it later."""
    os.mkdir(SKELETON)
    for name in _FOLDERS:
        os.mkdir(f"{SKELETON}/{name}")
        os.chmod(f"{SKELETON}/{name}", 0o1777 if name in _SHARED_FOLDERS else 0o755)
    for name in roots.LINKS:
        if os.path.islink(f"{HOST}/{name}"):
            os.symlink(f"usr/{name}", f"{SKELETON}/{name}")
        elif os.path.isdir(f"{HOST}/{name}"):
            raise OSError(
                f"/{name} is not a link into /usr on this machine: give sandboxes a root of their own"
            )
    for name in roots.COPIED + [name for name in roots.CERTIFICATES if os.path.isdir(f"{HOST}/etc/{name}")]:
        os.makedirs(os.path.dirname(f"{SKELETON}/etc/{name}"), exist_ok=True)
        _copy(f"{HOST}/etc/{name}", f"{SKELETON}/etc/{name}")
    for name, text in roots.WRITTEN.items():
        os.makedirs(os.path.dirname(f"{SKELETON}/etc/{name}"), exist_ok=True)
        with open(f"{SKELETON}/etc/{name}", "x") as file:
            file.write(text)


def _copy(original: str, target: str) -> None:
    """A file, link or directory, where there is one that everybody may read, as the hub's own."""
    if os.path.islink(original):
        os.symlink(os.readlink(original), target)
    elif os.path.isdir(original):
        os.mkdir(target)
        for name in os.listdir(original):
            _copy(f"{original}/{name}", f"{target}/{name}")
    elif os.path.isfile(original) and os.stat(original).st_mode & stat.S_IROTH:
        with open(original, "rb") as old, open(target, "xb") as new:
            new.write(old.read())
        os.chmod(target, stat.S_IMODE(os.stat(original).st_mode))


def source(root: str | None) -> str:
    """Where the hub has a root itself."""
    return SKELETON if root is None else HOST + root


def base(root: str | None, ids: Range, user_namespace: str) -> str:
    """The path of a root as this range sees it. ``user_namespace`` is a file of one with its ids."""
    if ids.single:
        return source(root)
    status = os.stat(source(root))
    key = (status.st_dev, status.st_ino)
    if key not in ids.bases:
        ids.bases[key] = _id_mapped(source(root), f"/bases/{ids.base}-{len(ids.bases)}", user_namespace)
    return ids.bases[key]


def _id_mapped(path: str, target: str, user_namespace: str) -> str:
    tree = syscalls.open_tree(path)
    namespace = os.open(user_namespace, os.O_RDONLY)
    try:
        syscalls.idmap(tree, namespace, MS_RDONLY | MS_NOSUID | MS_NODEV)
        os.makedirs(target, exist_ok=True)
        syscalls.move_mount(tree, target)
    finally:
        os.close(namespace)
        os.close(tree)
    return target


def complete(tree: int, ids: Range) -> None:
    """Make what a sandbox needs and an extracted root may lack, in its overlay."""
    for name, mode in (
        ("proc", 0o755),
        ("dev", 0o755),
        ("run", 0o755),
        ("run/shm", 0o1777),
        ("workspace", 0o755),
    ):
        try:
            os.mkdir(name, dir_fd=tree)
        except FileExistsError:
            continue
        os.chmod(name, mode, dir_fd=tree)
        os.chown(name, ids.base, ids.base, dir_fd=tree)
