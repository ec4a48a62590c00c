"""Opening a path link by link: as the kernel does it, and never by a link on procfs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from turnwise.sandbox.namespaces.syscalls import open_beneath_links
from turnwise.sandbox.namespaces.walking import MOST_LINKS, open_walking

PROCFS = os.stat("/proc").st_dev
READ, MAKE = os.O_RDONLY | os.O_NONBLOCK, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK
LINKS = {
    **{"dir/up": "..", "absolute": "{top}/dir/file", "chain": "absolute", "todir": "dir", "slashed": "file/"},
    **{"dangling": "made", "dir/dangling": "../made", "loop": "loop", "outside": "../../../../../../../etc"},
}
PATHS = (
    *("file", "dir/file", "./dir//file", "dir/../file", "dir/up/file", "dir/up/dir/file", "absolute"),
    *("chain", "dir", "dir/", "dir/.", "todir", "todir/", "todir/file", "todir/up/todir/file", "file/"),
    *("file/x", "absent", "absent/x", ".", "dangling", "dir/dangling", "loop", "loop/x", "slashed"),
    *("slashed/x", "pipe", "outside/passwd", "/", "//", "/..", "/etc/passwd"),
)
NEW = ("new", "dir/new", "todir/new", "dangling", "dir/dangling", "absent/new", "dir/")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("file")
    (tmp_path / "dir/file").write_text("inner")
    os.mkfifo(tmp_path / "pipe")
    for name, target in LINKS.items():
        (tmp_path / name).symlink_to(target.format(top=tmp_path))
    return tmp_path


def walking(path: str, flags: int, mode: int = 0) -> int:
    return open_walking(path, flags, mode, PROCFS)


def identity(opening: Callable[[str, int, int], int], path: str, flags: int, mode: int) -> tuple[int, ...]:
    """Of what is opened; or the error."""
    try:
        fd = opening(path, flags, mode)
    except OSError as error:
        return (error.errno or 0,)
    status = os.fstat(fd)
    os.close(fd)
    return (status.st_dev, status.st_ino, status.st_mode)


@pytest.mark.parametrize("flags", [READ, READ | os.O_NOFOLLOW, os.O_WRONLY | os.O_NONBLOCK])
@pytest.mark.parametrize("path", PATHS)
def test_what_is_opened_is_what_the_kernel_opens(top: Path, path: str, flags: int) -> None:
    full = os.path.join(top, path)
    assert identity(walking, full, flags, 0) == identity(open_beneath_links, full, flags, 0)


@pytest.mark.parametrize("path", NEW)
def test_what_is_made_is_made_where_the_kernel_makes_it(top: Path, path: str) -> None:
    full = os.path.join(top, path)
    ours = identity(walking, full, MAKE, 0o640)
    assert ours == identity(open_beneath_links, full, MAKE, 0o640)


@pytest.mark.parametrize(
    "path", ["/proc/self/exe", "/proc/self/fd/0", "/proc/self/cwd/file", "/proc/self/root/etc"]
)
def test_no_link_of_procfs_is_followed(top: Path, path: str) -> None:
    (top / "way").symlink_to(path)
    for way in (path, str(top / "way")):
        with pytest.raises(OSError, match="symbolic links") as caught:
            walking(way, READ)
        assert caught.value.errno == errno.ELOOP


def test_as_many_links_as_the_kernel_allows(top: Path) -> None:
    for number in range(MOST_LINKS):
        (top / f"link{number + 1}").symlink_to(f"link{number}")
    (top / "link0").write_text("end")
    longest = str(top / f"link{MOST_LINKS}")
    assert identity(walking, longest, READ, 0) == identity(open_beneath_links, longest, READ, 0)
    (top / "one_more").symlink_to(longest)
    assert identity(walking, str(top / "one_more"), READ, 0) == (errno.ELOOP,)


def test_no_descriptor_is_left(top: Path) -> None:
    before = {*os.listdir("/proc/self/fd")}
    for path in PATHS:
        identity(walking, os.path.join(top, path), READ, 0)
    assert {*os.listdir("/proc/self/fd")} <= before
