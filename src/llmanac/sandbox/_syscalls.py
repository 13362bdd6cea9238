"""Numbers of Linux system calls: the tables of `syscalls.toml`, by name, on x86_64 and aarch64 (None: not there)."""

import tomllib
from pathlib import Path

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of a table, AUDIT_ARCH of seccomp
_TABLES: dict[str, dict[str, list[int]]] = tomllib.loads(Path(__file__).with_name("syscalls.toml").read_text("utf-8"))
ALLOWED, CONDITIONAL, SETUP = (
    {name: (own[0], own[1] if len(own) > 1 else None) for name, own in _TABLES[part].items()}
    for part in ("allowed", "conditional", "setup")
)
