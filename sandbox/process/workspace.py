"""The files of a workspace that is a directory ``root``: where its paths lead and what is done there.

Nothing outside the directory is touched through these calls: a path is resolved first, symbolic links
included, and refused when it leads out. (Commands are not held back: see the package.)
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from turnwise.sandbox.contract import FileInfo, LimitExceeded, SandboxError

WORKSPACE = PurePosixPath("/workspace")

KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """Tell errors with the path as the caller knows it, and the host's own failures as such."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE):
            raise SandboxError(f"this machine failed at {path}: {error.strerror}") from error
        raise OSError(error.errno, error.strerror, path) from None


def locate(root: Path, path: str, *, follow: bool = True) -> Path:
    """Where a path of the sandbox is. ``follow=False`` leaves a final symbolic link alone."""
    pure = WORKSPACE / path
    if not pure.is_relative_to(WORKSPACE):
        reason = "outside /workspace, the only directory of a sandbox of the process backend"
        raise PermissionError(errno.EACCES, reason, path)
    target = root / pure.relative_to(WORKSPACE)
    whole = follow or target.name == ".." or target == root
    real = Path(os.path.realpath(target if whole else target.parent))
    if not real.is_relative_to(root):
        raise PermissionError(errno.EACCES, "leads outside /workspace", path)
    return real if whole else real / target.name


def open_regular(path: Path, flags: int, mode: int = 0) -> int:
    """Open a regular file; never waits, as a pipe without a writer would make one."""
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    kind = os.fstat(fd).st_mode
    if stat.S_ISREG(kind):
        return fd
    os.close(fd)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise PermissionError(errno.EACCES, "not a regular file")


def directory(root: Path, path: str) -> Path:
    """Where a directory of the sandbox is, as a command's working directory."""
    real = locate(root, path)
    with named(path):
        if not stat.S_ISDIR(real.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    return real


def present(root: Path, path: str, *, follow: bool) -> Path:
    """Where something is that has to be there."""
    real = locate(root, path, follow=follow)
    with named(path):
        real.lstat()
    return real


def read(root: Path, path: str, offset: int, limit: int) -> bytes:
    real = locate(root, path)
    with named(path), open(open_regular(real, os.O_RDONLY), "rb") as file:
        file.seek(offset)
        return file.read(limit)


def write(root: Path, path: str, data: bytes, mode: int) -> None:
    real = locate(root, path)
    with named(path):
        try:
            real.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        if real.exists() and not (real.is_file() or real.is_dir()):
            raise PermissionError(errno.EACCES, "not a regular file")
        with open(open_regular(real, os.O_WRONLY | os.O_CREAT, mode), "wb") as file:
            file.truncate(0)
            file.write(data)
            os.fchmod(file.fileno(), mode)


def write_tree(root: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        write(root, path, data, 0o644)


def read_tree(root: Path, path: str, limit: int) -> dict[str, bytes]:
    top = locate(root, path)
    found: dict[str, bytes] = {}
    left = limit
    with named(path):
        os.listdir(top)  # nothing there, or a file, is an error; os.walk would be silent
        for directory, _, names in os.walk(top):
            for file in sorted(Path(directory, name) for name in names):
                status = file.lstat()
                if not stat.S_ISREG(status.st_mode):
                    continue
                left -= status.st_size
                if left < 0:
                    raise LimitExceeded("disk", f"the files below {path} are more than {limit} bytes")
                found[file.relative_to(top).as_posix()] = file.read_bytes()
    return dict(sorted(found.items()))


def info(name: str, status: os.stat_result) -> FileInfo:
    kind = KINDS.get(stat.S_IFMT(status.st_mode), "other")
    mode = stat.S_IMODE(status.st_mode)
    return FileInfo(name, kind, status.st_size, mode, status.st_nlink)  # type: ignore[arg-type]


def entries(root: Path, path: str) -> tuple[FileInfo, ...]:
    real = locate(root, path)
    with named(path), os.scandir(real) as scan:
        found = [info(entry.name, entry.stat(follow_symlinks=False)) for entry in scan]
    return tuple(sorted(found, key=lambda entry: entry.name))


def status(root: Path, path: str) -> FileInfo:
    real = locate(root, path, follow=False)
    with named(path):
        return info(PurePosixPath(path).name or "/", real.lstat())


def link(root: Path, endpoint: Path, path: str) -> None:
    """Put a symbolic link to a socket at a path, in place of a link that is there."""
    with named(str(endpoint)):
        if not stat.S_ISSOCK(endpoint.stat().st_mode):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "not a socket")
    real = locate(root, path, follow=False)
    with named(path):
        real.parent.mkdir(parents=True, exist_ok=True)
        if real.is_symlink():
            real.unlink()
        real.symlink_to(endpoint.resolve())


def open_up(root: Path) -> list[tuple[str, int]]:
    """Let its owner read everything below a directory; what it had closed to itself, with its mode, from the
    top down."""
    closed, left = [], [root]
    while left:
        with os.scandir(left.pop()) as scan:
            for entry in scan:
                is_directory = entry.is_dir(follow_symlinks=False)
                if not is_directory and not entry.is_file(follow_symlinks=False):
                    continue
                mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
                wanted = mode | (stat.S_IRUSR | stat.S_IXUSR if is_directory else stat.S_IRUSR)
                if wanted != mode:
                    os.chmod(entry.path, wanted)
                    closed.append((str(Path(entry.path).relative_to(root)), mode))
                if is_directory:
                    left.append(Path(entry.path))
    return closed


def shut(root: Path, closed: list[tuple[str, int]]) -> None:
    """What :func:`open_up` opened, here or in a copy, as it was."""
    for name, mode in reversed(closed):
        os.chmod(root / name, mode)


def size(directory: Path) -> int:
    """Bytes in all files below a directory."""
    sizes = [Path(top, name).lstat().st_size for top, _, names in os.walk(directory) for name in names]
    return sum(sizes)
