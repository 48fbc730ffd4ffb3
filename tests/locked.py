"""What the tests of the lock run in processes of their own: each locks itself, then tries what its command line names.

Behind the lock no module can be found any more, so all are imported at the top; the heavy ones only where honest
models are tried.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import mmap
import os
import pickle
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from webapp import lock
from webapp.lock import Limits

MIB = 1024**2
# Numbers on x86_64 and aarch64 of what no library function calls as it is.
NUMBERS = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "execve": (59, 221),
    "getppid": (110, 173),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "openat": (257, 56),
    "openat2": (437, 437),
    "pidfd_open": (434, 434),
    "process_vm_readv": (310, 270),
    "ptrace": (101, 117),
    "seccomp": (317, 277),
    "tgkill": (234, 131),
    "unshare": (272, 97),
}
COLUMN = ("x86_64", "aarch64").index(platform.machine())
LIBC = ctypes.CDLL(None, use_errno=True)
LAST_NUMBER = 500
# What the kernel's own probes put into a program on x86_64: no filter is asked, and no other caller survives it.
KERNELS_OWN = {335, 336}
PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 4, 38
# The signal that only asks whether one may be sent: a broken lock must not end the tests, or the machine.
ASK = 0
NEW_PROCESS = int(signal.SIGCHLD)
READ_WRITE_EXECUTE = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC


def kernel(name: str, *arguments: int) -> int:
    """Call the kernel past all libraries."""
    return number(NUMBERS[name][COLUMN], *arguments)


def number(called: int, *arguments: int) -> int:
    """Call the kernel by number; what it refuses is raised."""
    return checked(LIBC.syscall(ctypes.c_long(called), *map(ctypes.c_ulong, arguments)))


def checked(result: int) -> int:
    """Raise what a function of the C library refused."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def refused(attempt: Callable[[], object]) -> None:
    """Insist that the kernel refuses; where it does not, this process ends before it tries more."""
    try:
        attempt()
    except PermissionError:
        return
    sys.exit("the kernel did it")


def forked(made: int) -> None:
    """End a new process at once; it must not go on with the tests."""
    if made == 0:
        os._exit(0)


def shell(command: str) -> None:
    """Run a command, as the usual hostile pickle does."""
    if os.system(command) != 0:
        raise PermissionError(errno.EPERM, "the shell did not start")


def executable_memory(*, afterwards: bool) -> None:
    """Make memory that can be written and run, at once or by changing what it is for."""
    first = mmap.PROT_READ if afterwards else READ_WRITE_EXECUTE
    LIBC.mmap.restype = ctypes.c_void_p
    place = LIBC.mmap(None, ctypes.c_size_t(4096), first, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, ctypes.c_long(0))
    if place == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "no memory to run")
    checked(LIBC.mprotect(ctypes.c_void_p(place), ctypes.c_size_t(4096), READ_WRITE_EXECUTE))


def threads() -> None:
    """Start threads that never end."""
    for _ in range(1000):
        threading.Thread(target=threading.Event().wait, daemon=True).start()


def every_other_call() -> None:
    """Try every number that is not in the table, with arguments that mean nothing."""
    # Some of them would end more than this process, were they not refused.
    refused(lambda: kernel("getppid"))
    known = {numbers[COLUMN] for numbers in (lock.CALLS | lock.MEMORY_CALLS).values()}
    for called in range(LAST_NUMBER):
        if called not in known | KERNELS_OWN:
            refused(partial(number, called, *[2**64 - 1] * 6))
    raise PermissionError(errno.EPERM, "every number")


def written(mebibytes: int) -> None:
    """Write into a file that was open before the lock."""
    for _ in range(mebibytes):
        os.write(int(sys.argv[4]), bytes(MIB))


