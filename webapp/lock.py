"""Locks the present process for good, behind limits, Landlock and seccomp, and gives it the lowest priority.

What is closed cannot be opened again, not even by native code. The process keeps its memory and the descriptors it
has; it can open, start, signal and connect nothing. So everything is imported before (`warm.up`), by one thread.
"""

from __future__ import annotations

import ctypes
import math
import os
import platform
import resource
import struct
from contextlib import suppress
from dataclasses import dataclass
from errno import EFAULT, EPERM
from functools import cache
from pathlib import Path

GIB = 1024**3

# Numbers of the kernel's interface, from its headers linux/prctl.h, landlock.h, seccomp.h, bpf_common.h, audit.h.
PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
KILL_PROCESS = 0x80000000
REFUSE = 0x00050000 | EPERM
ALLOW = 0x7FFF0000
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
# Where a filter finds what it judges: struct seccomp_data; of arguments the lower half, which comes first.
AT_NUMBER, AT_ARCHITECTURE, AT_THIRD_ARGUMENT = 0, 4, 32
# Memory may be readable and writable. Anything beyond, executable above all, is refused.
NOT_READ_OR_WRITE = 0xFFFFFFFF & ~0b11
IOPRIO_WHO_PROCESS, IOPRIO_IDLE = 1, 3 << 13

# The calls that computing needs, with their numbers on x86_64 and aarch64; every other call is refused, also each
# that a later kernel brings. Nothing here takes a path, an address of the network or another process.
CALLS = {
    "brk": (12, 214),
    "clock_gettime": (228, 113),
    "close": (3, 57),
    "exit_group": (231, 94),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getpid": (39, 172),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "gettimeofday": (96, 169),
    "lseek": (8, 62),
    "madvise": (28, 233),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "pread64": (17, 67),
    "read": (0, 63),
    "restart_syscall": (219, 128),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "sigaltstack": (131, 132),
    "write": (1, 64),
}
# Their third argument is what the memory may be used for.
MEMORY_CALLS = {"mmap": (9, 222), "mprotect": (10, 226)}


@dataclass(frozen=True, slots=True)
class Machine:
    """An architecture that the filter is known for."""

    # How the kernel names it (AUDIT_ARCH_*). A process can also call it in the way of another one: i386 on x86_64.
    audit: int
    # Which of the numbers above are its own.
    column: int
    ioprio_set: int


MACHINES = {"x86_64": Machine(0xC000003E, 0, 251), "aarch64": Machine(0xC00000B7, 1, 30)}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a locked process may use; time counts from the lock on."""

    memory_bytes: int = 6 * GIB
    cpu_seconds: int = 300
    written_bytes: int = 4 * GIB
    open_files: int = 256


@dataclass(frozen=True, slots=True)
class Support:
    """Which walls this machine has."""

    # The version of the kernel's interface, 0 without Landlock.
    landlock: int
    seccomp: bool
    # A sentence for each wall that is not there.
    missing: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether a file that may run code when it is opened can be opened behind these walls."""
        return not self.missing


def support() -> Support:
    """Look at what the kernel offers; nothing is changed by it."""
    abi, filters, machine = _landlock_abi(), _has_filters(), _machine()
    missing = []
    if not abi:
        missing.append(
            "The kernel has no Landlock (Linux 5.13 with landlock among its lsm= modules), or a sandbox hides it."
        )
    if not filters:
        missing.append("The kernel has no seccomp filters (CONFIG_SECCOMP_FILTER), or a sandbox hides them.")
    if machine is None:
        missing.append(f"The filter of system calls is not known for {platform.system()} on {platform.machine()}.")
    return Support(abi, filters and machine is not None, tuple(missing))


def close(limits: Limits) -> None:
    """Lock this process. Walls that the kernel lacks are left out: `support` tells whether that is enough."""
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        raise OSError(EPERM, "The lock holds one thread, and there are more; OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1")
    there = support()
    _limit(limits)
    _check(_prctl(PR_SET_NO_NEW_PRIVS, 1), "No new privileges")
    if there.landlock:
        _close_landlock(there.landlock)
    if there.seccomp:
        _close_seccomp()


