"""Runs kept by what they are: one folder a run, named by the hash of everything that decides its numbers.

    root/ab/ab12.../key.json       what the hash was made of
                    work/          checkpoints while it runs: a killed run goes on from them
                    result.json    written last and atomically; a run that has one is done

Two processes that want the same run share it: the second waits for the first and reads its result.
"""

import contextlib
import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from llmanac.core.device import torch_is_there
from llmanac.core.errors import DataError
from llmanac.core.files import read_table, write_json
from llmanac.core.lock import locked
from llmanac.core.progress import say_once


def canonical(data: Any) -> str:
    """JSON with sorted keys and no spaces: equal data, equal text. NaN and infinity are refused."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(data: Any) -> str:
    """sha256 of the canonical JSON of plain data."""
    return hashlib.sha256(canonical(data).encode()).hexdigest()


def write_sealed(path: Path, data: Mapping[str, Any]) -> None:
    """Write a table with the digest of what it holds."""
    write_json(path, {**data, "digest": digest(dict(data))})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What `write_sealed` wrote; None where nothing is, or something else, which is named: it is never used."""
    if not path.is_file():
        return None
    with contextlib.suppress(DataError, ValueError):  # cut; NaN has no digest
        data = read_table(path)
        if data.pop("digest", None) == digest(data):
            return data
    say_once(f"{path}: is cut or was changed after it was written; it is made again")
    return None


def versions() -> dict[str, str]:
    """What else decides a run's numbers: Python, the libraries that compute, and the processor's instructions."""
    found, packages = {"python": ".".join(platform.python_version_tuple()[:2])}, ["numpy", "numba"]
    if torch_is_there():
        import torch

        found["isa"], packages = torch.backends.cpu.get_cpu_capability(), ["torch", *packages]
    return found | {package: metadata.version(package) for package in packages}


def threads() -> int:
    """Threads that torch computes with, which decide a run's numbers too; 1 where it is not installed."""
    if not torch_is_there():
        return 1
    import torch

    return torch.get_num_threads()


class StudyCache:
    """Finished and unfinished runs below `root`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of a finished run, or None."""
        return read_sealed(self.folder(key) / "result.json")

    def run(self, parts: Mapping[str, Any], compute: Callable[[Path], dict[str, Any]]) -> tuple[dict[str, Any], bool]:
        """The result for these parts, and whether it was there already.

        `compute` gets the run's work folder, with what an interrupted attempt left in it, and returns plain data.
        """
        key = digest(parts)
        found = self.get(key)
        if found is not None:
            return found, True
        folder = self.folder(key)
        with locked(folder.with_suffix(".lock")):
            found = self.get(key)  # another process may have finished it while this one waited
            if found is not None:
                return found, True
            work = folder / "work"
            work.mkdir(parents=True, exist_ok=True)
            if not (folder / "key.json").is_file():
                write_json(folder / "key.json", dict(parts))
            result = compute(work)
            write_sealed(folder / "result.json", result)
            shutil.rmtree(work, ignore_errors=True)
            return result, False
