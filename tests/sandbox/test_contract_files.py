"""The contract of every backend, third part: files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from turnwise.sandbox import Backend, FileInfo, LimitExceeded, Limits, Match, MiB, Sandbox, SandboxSpec

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_is_written_is_read(sandbox: Sandbox) -> None:
    data = bytes(range(256))
    await sandbox.write("/workspace/file", data)
    assert await sandbox.read("/workspace/file") == data
    assert await sandbox.read("file") == data
    assert (await sandbox.exec("cat file")).stdout == data


async def test_a_part_is_read(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"0123456789")
    assert await sandbox.read("file", offset=3, limit=4) == b"3456"
    assert await sandbox.read("file", offset=20) == b""
    assert await sandbox.read("file", limit=3) == b"012"


async def test_sixteen_mebibytes_go_in_and_out(sandbox: Sandbox) -> None:
    data = bytes(range(256)) * (16 * MiB // 256)
    await sandbox.write("huge", data)
    assert (await sandbox.stat("huge")).size == 16 * MiB
    assert await sandbox.read("huge") == data


async def test_writing_replaces(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"a long first text", mode=0o644)
    await sandbox.write("file", b"second", mode=0o600)
    assert await sandbox.read("file") == b"second"
    assert (await sandbox.stat("file")).mode == 0o600


async def test_writing_makes_parents(sandbox: Sandbox) -> None:
    await sandbox.write("/workspace/a/b/c/file", b"x")
    assert (await sandbox.stat("a/b")).kind == "directory"
    assert (await sandbox.exec("cat a/b/c/file && touch a/b/c/mine")).exit_code == 0


@pytest.mark.parametrize("mode", [0o644, 0o755, 0o400, 0o666])
async def test_the_mode_is_the_one_asked_for(sandbox: Sandbox, mode: int) -> None:
    await sandbox.write("file", b"#!/bin/sh\necho ran\n", mode=mode)
    assert (await sandbox.stat("file")).mode == mode
    assert ((await sandbox.exec(["./file"])).exit_code == 0) == bool(mode & 0o111)


async def test_names_may_be_in_any_language(sandbox: Sandbox) -> None:
    names = ["ünïcödé.txt", "日本語", "with space", "quo'te\"s", "new\nline", "-dash", "🙂"]
    for name in names:
        await sandbox.write(f"/workspace/d/{name}", name.encode())
    assert [entry.name for entry in await sandbox.list("d")] == sorted(names)
    for name in names:
        assert await sandbox.read(f"d/{name}") == name.encode()
    listed = (await sandbox.exec("for f in d/*; do printf '%s\\0' \"$f\"; done")).stdout
    assert set(listed.decode().split("\0")[:-1]) == {f"d/{name}" for name in names}


async def test_many_files_are_written_at_once(sandbox: Sandbox) -> None:
    files = {f"dir{n % 20}/file{n}": b"%d" % n for n in range(500)}
    await sandbox.write_tree({f"/workspace/{name}": data for name, data in files.items()})
    assert await sandbox.read_tree("/workspace") == files


async def test_reading_what_is_not_there(sandbox: Sandbox) -> None:
    for call in (sandbox.read, sandbox.list, sandbox.stat, sandbox.delete, sandbox.read_tree):
        with pytest.raises(FileNotFoundError):
            await call("/workspace/absent")
    await sandbox.write("still", b"alive")


async def test_a_directory_is_no_file(sandbox: Sandbox) -> None:
    await sandbox.write("dir/file", b"")
    with pytest.raises(IsADirectoryError):
        await sandbox.read("dir")
    with pytest.raises(IsADirectoryError):
        await sandbox.write("dir", b"")


async def test_a_file_is_no_directory(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"")
    with pytest.raises(NotADirectoryError):
        await sandbox.list("file")
    with pytest.raises(NotADirectoryError):
        await sandbox.read("file/below")
    with pytest.raises(NotADirectoryError):
        await sandbox.write("file/below", b"")
    with pytest.raises(NotADirectoryError):
        await sandbox.read_tree("file")


@pytest.mark.needs("user isolation")
async def test_permissions_hold(sandbox: Sandbox) -> None:
    await sandbox.write("closed", b"secret", mode=0o000)
    with pytest.raises(PermissionError):
        await sandbox.read("closed")
    assert (await sandbox.exec("cat closed")).exit_code != 0


async def test_pipes_and_devices_are_refused(sandbox: Sandbox) -> None:
    await sandbox.exec("mkfifo pipe; ln -s /dev/zero device")
    for path in ("pipe", "device", "/dev/zero"):
        with pytest.raises(PermissionError):
            await sandbox.read(path)
    with pytest.raises(PermissionError):
        await sandbox.write("pipe", b"x")


async def test_a_link_does_not_lead_to_the_owners_files(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2")
    await sandbox.exec(f"ln -s {tmp_path} out; ln -s {tmp_path}/secret direct")
    for path in ("out/secret", "direct", f"{tmp_path}/secret", f"../..{tmp_path}/secret"):
        with pytest.raises((FileNotFoundError, PermissionError)):
            await sandbox.read(path)
    with pytest.raises((FileNotFoundError, PermissionError)):
        await sandbox.list("out")
    await sandbox.delete("out")
    assert (tmp_path / "secret").read_text() == "hunter2"


async def test_a_link_within_the_workspace_is_followed(sandbox: Sandbox) -> None:
    await sandbox.write("dir/file", b"first")
    await sandbox.exec("ln -s dir/file direct; ln -s dir through")
    assert await sandbox.read("direct") == b"first"
    await sandbox.write("through/file", b"second")
    assert await sandbox.read("direct") == b"second"


async def test_a_directory_is_listed_in_order(sandbox: Sandbox) -> None:
    await sandbox.exec(
        "mkdir d; cd d; printf 12345 > b; chmod 640 b; mkdir -m 700 a; ln -s nowhere c; mkfifo e"
    )
    entries = await sandbox.list("d")
    assert [(entry.name, entry.kind) for entry in entries] == [
        ("a", "directory"),
        ("b", "file"),
        ("c", "symlink"),
        ("e", "other"),
    ]
    assert entries[1] == FileInfo("b", "file", 5, 0o640, 1)
    assert entries[0].mode == 0o700


async def test_stat_tells_what_is_there(sandbox: Sandbox) -> None:
    await sandbox.write("file", b"12345", mode=0o640)
    await sandbox.exec("ln -s file link")
    assert await sandbox.stat("/workspace/file") == FileInfo("file", "file", 5, 0o640, 1)
    assert (await sandbox.stat("link")).kind == "symlink"
    await sandbox.exec("ln file another")
    assert (await sandbox.stat("file")).links == 2
    assert (await sandbox.stat("/workspace")).kind == "directory"


async def test_files_directories_and_links_are_deleted(sandbox: Sandbox) -> None:
    await sandbox.write_tree({"file": b"", "dir/a/b": b"", "kept/file": b"kept"})
    await sandbox.exec("ln -s kept link; mkdir -p dir/closed/x; chmod 000 dir/closed")
    for path in ("file", "dir", "link"):
        await sandbox.delete(path)
    assert [entry.name for entry in await sandbox.list("/workspace")] == ["kept"]
    assert await sandbox.read("kept/file") == b"kept"


async def test_lines_are_found_in_order(sandbox: Sandbox) -> None:
    await sandbox.write_tree(
        {"b.py": b"x = 1\ny = 22\nx = 333", "a/c.txt": "füx = 4\r\n".encode(), "z": b"none"}
    )
    assert await sandbox.search(r"x = \d+") == (
        Match("/workspace/a/c.txt", 1, "füx = 4"),
        Match("/workspace/b.py", 1, "x = 1"),
        Match("/workspace/b.py", 3, "x = 333"),
    )
    assert await sandbox.search("^y", "/workspace/b.py") == (Match("/workspace/b.py", 2, "y = 22"),)
    assert await sandbox.search("x", "a") == (Match("/workspace/a/c.txt", 1, "füx = 4"),)
    assert await sandbox.search("nowhere to be found") == ()


async def test_a_search_stops_at_its_limit(sandbox: Sandbox) -> None:
    await sandbox.write("many", b"line\n" * 1000)
    assert len(await sandbox.search("line")) == 200
    assert [match.line for match in await sandbox.search("line", limit=3)] == [1, 2, 3]


async def test_a_search_passes_over_binary_files_and_links(sandbox: Sandbox) -> None:
    await sandbox.write_tree({"binary": b"\0needle", "text": b"needle \xff"})
    await sandbox.exec("ln -s text link; mkfifo pipe")
    assert [match.path for match in await sandbox.search("needle")] == ["/workspace/text"]


@pytest.mark.parametrize("pattern", ["(", "[a", "*x", "(?P<n>"])
async def test_a_bad_pattern_is_refused(sandbox: Sandbox, pattern: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        await sandbox.search(pattern)


async def test_a_search_where_nothing_is(sandbox: Sandbox) -> None:
    with pytest.raises(FileNotFoundError):
        await sandbox.search("x", "/workspace/absent")


async def test_a_tree_holds_regular_files_only(sandbox: Sandbox) -> None:
    await sandbox.write_tree({"repo/a": b"1", "repo/b/c": b"2", "outside": b"3"})
    await sandbox.exec("cd repo; ln -s ../outside link; ln -s b dirlink; mkfifo pipe; mkdir empty")
    assert await sandbox.read_tree("/workspace/repo") == {"a": b"1", "b/c": b"2"}


async def test_a_tree_is_frozen_when_it_is_read(sandbox: Sandbox) -> None:
    await sandbox.shell("(while :; do echo x >> log; done) & until [ -s log ]; do :; done")
    writing = asyncio.create_task(sandbox.exec("while :; do echo y >> other; done"))
    await sandbox.exec("until [ -s other ]; do :; done")
    tree = await sandbox.read_tree("/workspace")
    assert (await writing).exit_code == 137
    assert await sandbox.read_tree("/workspace") == tree
    assert (await sandbox.shell("jobs; echo new")).stdout == b"new\n"


async def test_a_tree_beyond_its_limit_is_refused(sandbox: Sandbox) -> None:
    await sandbox.write_tree({"a": bytes(600), "b": bytes(600)})
    with pytest.raises(LimitExceeded) as error:
        await sandbox.read_tree("/workspace", limit=1000)
    assert error.value.resource == "disk"
    assert len(await sandbox.read_tree("/workspace", limit=1200)) == 2


async def test_file_calls_run_at_the_same_time(sandbox: Sandbox) -> None:
    await asyncio.gather(*(sandbox.write(f"d/{n}", b"%d" % n * 1000) for n in range(50)))
    contents = await asyncio.gather(*(sandbox.read(f"d/{n}") for n in range(50)))
    assert contents == [b"%d" % n * 1000 for n in range(50)]


@pytest.mark.needs("disk quota")
async def test_the_disk_quota_holds(any_backend: Backend) -> None:
    async with await any_backend.create(SandboxSpec(Limits(disk=8 * MiB))) as sandbox:
        with pytest.raises(LimitExceeded) as error:
            await sandbox.write("big", bytes(16 * MiB))
        assert error.value.resource == "disk"
        assert (await sandbox.exec("head -c 16777216 /dev/zero > big")).exit_code != 0
        await sandbox.delete("big")
        await sandbox.write("small", bytes(MiB))
        assert (await sandbox.stat("small")).size == MiB
