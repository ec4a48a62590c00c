"""Changes files at random (from the seed given) and prints what is there then. Runs inside."""

import contextlib
import os
import random
import shutil
import stat
import sys

TOPS = ("/workspace", "/etc")  # without and with files of the root below


def places():
    """Every path there is, directories first, and some that are not."""
    found = [(top, True) for top in TOPS]
    for top in TOPS:
        for below, directories, files in os.walk(top):
            directories[:] = [name for name in directories if name != "alternatives"]  # a thousand links
            found += [
                (os.path.join(below, name), not os.path.islink(os.path.join(below, name)))
                for name in directories
            ]
            found += [(os.path.join(below, name), False) for name in files]
    return sorted(found)


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def write(path, mode):
    with open(path, mode) as file:
        file.write(str(rng.random()))


def mark(path):
    os.chmod(path, rng.choice([0o700, 0o755, 0o744]))
    os.setxattr(path, "user.churn", str(rng.random()).encode())


def replace(path, make):
    remove(path)
    make()


def change():
    """One change somewhere. Of an absent file, a full directory and so on it may be none: an OSError."""
    found = [path for path, _ in places()]
    directories = [path for path, is_directory in places() if is_directory]
    other = rng.choice(found)
    path = rng.choice([os.path.join(rng.choice(directories), rng.choice("abc")), rng.choice(found)])
    if path in TOPS:
        return
    target = rng.choice(["a", "../b", "/nowhere"])
    kinds = [
        lambda: remove(path),
        lambda: replace(path, lambda: write(path, "x")),
        lambda: replace(path, lambda: os.mkdir(path)),
        lambda: replace(path, lambda: os.symlink(target, path)),
        lambda: replace(path, lambda: os.link(other, path, follow_symlinks=False)),
        lambda: write(path, "r+"),
        lambda: mark(path),
        lambda: os.rename(path, os.path.join(rng.choice(TOPS), "moved")),
    ]
    with contextlib.suppress(OSError):
        rng.choice(kinds)()


rng = random.Random(*map(int, sys.argv[1:2]))
if sys.argv[1:]:
    for _ in range(12):
        change()
for path, _ in places():
    status = os.lstat(path)
    attributes, body = [], ""
    if stat.S_ISLNK(status.st_mode):
        body = os.readlink(path)
    else:
        attributes = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            body = hash(file.read())
    print(path, oct(status.st_mode), status.st_uid, status.st_mtime_ns, attributes, body)
