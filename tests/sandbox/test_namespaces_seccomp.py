"""The system-call filter, on an interpreter of classic BPF: the same verdicts on every architecture."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.sandbox import seccomp
from turnwise.sandbox.seccomp import ALLOW, ARCHITECTURES, KILL_PROCESS, SYSCALLS

MACHINES = sorted(ARCHITECTURES)
OTHER_CALLS = {"x86_64": [0, 1, 2, 57, 59, 202, 231], "aarch64": [63, 64, 93, 221, 260]}
machines = pytest.mark.parametrize("machine", MACHINES)


def verdict(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """What the kernel does with a call: runs the program on its ``struct seccomp_data``."""
    arch = ARCHITECTURES[machine][1] if arch is None else arch
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * 6)][:6]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    program = list(struct.iter_unpack("HBBI", seccomp.program(machine)))
    accumulator = at = 0
    while True:
        operation, if_true, if_false, constant = program[at]
        at += 1
        if operation == 0x06:
            return int(constant)
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        else:
            tests = {
                0x15: accumulator == constant,
                0x35: accumulator >= constant,
                0x45: accumulator & constant,
            }
            at += if_true if tests[operation] else if_false


def fails(error: int) -> int:
    return 0x00050000 | error


def number(machine: str, call: tuple[int | None, int | None]) -> int:
    found = call[ARCHITECTURES[machine][0]]
    assert found is not None
    return found


@machines
def test_what_agents_never_need_is_refused(machine: str) -> None:
    for call in SYSCALLS.values():
        if call[ARCHITECTURES[machine][0]] is not None:
            assert verdict(machine, number(machine, call)) == fails(errno.EPERM)


@machines
@given(data=st.data())
def test_everything_else_is_allowed(machine: str, data: st.DataObject) -> None:
    column = ARCHITECTURES[machine][0]
    special = {seccomp.CLONE[column], seccomp.CLONE3[column], seccomp.IOCTL[column], seccomp.SOCKET[column]}
    refused = {call[column] for call in SYSCALLS.values()} | special
    chosen = data.draw(
        st.sampled_from(OTHER_CALLS[machine]) | st.integers(0, 600).filter(lambda n: n not in refused)
    )
    arguments = data.draw(st.lists(st.integers(0, 2**64 - 1), max_size=6))
    assert verdict(machine, chosen, *arguments) == ALLOW


@machines
@given(flags=st.integers(0, 2**32 - 1))
def test_clone_makes_no_namespaces(machine: str, flags: int) -> None:
    allowed = not flags & seccomp.NAMESPACE_FLAGS
    expected = ALLOW if allowed else fails(errno.EPERM)
    assert verdict(machine, number(machine, seccomp.CLONE), flags) == expected


@machines
def test_clone3_is_as_if_the_kernel_had_none(machine: str) -> None:
    assert verdict(machine, number(machine, seccomp.CLONE3)) == fails(errno.ENOSYS)


@machines
@given(high=st.integers(0, 2**32 - 1))
def test_a_terminal_cannot_be_typed_into(machine: str, high: int) -> None:
    """Whatever the upper half of the argument says: the kernel reads 32 bits of it."""
    for request, expected in ((0x5412, fails(errno.EPERM)), (0x541C, fails(errno.EPERM)), (0x5413, ALLOW)):
        assert verdict(machine, number(machine, seccomp.IOCTL), 0, high << 32 | request) == expected


@machines
@given(family=st.integers(0, 60), protocol=st.integers(0, 40))
def test_sockets_are_local_or_of_the_internet(machine: str, family: int, protocol: int) -> None:
    allowed = family in (1, 2, 10) or (family == 16 and protocol == 0)
    found = verdict(machine, number(machine, seccomp.SOCKET), family, 2, protocol)
    assert found == (ALLOW if allowed else fails(errno.EAFNOSUPPORT))


@machines
@given(call=st.integers(0, 2**32 - 1), arch=st.integers(0, 2**32 - 1))
def test_a_call_of_another_architecture_kills(machine: str, call: int, arch: int) -> None:
    if arch != ARCHITECTURES[machine][1]:
        assert verdict(machine, call, arch=arch) == KILL_PROCESS


@given(call=st.integers(0, 2**30 - 1))
def test_x32_calls_do_not_exist(call: int) -> None:
    assert verdict("x86_64", call | seccomp.X32_BIT) == fails(errno.ENOSYS)


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64")
