"""What the Linux kernel offers to confine a process, called with ctypes: namespaces, landlock, seccomp, capabilities.

Every function acts on the calling process and raises OSError where the machine does not allow it.

Numbers of Linux system calls: the tables of `syscalls.toml`, by name, on x86_64 and aarch64 (None: not there).
"""

import ctypes
import errno
import os
import platform
import struct
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of a table, AUDIT_ARCH of seccomp
_TABLES: dict[str, dict[str, list[int]]] = tomllib.loads(Path(__file__).with_name("syscalls.toml").read_text("utf-8"))
ALLOWED, CONDITIONAL, SETUP = (
    {name: (own[0], own[1] if len(own) > 1 else None) for name, own in _TABLES[part].items()}
    for part in ("allowed", "conditional", "setup")
)


NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
CLONE_THREAD, CLONE_NEW = 0x10000, 0x7E020080  # all CLONE_NEW* flags of clone
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2
# statvfs's flags that a mount inside a user namespace must keep, and their names for mount
KEPT = {2: MS_NOSUID, 4: MS_NODEV, 8: MS_NOEXEC, 1024: 1024, 2048: 2048, 4096: 1 << 21}
LANDLOCK_ENOUGH = 3  # the first version that covers truncation

_column, _audit = MACHINES.get(platform.machine(), (None, 0))
_libc: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
_CAPABILITIES, _NONE = struct.pack("=Ii", 0x20080522, 0), bytes(24)


def supported() -> bool:
    """Whether the system calls of this machine are known."""
    return _column is not None and hasattr(os, "fork") and platform.system() == "Linux"


def call(name: str, *arguments: object) -> int:
    """A system call of `SETUP` by its name. Raises OSError."""
    if _column is None:
        raise OSError(errno.ENOSYS, f"system calls of {platform.machine()} are not known")
    # every argument fills a register: ctypes would pass an int as 32 bits
    full = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = _libc.syscall(ctypes.c_long(SETUP[name][_column] or 0), *full)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def die_with_parent() -> None:
    """Have this process killed when the thread that made it ends. A change of user id undoes it."""
    call("prctl", 1, 9, 0, 0, 0)


def no_new_privileges() -> None:
    """Never get rights by executing a program: seccomp and landlock need that promise. Children inherit it."""
    call("prctl", 38, 1, 0, 0, 0)


def drop_capabilities() -> None:
    """Give up every capability."""
    call("capset", _CAPABILITIES, _NONE)


# --- namespaces and mounts -------------------------------------------------------------------------------------------


