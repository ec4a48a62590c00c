"""The contract of every backend, last part: commands of other users than the agent."""

from __future__ import annotations

import pytest

from turnwise.sandbox import Backend, Sandbox, SandboxSpec, UserUnsupported

from .conftest import AVAILABLE

pytestmark = pytest.mark.asyncio(loop_scope="session")

STATUS = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status"
OVER_USERS = "00000000000000fb"
"""To change owners and ids, to pass by the bits of a mode, to end processes: 0, 1 and 3 to 7."""


def status(capabilities: str) -> bytes:
    return f"CapEff:\t{capabilities}\nCapBnd:\t{capabilities}\nNoNewPrivs:\t1\nSeccomp:\t2\n".encode()


async def add(sandbox: Sandbox, name: str, number: int) -> None:
    line = f"{name}:x:{number}:{number}::/home/{name}:/bin/sh"
    script = f"echo {line} >>/etc/passwd && mkdir -p /home/{name} && chown {number}:{number} /home/{name}"
    result = await sandbox.exec(script, user="root")
    assert result.exit_code == 0, result


async def test_a_backend_without_other_users_says_so(sandbox: Sandbox, any_backend: Backend) -> None:
    if "other users than the agent" in AVAILABLE[any_backend.name].lost:
        for user in ("root", "nobody", "0"):
            with pytest.raises(UserUnsupported, match=f"user: {user!r}"):
                await sandbox.exec("id", user=user)
    else:
        assert (await sandbox.exec("id", user="nobody")).exit_code == 0
    assert (await sandbox.exec("echo on")).stdout == b"on\n"


@pytest.mark.needs("other users")
async def test_root_does_as_it_likes_with_users_and_files_and_nothing_else(sandbox: Sandbox) -> None:
    await add(sandbox, "alice", 1000)
    assert (await sandbox.exec("id -un; echo $HOME; cd; pwd", user="alice")).stdout == (
        b"alice\n/home/alice\n/home/alice\n"
    )
    assert (
        await sandbox.exec("id -u; id -g; echo $HOME", user="1000")
    ).stdout == b"1000\n1000\n/home/alice\n"
    assert (await sandbox.exec(STATUS, user="root")).stdout == status(OVER_USERS)
    for forbidden in (
        "mount -t tmpfs none /tmp",
        "unshare -m true",
        "mknod d c 1 3",
        "chroot / true",
        "hostname x",
    ):
        assert (await sandbox.exec(forbidden, user="root")).exit_code != 0, forbidden


@pytest.mark.needs("other users")
async def test_the_agent_and_others_have_no_capability(sandbox: Sandbox) -> None:
    await add(sandbox, "alice", 1000)
    for user in (None, "alice", "nobody"):
        assert (await sandbox.exec(STATUS, user=user)).stdout == status("0" * 16)


@pytest.mark.needs("other users")
async def test_what_a_user_closes_is_closed_to_all_but_root(sandbox: Sandbox) -> None:
    await add(sandbox, "alice", 1000)
    await add(sandbox, "bob", 1001)
    await sandbox.exec("umask 077; echo mine >~/secret", user="alice")
    for user, code in ((None, 1), ("bob", 1), ("alice", 0), ("root", 0)):
        assert (await sandbox.exec("cat /home/alice/secret", user=user)).exit_code == code, user
    with pytest.raises(PermissionError):
        await sandbox.read("/home/alice/secret")
    assert (await sandbox.exec("echo no >/workspace/file", user="alice")).exit_code != 0
    assert (await sandbox.exec("chown alice /workspace", user="root")).exit_code == 0
    assert (await sandbox.exec("echo yes >file && cat file", user="alice")).stdout == b"yes\n"


@pytest.mark.needs("other users")
async def test_groups_are_those_of_the_sandbox(sandbox: Sandbox) -> None:
    await add(sandbox, "alice", 1000)
    await sandbox.exec(
        "echo staff:x:2000:bob,alice >>/etc/group; echo none:x:2001: >>/etc/group", user="root"
    )
    assert (await sandbox.exec("id -G", user="alice")).stdout == b"1000 2000\n"
    assert (await sandbox.exec("id -G", user="nobody")).stdout == b"65534\n"


@pytest.mark.needs("other users")
@pytest.mark.parametrize("user", ["nonexistent", "", "65000", "70000", "-1", "x:y", "resident"])
async def test_who_is_nobody_is_a_command_that_failed(sandbox: Sandbox, user: str) -> None:
    await sandbox.exec("echo resident:x:65000:65000::/: >>/etc/passwd; echo torn:x >>/etc/passwd")
    result = await sandbox.exec("id", user=user)
    assert (result.exit_code, result.stdout) == (126, b"")
    assert repr(user) in result.stderr.decode()


@pytest.mark.needs("other users")
async def test_whom_the_agent_makes_root_has_no_capability(sandbox: Sandbox) -> None:
    await sandbox.exec("echo mallory:x:0:0::/root:/bin/sh >>/etc/passwd")
    assert (await sandbox.exec("id -u", user="mallory")).stdout == b"0\n"
    assert (await sandbox.exec(STATUS, user="mallory")).stdout == status("0" * 16)


@pytest.mark.needs("other users")
async def test_the_callers_home_stands(sandbox: Sandbox) -> None:
    assert (await sandbox.exec("echo $HOME", user="nobody", env={"HOME": "/tmp"})).stdout == b"/tmp\n"


@pytest.mark.needs("other users")
async def test_processes_of_other_users_end_too(sandbox: Sandbox) -> None:
    result = await sandbox.exec("sleep 1000 & sleep 1000", user="nobody", timeout=0.2)
    assert result.timed_out
    daemon = "import os, time\nif os.fork() == 0: os.setsid(); time.sleep(1000)"
    assert (await sandbox.exec(["python3", "-c", daemon], user="nobody")).exit_code == 0
    assert (await sandbox.exec("ls /proc | grep -c '^[0-9]'", user="root")).stdout.strip() <= b"5"


@pytest.mark.needs("other users")
async def test_users_and_their_files_are_in_a_snapshot(sandbox: Sandbox, any_backend: Backend) -> None:
    await add(sandbox, "alice", 1000)
    await sandbox.exec("umask 077; echo mine >~/secret", user="alice")
    snapshot = await sandbox.snapshot()
    async with await any_backend.fork(snapshot) as fork:
        assert (await fork.exec("cat ~/secret; stat -c %U ~/secret", user="alice")).stdout == b"mine\nalice\n"
        assert (await fork.exec("cat /home/alice/secret")).exit_code == 1
    await any_backend.drop(snapshot)
    async with await any_backend.create(SandboxSpec()) as other:
        assert (await other.exec("id", user="alice")).exit_code == 126
