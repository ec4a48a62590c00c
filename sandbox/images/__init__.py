"""Images: root file systems to run sandboxes on, made here, without a registry.

    turnwise images build tools --apt python3,git
    SandboxSpec(root=images.find("tools"))

An image is an extracted root in a store of folders named by what is in them, and a name for it. It is made
of a Dockerfile, of packages of the distribution, or of programs of this machine with all that they load,
also with published Python distributions beside them.
Every backend that can have a root of its own runs on it.
"""

from pathlib import Path

from turnwise.sandbox.images.apt import Apt
from turnwise.sandbox.images.docker import Dockerfile
from turnwise.sandbox.images.errors import ImageError
from turnwise.sandbox.images.host import Host
from turnwise.sandbox.images.python import Python
from turnwise.sandbox.images.store import Image, Source, Store

__all__ = ["Apt", "Dockerfile", "Host", "Image", "ImageError", "Python", "Source", "Store", "find"]


def find(name: str) -> Path:
    """The root of an image, for ``SandboxSpec(root=…)``; it stays there as long as this process lives.

    Raises :class:`ImageError` where there is none of that name.
    """
    return Store().find(name)
