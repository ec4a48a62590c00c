"""Layers: what an episode wrote, on a tmpfs of its own, and the overlay of several of them.

A layer is written by one episode and never again: a snapshot freezes it by giving the parent a new
one on top. It is a counted reference of the episodes and snapshots that stand on it; with the last
of them its memory goes. The size of the tmpfs is the disk quota.
"""

from __future__ import annotations

import os

from turnwise.sandbox.namespaces.ranges import Range
from turnwise.sandbox.namespaces.syscalls import MS_NODEV, MS_NOSUID, detached_mount, mount, umount

MOUNT_NOSUID, MOUNT_NODEV = 2, 4
LEAST = 1 << 20  # a full disk still takes a few small files


class Layer:
    """A tmpfs at ``path`` with the written files in ``u`` and overlayfs's work directory in ``w``."""

    def __init__(self, path: str, size: int, ids: Range) -> None:
        self.path, self.ids, self.refs = path, ids, 0
        ids.refs += 1
        os.mkdir(path)
        size = max(size, LEAST)
        mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes={size // 4096},mode=755")
        for name in ("/u", "/w"):
            os.mkdir(path + name, 0o755)
        os.chown(path + "/u", ids.base, ids.base)

    def used(self) -> int:
        """Bytes written, of files and of what the tmpfs keeps about them."""
        space = os.statvfs(self.path)
        return (space.f_blocks - space.f_bfree) * space.f_bsize

    def destroy(self) -> None:
        umount(self.path)
        os.rmdir(self.path)
        self.ids.release()


def hold(layers: list[Layer]) -> None:
    for layer in layers:
        layer.refs += 1


def release(layers: list[Layer]) -> None:
    for layer in layers:
        layer.refs -= 1
        if layer.refs == 0:
            layer.destroy()


def overlay(upper: Layer, lowers: list[Layer], base: str, user: bool) -> int:
    """A detached overlay mount of ``lowers`` (top first) over ``base``, written to ``upper``.

    Detached, it appears in no namespace of ours and needs no unmounting. ``lowerdir+``, one option
    a layer, needs Linux 6.8; joined in one option the paths would exceed its 255 bytes.
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
