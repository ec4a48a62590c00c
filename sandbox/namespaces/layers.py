"""Layers: what an episode wrote, on a tmpfs of its own, and the overlay of several of them.

A layer is written by one episode and never again: a snapshot freezes it by giving the parent a new
one on top. It is a counted reference of the episodes and snapshots that stand on it; with the last
of them its memory goes. The size of the tmpfs is the disk quota.
"""

from __future__ import annotations

import os

from turnwise.sandbox.namespaces.ranges import Range
from turnwise.sandbox.namespaces.syscalls import (
    MS_NODEV,
    MS_NOSUID,
    MS_REMOUNT,
    detached_mount,
    mount,
    umount,
)

MOUNT_NOSUID, MOUNT_NODEV = 2, 4
LEAST = 1 << 20  # a full disk still takes a few small files


class Layer:
    """A tmpfs at ``path`` with the written files in ``u`` and overlayfs's work directory in ``w``."""

    def __init__(self, name: str) -> None:
        self.path, self.refs = f"/layers/{name}", 0
        self._ids: Range | None = None
        os.mkdir(self.path)
        mount("tmpfs", self.path, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        for folder in ("/u", "/w"):
            os.mkdir(self.path + folder, 0o755)

    def fit(self, size: int, ids: Range) -> None:
        """Give it its quota and its owner, before anything is written."""
        self._ids = ids
        ids.refs += 1
        size = max(size, LEAST)
        options = f"size={size},nr_inodes={size // 4096}"
        mount(None, self.path, None, MS_REMOUNT | MS_NOSUID | MS_NODEV, options)
        os.chown(self.path + "/u", ids.base, ids.base)

    @property
    def ids(self) -> Range:
        if self._ids is None:
            raise RuntimeError(f"layer {self.path} has no ids yet")
        return self._ids

    def used(self) -> int:
        """Bytes written, of files and of what the tmpfs keeps about them."""
        space = os.statvfs(self.path)
        return (space.f_blocks - space.f_bfree) * space.f_bsize

    def destroy(self) -> None:
        umount(self.path)
        os.rmdir(self.path)
        if self._ids is not None:
            self._ids.release()


def hold(layers: list[Layer]) -> None:
    for layer in layers:
        layer.refs += 1


def release(layers: list[Layer]) -> None:
    for layer in layers:
        layer.refs -= 1
        if layer.refs == 0:
            layer.destroy()


def overlay(upper: Layer, lowers: list[Layer], base: str, *, user: bool) -> int:
    """A detached overlay mount of ``lowers`` (top first) over ``base``, written to ``upper``.

    Detached, it appears in no namespace of ours and needs no unmounting. ``lowerdir+``, one option
    a layer, needs Linux 6.8; joined in one option the paths would exceed its 255 bytes. As in
    container engines a directory of a lower layer cannot be renamed (EXDEV; ``mv`` copies it).
    """
    options: list[tuple[str, str | None]] = [
        ("lowerdir+", path) for path in (*(x.path + "/u" for x in lowers), base)
    ]
    options += [("upperdir", upper.path + "/u"), ("workdir", upper.path + "/w"), ("volatile", None)]
    if user:
        options.append(("userxattr", None))
    else:
        options += [("redirect_dir", "off"), ("metacopy", "off")]
    return detached_mount("overlay", options, MOUNT_NOSUID | MOUNT_NODEV)
