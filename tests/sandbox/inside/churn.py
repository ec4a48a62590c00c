"""Changes files at random (from the seed given) and prints what is there then. Runs inside."""

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


def change(rng):
    found = places()
    directories = [path for path, is_directory in found if is_directory]
    others = [path for path, is_directory in found if not is_directory]
    target = rng.choice([os.path.join(rng.choice(directories), rng.choice("abc")), rng.choice(found)[0]])
    if target in TOPS:
        return
    kind = rng.choice(
        ["remove", "file", "file", "directory", "directory", "link", "hard", "mode", "rename", "append"]
    )
    if kind == "append" and os.path.isfile(target) and not os.path.islink(target):
        with open(target, "a") as file:
            file.write("more")
    elif kind == "mode" and os.path.exists(target) and not os.path.islink(target):
        os.chmod(target, rng.choice([0o700, 0o755, 0o744]))
        os.setxattr(target, "user.churn", str(rng.random()).encode())
    elif kind == "rename" and os.path.lexists(target) and not os.path.isdir(target):
        moved = os.path.join(rng.choice(TOPS), "moved")
        if target != moved:
            remove(moved)
            os.rename(target, moved)
    elif kind == "hard" and others:
        source = rng.choice(others)
        if source != target:
            remove(target)
            os.link(source, target, follow_symlinks=False)
    elif kind in ("remove", "file", "directory", "link"):
        remove(target)
        if kind == "file":
            with open(target, "w") as file:
                file.write(str(rng.random()))
        elif kind == "directory":
            os.mkdir(target)
        elif kind == "link":
            os.symlink(rng.choice(["a", "../b", "/nowhere"]), target)


if sys.argv[1:]:
    rng = random.Random(int(sys.argv[1]))
    for _ in range(12):
        change(rng)
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
