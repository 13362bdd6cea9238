"""Records that no hand edits: benchmarks and studies write them with commit, machine, date and a digest."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
STAMP = ("commit", "changed", "made", "machine")
QUIET = 0.05  # of a core: what others may use during a run that counts as quiet


def canonical(record: Mapping[str, Any]) -> str:
    """The one way in which a record is written as text."""
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(record: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of a record without its own digest."""
    return hashlib.sha256(canonical({k: v for k, v in record.items() if k != "digest"}).encode()).hexdigest()[:16]


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with its digest, as it is read back from its text."""
    made = json.loads(canonical(record))
    return made | {"digest": digest(made)}


def check(record: Any, keys: Iterable[str], place: str) -> dict[str, Any]:
    """The record, if it has these keys and is what a tool wrote. Raises DataError that names the place."""
    if not isinstance(record, dict):
        raise DataError(f"{place}: expected a record, got {type(record).__name__}")
    wanted = {*keys, *STAMP, "digest"}
    if wrong := sorted(wanted ^ set(record)):
        missing = [key for key in wrong if key in wanted]
        raise DataError(f"{place}: {'lacks' if missing else 'has an unknown key'} {(missing or wrong)[0]!r}")
    if record["digest"] != digest(record):
        raise DataError(f"{place}: was changed after it was written (its digest is of other content); make it again")
    return record


def stamp() -> dict[str, Any]:
    """Commit, whether the sources differ from it, date, machine and versions."""
    from llmanac.core.device import machine

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    return {
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "changed": bool(git("status", "--porcelain", "src", "evidence", "benchmarks")),
        "made": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
    }


class Others:
    """The share of a core that other processes used while the block ran: None where /proc/stat is not there."""

    share: float | None = None

    def __enter__(self) -> Others:
        self._start, self._at = self._used(), time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        end = self._used()
        if self._start is not None and end is not None:
            self.share = round(max(0.0, (end - self._start) / max(time.monotonic() - self._at, 1e-9)), 3)

    @staticmethod
    def _used() -> float | None:
        """CPU seconds of the machine so far that are not of this process and its ended children."""
        try:
            fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        except OSError:
            return None
        own = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = (sum(fields[:3]) + sum(fields[5:7])) / os.sysconf("SC_CLK_TCK")
        return used - time.process_time() - own.ru_utime - own.ru_stime
