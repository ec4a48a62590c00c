"""Agent code against its sandbox: nothing works, and with each defence taken away something does.

The second half is what makes the first mean anything: an attack script that cannot see a hole
proves nothing by seeing none.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from turnwise.sandbox import ExecResult, Sandbox, SandboxSpec, UserUnsupported
from turnwise.sandbox.namespaces import NamespacesBackend
from turnwise.sandbox.namespaces.backend import Defence

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = os.geteuid() == 0
ATTACK = (Path(__file__).parent / "inside" / "attack.py").read_bytes()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend() -> AsyncIterator[NamespacesBackend]:
    async with NamespacesBackend().running() as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def sandbox(backend: NamespacesBackend) -> AsyncIterator[Sandbox]:
    async with await backend.create(SandboxSpec()) as created:
        yield created


def worked(result: ExecResult) -> set[str]:
    lines = result.stdout.decode().splitlines()
    assert lines[-1:] == ["done"], result
    return set(lines[:-1])


@pytest.mark.parametrize("way", ["exec", "shell"])
async def test_no_attack_works(sandbox: Sandbox, way: str) -> None:
    await sandbox.write("attack.py", ATTACK)
    run = sandbox.exec if way == "exec" else sandbox.shell
    assert worked(await run("python3 attack.py")) == set()


async def test_what_attacks_a_user_of_the_owners_choice_could_do(sandbox: Sandbox) -> None:
    """Root's capabilities are over the sandbox's own ids, of which one is the resident's: it has no use."""
    await sandbox.write("attack.py", ATTACK)
    if not ROOT:  # one id, so one user
        with pytest.raises(UserUnsupported):
            await sandbox.exec("python3 attack.py", user="root")
        return
    assert worked(await sandbox.exec("python3 attack.py", user="nobody")) == set()
    attacks = worked(await sandbox.exec("python3 attack.py", user="root"))
    assert attacks == {"has capabilities", "becomes the resident's user"}


# What each set of defences keeps out, and nothing less than all of the set gone lets in. Defences
# overlap: the nested pid namespace hides the resident altogether, so that it has a user of its own
# shows only without that; and the filter refuses what capabilities would allow.
HOLES: list[tuple[set[Defence], set[str]]] = [
    ({"nested_pid"}, {"sees other processes"}),
    ({"dumpable"}, {"opens another's memory", "enters another's root", "reads another's environment"}),
    ({"dumpable", "seccomp"}, {"may read another's memory", "traces another"}),
    ({"capabilities"}, {"has capabilities"}),
    ({"capabilities", "seccomp"}, {"uncovers /proc", "mounts"}),
    ({"no_new_privs"}, {"may gain privileges"}),
    ({"seccomp"}, {"runs unfiltered", "makes a user namespace", "clones into one by clone3", "stores a key"}),
    ({"network"}, {"sees the host's network"}),
    ({"title"}, {"learns the host's paths"}),
]
if ROOT:  # an ordinary user has one id, which resident and agent share
    HOLES += [
        ({"nested_pid", "resident_uid"}, {"signals another"}),
        ({"capabilities"}, {"becomes the resident's user"}),
    ]


async def attack(without: set[Defence]) -> set[str]:
    async with NamespacesBackend(spares=0, without=frozenset(without)).running() as weak:
        sandbox = await weak.create(SandboxSpec())
        await sandbox.write("attack.py", ATTACK)
        return worked(await sandbox.exec("python3 attack.py"))


@pytest.mark.parametrize(("without", "seen"), HOLES, ids=lambda value: "+".join(sorted(value)))
async def test_each_defence_is_what_keeps_an_attack_out(without: set[Defence], seen: set[str]) -> None:
    assert seen <= await attack(without)
    for put_back in without:
        assert seen.isdisjoint(await attack(without - {put_back}))


