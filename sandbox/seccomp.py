"""The system-call filter of agent code, assembled here as classic BPF: no library is needed.

The kernel runs the program before every system call, on ``struct seccomp_data {int nr; u32 arch;
u64 ip; u64 args[6]}``. The filter is a list of exceptions to "allowed", as container engines have
it, because agent code runs any toolchain; isolation rests on namespaces and on having no
capability, and the filter closes what those leave open: new namespaces (a user namespace gives all
capabilities back, and with them most of the kernel's attack surface), other processes' memory,
state that lives outside the namespaces (keyrings), and interfaces with a bad record (bpf, io_uring).

Every test jumps over one ``return`` at most, so the eight-bit jump offsets of classic BPF never
matter. The kernel caches which calls are always allowed, so the length of the list costs nothing.

Calls made for another architecture (``int 0x80`` on x86-64, where the numbers mean other calls) kill
the process; x32 calls fail with ENOSYS, as on a kernel without x32.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct

# name: (x86-64, arm64); None where the architecture has no such call.
SYSCALLS: dict[str, tuple[int | None, int | None]] = {
    # namespaces, mounts, roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    # interfaces with a bad record
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "modify_ldt": (154, None),
    "personality": (135, 92),
    "fanotify_init": (300, 262),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
    "set_mempolicy_home_node": (450, 450),
    "landlock_create_ruleset": (444, 444),
    # state outside the namespaces
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "lookup_dcookie": (212, 18),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "settimeofday": (164, 170),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
}
# Calls with a rule of their own, below.
CLONE3, CLONE, IOCTL, SOCKET = (435, 435), (56, 220), (16, 29), (41, 198)

ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH_*
X32_BIT = 0x40000000
NAMESPACE_FLAGS = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
NUMBER, ARCH = 0, 4
ALLOW, KILL_PROCESS = 0x7FFF0000, 0x80000000

Instruction = tuple[int, int, int, int]
"""Operation, jump if true, jump if false (both relative), constant."""


def _argument(n: int) -> int:
    """The offset of the low half of argument n; every value tested here fits in it (little endian)."""
    return 16 + 8 * n


def _fail(error: int) -> Instruction:
    return (RETURN, 0, 0, 0x00050000 | error)


def _unless(test: int, value: int, verdict: Instruction) -> list[Instruction]:
    """``verdict`` when the test on the accumulator holds, else go on behind it."""
    return [(test, 0, 1, value), verdict]


def _call(number: int, rules: list[Instruction]) -> list[Instruction]:
    """``rules``, which must end in a return, for one system call."""
    return [(EQUAL, 0, len(rules), number), *rules]


def _instructions(column: int, arch: int) -> list[Instruction]:
    allow = (RETURN, 0, 0, ALLOW)
    program = [(LOAD, 0, 0, ARCH), (EQUAL, 1, 0, arch), (RETURN, 0, 0, KILL_PROCESS), (LOAD, 0, 0, NUMBER)]
    if column == 0:
        program += _unless(AT_LEAST, X32_BIT, _fail(errno.ENOSYS))
    for numbers in SYSCALLS.values():
        number = numbers[column]
        if number is not None:
            program += _unless(EQUAL, number, _fail(errno.EPERM))
    # A filter cannot see clone3's flags (they are behind a pointer): libc falls back to clone.
    program += _unless(EQUAL, CLONE3[column], _fail(errno.ENOSYS))
    program += _call(
        CLONE[column],
        [(LOAD, 0, 0, _argument(0)), *_unless(ANY_BIT, NAMESPACE_FLAGS, _fail(errno.EPERM)), allow],
    )
    # Typing into the terminal of whoever reads the output.
    terminal = [(LOAD, 0, 0, _argument(1))]
    for request in (TIOCSTI, TIOCLINUX):
        terminal += _unless(EQUAL, request, _fail(errno.EPERM))
    program += _call(IOCTL[column], [*terminal, allow])
    families = [(LOAD, 0, 0, _argument(0))]
    for family in (AF_UNIX, AF_INET, AF_INET6):
        families += _unless(EQUAL, family, allow)
    refuse = _fail(errno.EAFNOSUPPORT)
    # Of netlink only NETLINK_ROUTE (protocol 0), by which libc lists the interfaces.
    families += [
        (EQUAL, 1, 0, AF_NETLINK),
        refuse,
        (LOAD, 0, 0, _argument(2)),
        (EQUAL, 0, 1, 0),
        allow,
        refuse,
    ]
    program += _call(SOCKET[column], families)
    return [*program, allow]


@functools.cache
def program(machine: str | None = None) -> bytes:
    """The filter as an array of ``struct sock_filter``, for a machine as ``uname -m`` names it.

    Raises ``OSError`` (ENOSYS) for a machine without a table here: agent code never runs unfiltered.
    """
    machine = machine or platform.machine()
    if machine not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise OSError(errno.ENOSYS, f"no system-call table for {machine} (there is one for {known})")
    return b"".join(
        struct.pack("HBBI", *instruction) for instruction in _instructions(*ARCHITECTURES[machine])
    )
