"""The store of images: named by content, whole or not there, nothing left behind, kept while in use."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from turnwise.sandbox.images import Apt, Dockerfile, Host, ImageError, Store, find, tree


@dataclass(frozen=True)
class Made:
    """A root of a few files that a test writes."""

    make: Callable[[Path], object]

    def fill(self, root: Path, scratch: Path) -> str:
        (root / "etc").mkdir()
        (scratch / "rubbish").write_text("x")
        self.make(root)
        return "a test"


def holding(text: str) -> Made:
    return Made(lambda root: (root / "file").write_text(text))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def roots(store: Store) -> set[str]:
    return {path.name for path in (store.folder / "roots").iterdir()}


def nothing_is_left(store: Store) -> bool:
    return list((store.folder / "building").iterdir()) == []


# ---------------------------------------------------------------- names and contents


def test_equal_contents_are_one_root_whatever_their_names_and_times(store: Store) -> None:
    one = store.build("one", holding("x"))

    def older(root: Path) -> None:
        (root / "file").write_text("x")
        os.utime(root / "file", (1, 1))

    two = store.build("two", Made(older))
    assert one.digest == two.digest
    assert roots(store) == {one.digest}
    assert [image.name for image in store.images()] == ["one", "two"]
    assert store.names_of(store.find("one")) == ["one", "two"]
    assert store.names_of(store.folder) is None
    assert (store.find("two") / "file").read_text() == "x"
    assert nothing_is_left(store)


def write(root: Path, name: str = "file", text: str = "x", mode: int = 0o644) -> None:
    (root / name).write_text(text)
    (root / name).chmod(mode)


DIFFERENT: list[Callable[[Path], object]] = [
    write,
    lambda root: write(root, text="y"),
    lambda root: write(root, name="file2"),
    lambda root: write(root, mode=0o755),
    lambda root: (root / "file").symlink_to("x"),
    lambda root: (root / "file").symlink_to("y"),
    lambda root: (root / "file").mkdir(),
    lambda root: (root / "file" / "x").mkdir(parents=True),
]


def test_different_contents_are_different_images(store: Store) -> None:
    digests = {store.build("image", Made(make)).digest for make in DIFFERENT}
    assert len(digests) == len(DIFFERENT)


@pytest.mark.parametrize("name", ["", "A", "a b", "../x", "-a", ".a", "a/b", "a" * 64, "ä"])
def test_an_impossible_name_is_refused_before_anything_is_done(store: Store, name: str) -> None:
    for action in (
        lambda: store.build(name, holding("x")),
        lambda: store.find(name),
        lambda: store.remove(name),
    ):
        with pytest.raises(ImageError, match=r"image name .*: use at most 63 lower-case"):
            action()
    assert not store.folder.exists()


def test_an_unknown_name_brings_the_nearest_or_the_way_to_make_it(store: Store) -> None:
    with pytest.raises(ImageError, match="build it: turnwise images build tools"):
        store.find("tools")
    store.build("tools", holding("x"))
    with pytest.raises(ImageError, match="did you mean 'tools'"):
        store.find("tolls")


def test_the_environment_says_where_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNWISE_IMAGES", str(tmp_path / "there"))
    image = Store().build("tools", holding("x"))
    assert find("tools") == tmp_path / "there" / "roots" / image.digest
    monkeypatch.setenv("TURNWISE_IMAGES", "/proc/absent")
    with pytest.raises(ImageError, match=r"/proc/absent cannot be made .*; name another in TURNWISE_IMAGES"):
        Store().build("tools", holding("x"))


def test_another_users_image_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sandbox on it nothing would be the agent's, not even its workspace."""
    store.build("image", holding("x"))
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(ImageError, match="another user's; name a store of your own"):
        store.find("image")


# ---------------------------------------------------------------- what a root is made fit by