async def test_links_do_not_make_the_resident_open_its_own_files(sandbox: Sandbox) -> None:
    targets = ["/proc/self/mem", "/proc/self/fd/3", "/proc/1/environ", "/proc/self/exe", "/dev/zero"]
    for number, target in enumerate(targets):
        await sandbox.exec(["ln", "-s", target, f"link{number}"])
    await sandbox.exec("mkfifo link5; python3 -c \"import socket; socket.socket(1).bind('link6')\"")
    for number in range(7):
        for attempt in (sandbox.read(f"link{number}"), sandbox.write(f"link{number}", b"x")):
            with pytest.raises(PermissionError):
                await asyncio.wait_for(attempt, 60)
    await sandbox.exec("ln -s /proc proc; ln -s /proc/self/root/etc etc")
    assert await sandbox.search("root", "/workspace") == ()
    assert await sandbox.read_tree("/workspace") == {}


async def test_output_that_looks_like_a_reply_is_output(sandbox: Sandbox) -> None:
    forged = "import os; f = b'\\0\\0\\0\\x02\\0\\0\\0\\0{}'; [os.write(n, f) for n in range(1, 20) if n < 3]"
    result = await sandbox.exec(["python3", "-c", forged])
    assert result == ExecResult(0, b"\0\0\0\x02\0\0\0\0{}", b"\0\0\0\x02\0\0\0\0{}")


async def test_a_forged_status_is_not_taken_for_a_later_command(sandbox: Sandbox) -> None:
    """The shell is agent code, and its status pipe can be written to; but not for another command."""
    forge = "for n in $(seq 200); do echo deadbeef 7 > /proc/$$/fd/4; done 2>/dev/null; sleep 0.01"
    await sandbox.shell(f"(while :; do {forge}; done) &")
    for number in range(20):
        assert await sandbox.shell(f"echo {number}; (exit 3)") == ExecResult(3, b"%d\n" % number, b"")
    assert (await sandbox.exec("echo up")).stdout == b"up\n"


async def test_a_shell_that_ends_itself_takes_nothing_with_it(sandbox: Sandbox) -> None:
    assert (await sandbox.shell("kill -9 $$")).exit_code == 137
    assert (await sandbox.shell("exec 3<&- 4>&- 5<&-; echo up")).stdout == b"up\n"
    assert (await sandbox.exec("echo up")).stdout == b"up\n"


async def test_a_pattern_that_never_ends_does_not_hold_the_resident(sandbox: Sandbox) -> None:
    await sandbox.write("text", b"a" * 64 + b"b")
    with pytest.raises(ValueError, match="simpler"):
        await sandbox.search("(a+)+$")
    assert await sandbox.search("ab") != ()


async def test_a_tree_without_end_does_not_hold_the_resident(sandbox: Sandbox) -> None:
    deep = "import os\nfor n in range(400): os.mkdir('d' * 100); os.chdir('d' * 100)"
    assert (await sandbox.exec(["python3", "-c", deep])).exit_code == 0
    for attempt in (sandbox.search("x"), sandbox.read_tree("/workspace"), sandbox.delete("d" * 100)):
        with pytest.raises(OSError, match="too long"):
            await attempt
    assert (await sandbox.exec("rm -rf d*; ls")).stdout == b""


async def first_id(sandbox: Sandbox) -> int:
    fields = (await sandbox.exec("cat /proc/self/uid_map")).stdout.split()
    assert fields[0] == b"0"
    return int(fields[1])


if ROOT:

    async def test_unrelated_sandboxes_share_no_user(backend: NamespacesBackend) -> None:
        """As root: the ids behind the agent's are another range for each lineage, and the same within one."""
        maps = []
        async with NamespacesBackend().running() as other:
            for owner in (backend, backend, other):
                async with await owner.create(SandboxSpec()) as sandbox:
                    maps.append(await first_id(sandbox))
                    fork = await owner.fork(await sandbox.snapshot())
                    assert {await first_id(fork), await first_id(sandbox)} == {maps[-1]}
                    await fork.close()
        # A range is free again only when the last snapshot that stands on it is dropped.
        assert len(set(maps)) == 3