def step_back() -> None:
    """Give this process the lowest priority: predictions keep the machine. Behind the lock it cannot be taken back."""
    os.nice(19)
    # A courtesy and no wall: where a container forbids it, it is left.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if machine := _machine():
        _syscall(machine.ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE)


def _limit(limits: Limits) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    for what, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime) + limits.cpu_seconds),
        (resource.RLIMIT_FSIZE, limits.written_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(what)
        # Around us may be a narrower one already, which only root could widen.
        narrower = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (narrower, narrower))


# --- Landlock ---------------------------------------------------------------------------------------------


def _landlock_abi() -> int:
    return max(_syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION), 0)


def _close_landlock(abi: int) -> None:
    """Handle every right that the kernel knows, and allow none of them anywhere."""
    ruleset = ruleset_of(abi)
    descriptor = _check(_syscall(LANDLOCK_CREATE_RULESET, ruleset, len(ruleset), 0), "Landlock")
    try:
        _check(_syscall(LANDLOCK_RESTRICT_SELF, descriptor, 0), "Landlock")
    finally:
        os.close(descriptor)


def ruleset_of(abi: int) -> bytes:
    """Give a struct landlock_ruleset_attr as long as this version has it: rights on files, network, scopes."""
    # 13 rights at first; then moving between folders, cutting files, and talking to devices.
    files = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # noqa: PLR2004 - the versions that brought them
    whole = struct.pack("=QQQ", (1 << files) - 1, 0b11, 0b11)
    return whole[: 24 if abi >= 6 else 16 if abi >= 4 else 8]  # noqa: PLR2004 - as above


# --- seccomp ----------------------------------------------------------------------------------------------


class _Program(ctypes.Structure):
    """A struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _has_filters() -> bool:
    # A kernel with filters looks for the program, which is not there; one without does not know the mode.
    return _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER) < 0 and ctypes.get_errno() == EFAULT


def _close_seccomp() -> None:
    machine = _machine()
    assert machine is not None
    steps = filter_of(machine)
    program = _Program(len(steps) // 8, steps)
    _check(_prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program)), "The filter of system calls")


def filter_of(machine: Machine) -> bytes:
    """Give the program that judges each system call: the calls above pass, all others fail with EPERM."""
    steps = [
        _step(LOAD, AT_ARCHITECTURE),
        _step(JUMP_IF_EQUAL, machine.audit, 1, 0),
        _step(RETURN, KILL_PROCESS),
        # The x32 calls of x86_64 have numbers of their own (bit 30), which are not in the tables.
        _step(LOAD, AT_NUMBER),
    ]
    for numbers in CALLS.values():
        steps += [_step(JUMP_IF_EQUAL, numbers[machine.column], 0, 1), _step(RETURN, ALLOW)]
    for numbers in MEMORY_CALLS.values():
        steps += [
            _step(JUMP_IF_EQUAL, numbers[machine.column], 0, 4),
            _step(LOAD, AT_THIRD_ARGUMENT),
            _step(JUMP_IF_ANY_BIT, NOT_READ_OR_WRITE, 0, 1),
            _step(RETURN, REFUSE),
            _step(RETURN, ALLOW),
        ]
    return b"".join([*steps, _step(RETURN, REFUSE)])


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """Give a struct sock_filter; a jump skips so many steps when it is true, or else."""
    return struct.pack("=HBBI", code, then, otherwise, value)


# --- the kernel -------------------------------------------------------------------------------------------


def _machine() -> Machine | None:
    return MACHINES.get(platform.machine())


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    words = [ctypes.c_ulong(each) if isinstance(each, int) else ctypes.c_char_p(each) for each in arguments]
    result: int = _libc().syscall(ctypes.c_long(number), *words)
    return result


def _prctl(option: int, *arguments: int) -> int:
    # Always four: some options want zero in those that they do not use.
    words = [*arguments, 0, 0, 0][:4]
    result: int = _libc().prctl(ctypes.c_int(option), *map(ctypes.c_ulong, words))
    return result


def _check(result: int, wall: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{wall} cannot be set: {os.strerror(number)}")
    return result