def limits_raised() -> None:
    """Widen the limit of CPU time."""
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# Each is given a folder with the secret in it.
ATTACKS: dict[str, Callable[[Path], object]] = {
    "os.system": lambda folder: shell(f"touch {folder}/marker"),
    "os.popen": lambda folder: os.popen(f"touch {folder}/marker").read(),
    "subprocess": lambda folder: subprocess.run(["/bin/touch", str(folder / "marker")], check=True),
    "fork": lambda _: forked(os.fork()),
    "forkpty": lambda _: forked(os.forkpty()[0]),
    "clone": lambda _: forked(kernel("clone", NEW_PROCESS, 0, 0, 0, 0)),
    "clone3": lambda _: forked(kernel("clone3", 0, 0)),
    "thread bomb": lambda _: threads(),
    "execve": lambda _: os.execve("/bin/true", ["true"], {}),
    "execve by number": lambda _: kernel("execve", 0, 0, 0),
    "posix_spawn": lambda _: os.posix_spawn("/bin/true", ["true"], {}),
    "TCP": lambda _: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
    "UDP": lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "Unix socket": lambda _: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM),
    "socket pair": lambda _: socket.socketpair(),
    "pipe": lambda _: os.pipe(),
    "read the secret": lambda folder: (folder / "secret").read_text(),
    "open by openat2": lambda _: kernel("openat2", 0, 0, 0, 0),
    "look at the secret": lambda folder: (folder / "secret").stat(),
    "list a folder": lambda folder: list(folder.iterdir()),
    "write a file": lambda folder: (folder / "marker").write_text("here"),
    "make a folder": lambda folder: (folder / "marker").mkdir(),
    "link": lambda folder: (folder / "marker").symlink_to("/etc"),
    "unlink": lambda folder: (folder / "secret").unlink(),
    "rename": lambda folder: (folder / "secret").rename(folder / "marker"),
    "chmod": lambda folder: (folder / "secret").chmod(0o777),
    "chdir": lambda _: os.chdir("/tmp"),
    "chroot": os.chroot,
    "environment of the first process": lambda _: Path("/proc/1/environ").read_bytes(),
    "own environment": lambda _: Path("/proc/self/environ").read_bytes(),
    "memory of the parent": lambda _: Path(f"/proc/{os.getpid()}/mem").read_bytes(),
    "memory of another process": lambda _: kernel("process_vm_readv", 1, 0, 0, 0, 0, 0),
    "kill the parent": lambda _: os.kill(int(sys.argv[3]), ASK),
    "kill itself": lambda _: os.kill(os.getpid(), signal.SIGTERM),
    "kill its thread": lambda _: kernel("tgkill", os.getpid(), os.getpid(), signal.SIGTERM),
    "kill everything": lambda _: os.kill(-1, ASK),
    "hold a process": lambda _: kernel("pidfd_open", 1, 0),
    "ptrace": lambda _: kernel("ptrace", 0, 0, 0, 0),
    "memfd": lambda _: os.execve(os.memfd_create("code"), ["code"], {}),
    "memory that can be run": lambda _: executable_memory(afterwards=False),
    "memory made to run": lambda _: executable_memory(afterwards=True),
    "io_uring": lambda _: kernel("io_uring_setup", 1, 0),
    "new namespaces": lambda _: kernel("unshare", 0x10000000),
    "another filter": lambda _: kernel("seccomp", 1, 0, 0),
    "prctl": lambda _: checked(LIBC.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)),
    "new privileges": lambda _: checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0)),
    "wider limits": lambda _: limits_raised(),
    "priority": lambda _: os.setpriority(os.PRIO_PROCESS, 0, 0),
    "scheduling": lambda _: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
    "another user": lambda _: os.setuid(0),
    "3 GiB of memory": lambda _: bytearray(3 * lock.GIB),
    "100 MB into a file": lambda _: written(100),
    "every other call": lambda _: every_other_call(),
}


# What Python makes of a refusal by the kernel.
OTHER_ERRORS = {
    "3 GiB of memory": "MemoryError",
    "100 MB into a file": "OSError",
    "thread bomb": "RuntimeError",
    "wider limits": "ValueError",
}


def attack(folder: Path) -> None:
    """Try everything, one after the other, and say what became of each."""
    lock.step_back()
    lock.close(Limits(memory_bytes=2 * lock.GIB, written_bytes=MIB))
    for name, attempt in ATTACKS.items():
        try:
            outcome = f"succeeded: {attempt(folder)!r}"
        except (OSError, MemoryError, RuntimeError, ValueError) as error:
            outcome = type(error).__name__
        print(json.dumps([name, outcome]), flush=True)