def enter_namespaces(*, user: bool) -> None:
    """New pid (for children), net, ipc, uts and mount namespaces; with `user` in a new user namespace, as nobody."""
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", NEWPID | NEWNET | NEWIPC | NEWUTS | NEWNS | (NEWUSER if user else 0))
    if user:
        for name, text in (("setgroups", "deny"), ("uid_map", f"65534 {uid} 1"), ("gid_map", f"65534 {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def mount_work(folder: str, size: int, inodes: int) -> None:
    """An empty file system in memory."""
    options = f"size={size},nr_inodes={inodes},mode=777".encode()
    call("mount", b"tmpfs", folder.encode(), b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def unmount(folder: str) -> None:
    call("umount2", folder.encode(), MNT_DETACH)


def private_root(readable: Iterable[str], work: str) -> None:
    """Replace the root of this mount namespace by one with `readable` only, read-only, and an empty folder `work`."""
    sources = [path for path in dict.fromkeys(readable) if os.path.lexists(path)]
    stage = next(p for p in ("/sys", "/proc", "/mnt", "/tmp") if os.path.isdir(p) and not _holds(p, sources))
    call("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    call("mount", b"tmpfs", stage.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"size=1m,nr_inodes=1000,mode=755")
    os.umask(0o022)
    for path in sorted(sources):
        target = stage + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        elif not os.path.lexists(target):
            _bind(path, target)
    os.makedirs(stage + work, exist_ok=True)
    os.chdir(stage)
    call("pivot_root", b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    call("mount", None, b"/", None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, None)


def _holds(folder: str, paths: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for path in paths)


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    call("mount", path.encode(), target.encode(), None, MS_BIND | MS_REC, None)
    if os.path.isdir(path):  # a device is written to
        kept = sum(flag for known, flag in KEPT.items() if os.statvfs(target).f_flag & known)
        call("mount", None, target.encode(), None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept | MS_NOSUID | MS_NODEV, None)


# --- landlock --------------------------------------------------------------------------------------------------------

_READ, _FILE = (1 << 2) | (1 << 3), (1 << 1) | (1 << 2) | (1 << 14)


def landlock_version() -> int:
    """0 where the kernel has none."""
    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def landlock_rules(readable: Iterable[str], writable: Iterable[str]) -> int:
    """A descriptor of rules for `landlock`: read these, do anything but execute in those, nothing elsewhere, no TCP."""
    version = landlock_version()
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | ((1 << 15) if version >= 5 else 0)
    attributes = struct.pack("=QQQ", handled, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = call("landlock_create_ruleset", attributes, size, 0)
    rights = [(path, _READ) for path in readable] + [(path, handled & ~1 & ~(1 << 15)) for path in writable]
    for path, right in rights:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue
        if not os.path.isdir(path):
            right &= _FILE
        call("landlock_add_rule", rules, 1, struct.pack("=Qi", right & handled, place), 0)
        os.close(place)
    return rules


def landlock(rules: int) -> None:
    """Obey these rules from now on."""
    call("landlock_restrict_self", rules, 0)


# --- seccomp ---------------------------------------------------------------------------------------------------------

_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_OWN = 0x7EADBEEF  # in its place the process's own id is written
# The values that the argument of a call may have: (call, argument, values).
_VALUES: tuple[tuple[str, int, Sequence[int]], ...] = (
    ("fcntl", 1, (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1032)),  # not the ones that send signals
    (
        "ioctl",
        1,
        (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451),
    ),  # kind of file, bytes waiting, blocking
    ("kill", 0, (_OWN,)),
    ("tgkill", 0, (_OWN,)),
    ("prlimit64", 0, (0, _OWN)),
    ("socketpair", 0, (1,)),  # AF_UNIX: asyncio wakes itself with a pair
)


def _instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value & 0xFFFFFFFF)


def _load(offset: int) -> bytes:
    return _instruction(0x20, 0, 0, offset)


def _answer(value: int) -> bytes:
    return _instruction(0x06, 0, 0, value)


_REFUSE = _answer(_ERROR | errno.EPERM)


def _one_of(argument: int, values: Sequence[int]) -> list[bytes]:
    """Allow the values of the low half of an argument, which is all that these calls look at; refuse others."""
    tests = [_instruction(0x15, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [_load(16 + 8 * argument), *tests, _REFUSE, _answer(_ALLOW)]


def _answers() -> dict[int, list[bytes]]:
    """Instructions that answer a call, by its number; calls that are not here are refused."""
    bodies = {name: [_answer(_ALLOW)] for name in ALLOWED}
    # threads only, in the same namespaces; clone3 and openat2 keep their flags in memory, where a filter cannot look
    bodies["clone"] = [
        _load(16), _instruction(0x45, 2, 0, CLONE_NEW), _instruction(0x45, 0, 1, CLONE_THREAD), _answer(_ALLOW),
        _REFUSE,
    ]  # fmt: skip
    bodies["clone3"] = bodies["openat2"] = [_answer(_ERROR | errno.ENOSYS)]
    # an address to send to must be absent: both halves of the pointer are zero
    bodies["sendto"] = [
        _load(48), _instruction(0x15, 0, 3, 0), _load(52), _instruction(0x15, 0, 1, 0), _answer(_ALLOW), _REFUSE,
    ]  # fmt: skip
    bodies |= {name: _one_of(argument, values) for name, argument, values in _VALUES}
    numbers = {name: pair[_column or 0] for name, pair in (ALLOWED | CONDITIONAL).items()}
    return {number: bodies[name] for name, number in numbers.items() if number is not None}


def _search(steps: Sequence[tuple[int, list[bytes]]]) -> list[bytes]:
    """A binary search for the last step at or below the number; when it is loaded, the kernel tries every call."""
    if len(steps) == 1:
        return steps[0][1]
    middle = len(steps) // 2
    below, above = _search(steps[:middle]), _search(steps[middle:])
    return [_instruction(0x35, len(below), 0, steps[middle][0]), *below, *above]


def _filter() -> bytes:
    answers, steps = _answers(), [(0, [_REFUSE])]
    for number in sorted(answers | {n + 1: [] for n in answers}):
        body = answers.get(number, [_REFUSE])
        if body != steps[-1][1]:
            steps.append((number, body))
    program = [_load(4), _instruction(0x15, 1, 0, _audit), _answer(_KILL), _load(0)]
    if _column == 0:
        program += [_instruction(0x35, 0, 1, 0x40000000), _answer(_KILL)]  # the x32 numbering of the same calls
    return b"".join([*program, *_search(steps)])


# A forked child fills in its id and has nothing more to make: each page that it touches costs it a microsecond.
_FILTER = bytearray(_filter() if supported() else b"")
_PLACES = [at for at in range(0, len(_FILTER), 4) if _FILTER[at : at + 4] == struct.pack("=I", _OWN)]
_PROGRAM = struct.pack(
    "HxxxxxxQ",
    len(_FILTER) // 8,
    ctypes.addressof((ctypes.c_char * len(_FILTER)).from_buffer(_FILTER)) if _FILTER else 0,
)


def seccomp() -> None:
    """From now on allow only the system calls of `_syscalls.py`; others fail with EPERM. Needs `no_new_privileges`."""
    for place in _PLACES:
        struct.pack_into("=I", _FILTER, place, os.getpid())
    call("seccomp", 1, 0, _PROGRAM)
