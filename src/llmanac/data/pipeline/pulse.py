"""What a process is working on, in a few bytes of a file that both sides have mapped: it costs no system call to say,
and it can be read after the process has died."""

import contextlib
import json
import mmap
import struct
from pathlib import Path
from typing import Any

SIZE = 1024
HEAD = struct.Struct("<QI")  # how many times it was written; bytes of JSON that follow


class Pulse:
    """One process's pulse. The worker opens it with `make`, who watches without."""

    def __init__(self, path: Path, *, make: bool = False) -> None:
        if make:
            path.write_bytes(bytes(SIZE))
        with open(path, "r+b") as handle:
            self._map = mmap.mmap(handle.fileno(), SIZE)
        self._count = 0

    def beat(self, key: str, index: int, count: int, name: str) -> None:
        """Say what comes next: `count` documents from number `index` on, the first called `name`, at stage `key`."""
        data = json.dumps([key, index, count, name[:100]]).encode("ascii")
        self._count += 1
        self._map[HEAD.size : HEAD.size + len(data)] = data
        HEAD.pack_into(self._map, 0, self._count, len(data))

    @property
    def count(self) -> int:
        """How often it has beaten."""
        return int(HEAD.unpack_from(self._map, 0)[0])

    def last(self) -> tuple[str, int, int, str] | None:
        """What it said last; None before that, or while it is being written."""
        _, size = HEAD.unpack_from(self._map, 0)
        with contextlib.suppress(ValueError, TypeError):
            found: Any = json.loads(self._map[HEAD.size : HEAD.size + size])
            return str(found[0]), int(found[1]), int(found[2]), str(found[3])
        return None

    def close(self) -> None:
        self._map.close()