def spin() -> None:
    """Compute for ever, once the parent has looked."""
    lock.step_back()
    lock.close(Limits(cpu_seconds=1))
    print("locked", flush=True)
    sys.stdin.readline()
    while True:
        pass


def one_wall(name: str, folder: Path) -> None:
    """Stand behind one wall alone."""
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if name == "landlock":
        lock._close_landlock(lock.support().landlock)
    else:
        lock._close_seccomp()
    for attempt in (
        ATTACKS["read the secret"],
        ATTACKS["write a file"],
        ATTACKS["unlink"],
        ATTACKS["kill the parent"],
        lambda _: connection.connect(("127.0.0.1", 9)),
    ):
        refused(partial(attempt, folder))


def on_older_kernel(lacking: str) -> None:
    """Lock where the kernel lacks a wall: a filter before the lock answers as such a kernel does."""
    at_first_argument, prctl = 16, (157, 167)[COLUMN]
    judged = {
        "landlock": [(lock.AT_NUMBER, lock.LANDLOCK_CREATE_RULESET, errno.ENOSYS)],
        "seccomp": [(lock.AT_NUMBER, prctl, None), (at_first_argument, lock.PR_SET_SECCOMP, errno.EINVAL)],
    }[lacking]
    steps = []
    for left, (place, value, _) in zip(range(len(judged), 0, -1), judged, strict=True):
        steps += [lock._step(lock.LOAD, place), lock._step(lock.JUMP_IF_EQUAL, value, 0, 2 * left - 1)]
    steps += [lock._step(lock.RETURN, 0x00050000 | (judged[-1][2] or 0)), lock._step(lock.RETURN, lock.ALLOW)]
    program = lock._Program(len(steps), b"".join(steps))
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    checked(lock._prctl(lock.PR_SET_SECCOMP, lock.SECCOMP_MODE_FILTER, ctypes.addressof(program)))
    there = lock.support()
    print(json.dumps([there.landlock > 0, there.seccomp, there.complete, there.missing]), flush=True)
    lock.close(Limits())
    refused(Path("/etc/passwd").read_text)


def with_a_thread() -> None:
    """Lock a process with two threads."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    try:
        lock.close(Limits())
    except OSError as error:
        print(error)


def honest(reference: int) -> None:
    """Load every model from each format, predict, and read a CSV file; answer with what came out."""
    # Here, since nothing else needs them and their import takes seconds.
    import bz2  # noqa: PLC0415
    import gzip  # noqa: PLC0415
    import lzma  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    import pandas as pd  # noqa: PLC0415
    import skops.io  # noqa: PLC0415
    from joblib.numpy_pickle import NumpyUnpickler  # noqa: PLC0415

    from webapp import artifacts  # noqa: PLC0415
    from webapp.intake import warm  # noqa: PLC0415

    openers: dict[str, Callable[[bytes], bytes]] = {
        "plain": bytes,
        "zlib": zlib.decompress,
        "gzip": gzip.decompress,
        "bz2": bz2.decompress,
        "xz": lzma.decompress,
        "lzma": lzma.decompress,
    }
    warm.up()
    lock.close(Limits())
    with os.fdopen(reference, "rb") as file:
        frame = pd.read_csv(file)
    answer: dict[str, Any] = {"reference": frame.to_dict("list"), "predicted": {}}
    for name, (way, content, rows) in pickle.load(sys.stdin.buffer).items():
        loaded = NumpyUnpickler("", io.BytesIO(openers[way](content)), ensure_native_byte_order=True).load()
        again = artifacts.load(skops.io.dumps(loaded))
        answer["predicted"][name] = [loaded.predict(rows).tolist(), again.predict(rows).tolist()]
    print(json.dumps(answer))


def main() -> None:
    """Do what the command line says."""
    act, folder = sys.argv[1], Path(sys.argv[2])
    {
        "attack": lambda: attack(folder),
        "spin": spin,
        "landlock": lambda: one_wall("landlock", folder),
        "seccomp": lambda: one_wall("seccomp", folder),
        "no landlock": lambda: on_older_kernel("landlock"),
        "no seccomp": lambda: on_older_kernel("seccomp"),
        "thread": with_a_thread,
        "honest": lambda: honest(int(sys.argv[4])),
    }[act]()


if __name__ == "__main__":
    main()