def test_a_root_gives_no_rights_and_can_be_read(store: Store) -> None:
    def make(root: Path) -> None:
        for name, mode in (("setuid", 0o6755), ("closed", 0o000), ("write-only", 0o200)):
            (root / name).write_text(name)
            (root / name).chmod(mode)
        (root / "shared").mkdir()
        (root / "shared").chmod(0o3777)
        (root / "empty").mkdir(0o000)
        os.mkfifo(root / "pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(root / "socket"))

    store.build("image", Made(make))
    root = store.find("image")
    modes = {path.name: path.stat().st_mode & 0o7777 for path in root.iterdir() if path.name != "etc"}
    wanted = {"setuid": 0o755, "closed": 0o400, "write-only": 0o600, "shared": 0o1777, "empty": 0o700}
    assert modes == wanted


def test_a_root_tells_nothing_of_where_it_was_made(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "hosts"
    secret.write_text("secret")

    def make(root: Path) -> None:
        (root / "etc/hostname").write_text(os.uname().nodename)
        (root / "etc/resolv.conf").write_text("nameserver 10.0.0.1")
        (root / "etc/passwd").write_text("its own")
        (root / "etc/hosts").symlink_to(secret)

    store.build("image", Made(make))
    folder = store.find("image") / "etc"
    assert (folder / "hostname").read_text() == "sandbox\n"
    assert (folder / "passwd").read_text() == "its own"
    assert not (folder / "resolv.conf").exists()
    assert "localhost" in (folder / "hosts").read_text()
    assert secret.read_text() == "secret"


def test_what_is_no_root_is_refused_and_nothing_outside_is_written(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()

    def lead_out(root: Path) -> None:
        (root / "etc").rmdir()
        (root / "etc").symlink_to(outside)

    for make in (lead_out, lambda root: (root / "etc").rmdir()):
        with pytest.raises(ImageError, match="no root file system"):
            store.build("image", Made(make))
    assert list(outside.iterdir()) == []
    assert nothing_is_left(store)
    assert store.images() == []


def test_an_archive_is_unpacked_inside_and_without_devices(tmp_path: Path) -> None:
    """Whatever it says: names that lead out, files behind links that it brought itself, devices."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:

        def add(name: str, kind: bytes, target: str = "", data: bytes = b"") -> None:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size, entry.mode, entry.uid = (
                kind,
                target,
                len(data),
                0o755,
                1234,
            )
            tar.addfile(entry, io.BytesIO(data))

        add("./dev/null", tarfile.CHRTYPE)
        add("file", tarfile.REGTYPE, data=b"x")
        add("way", tarfile.SYMTYPE, str(tmp_path / "outside"))
        add("way/evil", tarfile.REGTYPE, data=b"x")
        add("../evil", tarfile.REGTYPE, data=b"x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    with (
        pytest.raises(ImageError, match="could not be unpacked"),
        tree.unpacking(tmp_path / "root") as stream,
    ):
        stream.write(archive.getvalue())
    assert list((tmp_path / "outside").iterdir()) == []
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "root/dev/null").exists()
    assert (tmp_path / "root/file").stat().st_uid == os.geteuid()


# ---------------------------------------------------------------- at once, broken off, in use


def test_builders_at_once_do_not_disturb_each_other(store: Store) -> None:
    def build(number: int) -> str:
        return store.build(f"image-{number % 4}", holding(str(number % 8))).digest

    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(build, range(32)))
    assert len(set(digests)) == 8
    assert roots(store) == {image.digest for image in store.images()}
    assert nothing_is_left(store)
    for image in store.images():
        assert tree.measure(store.root(image)).digest == image.digest


def test_a_failure_leaves_what_was_there(store: Store) -> None:
    before = store.build("image", holding("x"))

    def fail(root: Path) -> None:
        raise RuntimeError("half done")

    with pytest.raises(RuntimeError, match="half done"):
        store.build("image", Made(fail))
    assert store.image("image") == before
    assert nothing_is_left(store)


BUILDER = """
import sys, threading
from pathlib import Path
from turnwise.sandbox.images import Store
class Waits:
    def fill(self, root, scratch):
        (root / "half").write_text("done")
        print("building", flush=True)
        threading.Event().wait()
Store(Path(sys.argv[1])).build("image", Waits())
"""


def test_what_a_killed_builder_left_goes_with_the_next_build(store: Store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(store.folder)], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "building\n"
        store.build("other", holding("x"))
        assert len(list((store.folder / "building").iterdir())) == 1  # it is at work
        builder.send_signal(signal.SIGKILL)
    store.build("other", holding("y"))
    assert nothing_is_left(store)
    assert [image.name for image in store.images()] == ["other"]


USER = """
import sys
from pathlib import Path
from turnwise.sandbox.images import Store
print(Store(Path(sys.argv[1])).find("image"), flush=True)
sys.stdin.read()
"""


def test_a_root_in_use_stays_until_its_last_user_has_ended(store: Store) -> None:
    old = store.build("image", holding("old"))
    with subprocess.Popen(
        [sys.executable, "-c", USER, str(store.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        used = Path(user.stdout.readline().strip())
        new = store.build("image", holding("new"))
        store.remove("image")
        assert (used / "file").read_text() == "old"
        assert roots(store) == {old.digest}
        assert new.digest != old.digest
        user.kill()
    store.build("another", holding("x"))
    assert not used.exists()


def test_what_was_removed_is_gone(store: Store) -> None:
    store.build("image", holding("x"))
    store.remove("image")
    assert store.images() == []
    assert roots(store) == set()
    with pytest.raises(ImageError, match="none of that name"):
        store.remove("image")


# ---------------------------------------------------------------- what this machine lacks


def test_a_missing_program_is_named_with_the_package(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/absent")
    with pytest.raises(ImageError, match="apt-get install mmdebstrap"):
        store.build("image", Apt(("python3",)))
    with pytest.raises(ImageError, match="no no-such-program in /usr"):
        store.build("image", Host(("no-such-program",)))
    assert nothing_is_left(store)


@pytest.mark.parametrize("package", ["", "a b", "--option", "a;b", "$(x)", "Python3"])
def test_what_is_no_package_is_refused(package: str) -> None:
    with pytest.raises(ImageError, match=r"--apt: .* is no package"):
        Apt(("python3", package))


def test_a_dockerfile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="absent' is no file; name a Dockerfile"):
        Dockerfile(tmp_path / "absent")
