"""Numbers of Linux system calls on x86_64 and aarch64 (None: that machine has no such call).

From the kernel's `asm/unistd_64.h` and `asm-generic/unistd.h`. The aarch64 column has not been run on such a machine.
"""

from __future__ import annotations

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column below, AUDIT_ARCH of seccomp

# What a Python program needs: files, memory, clocks, its own threads and signals. Frequent calls come first.
# Not here, so refused: processes, sockets, mounts, modes and owners of files, keys, tracing, io_uring, bpf, ...
ALLOWED: dict[str, tuple[int, int | None]] = {
    "read": (0, 63), "write": (1, 64), "futex": (202, 98), "mmap": (9, 222), "munmap": (11, 215), "close": (3, 57),
    "openat": (257, 56), "newfstatat": (262, 79), "fstat": (5, 80), "lseek": (8, 62), "brk": (12, 214),
    "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "clock_nanosleep": (230, 115), "nanosleep": (35, 101), "gettimeofday": (96, 169),
    "open": (2, None), "stat": (4, None), "lstat": (6, None), "access": (21, None), "creat": (85, None),
    "readlink": (89, None), "poll": (7, None), "select": (23, None), "pipe": (22, None), "dup2": (33, None),
    "getdents": (78, None), "mkdir": (83, None), "rmdir": (84, None), "rename": (82, None), "link": (86, None),
    "symlink": (88, None), "unlink": (87, None), "alarm": (37, None), "pause": (34, None),
    "epoll_create": (213, None), "epoll_wait": (232, None), "eventfd": (284, None), "getpgrp": (111, None),
    "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67), "pwrite64": (18, 68), "preadv": (295, 69),
    "pwritev": (296, 70), "faccessat": (269, 48), "faccessat2": (439, 439), "statx": (332, 291), "statfs": (137, 43),
    "fstatfs": (138, 44), "readlinkat": (267, 78), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "mkdirat": (258, 34), "renameat": (264, 38), "renameat2": (316, 276), "linkat": (265, 37),
    "symlinkat": (266, 36), "unlinkat": (263, 35), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83),
    "fadvise64": (221, 223), "flock": (73, 32), "copy_file_range": (326, 285), "sendfile": (40, 71),
    "ppoll": (271, 73), "pselect6": (270, 72), "pipe2": (293, 59), "dup": (32, 23), "dup3": (292, 24),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_pwait": (281, 22), "eventfd2": (290, 19),
    "close_range": (436, 436), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "setitimer": (38, 103), "getitimer": (36, 102),
    "exit": (60, 93), "exit_group": (231, 94), "set_tid_address": (218, 96), "set_robust_list": (273, 99),
    "rseq": (334, 293), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168),
    "membarrier": (324, 283), "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getgroups": (115, 158),
    "getresuid": (118, 148), "getresgid": (120, 150), "getpgid": (121, 155), "getsid": (124, 156), "uname": (63, 160),
    "sysinfo": (99, 179), "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "umask": (95, 166),
    "getrandom": (318, 278), "recvfrom": (45, 207), "shutdown": (48, 210), "getsockopt": (55, 209),
    "getsockname": (51, 204), "getpeername": (52, 205),
}  # fmt: skip

# Allowed for some arguments only, or answered in another way: the filter in `_linux.py` has the conditions.
CONDITIONAL: dict[str, tuple[int, int | None]] = {
    "clone": (56, 220), "clone3": (435, 435), "fcntl": (72, 25), "ioctl": (16, 29), "kill": (62, 129),
    "openat2": (437, 437), "prlimit64": (302, 261), "sendto": (44, 206), "socketpair": (53, 199),
    "tgkill": (234, 131),
}  # fmt: skip

# What the sandbox itself calls before the filter is in place.
SETUP: dict[str, tuple[int, int | None]] = {
    "capset": (126, 91), "landlock_create_ruleset": (444, 444), "landlock_add_rule": (445, 445),
    "landlock_restrict_self": (446, 446), "mount": (165, 40), "pivot_root": (155, 41), "prctl": (157, 167),
    "seccomp": (317, 277), "umount2": (166, 39), "unshare": (272, 97),
}  # fmt: skip
