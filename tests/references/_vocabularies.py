"""Real vocabularies that PyPI wheels carry, read without those packages' own code."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path

import pytest


def file_of(module: str, *parts: str) -> Path:
    """A file inside an installed package; the test is skipped, with the reason, where it is not installed."""
    found = importlib.util.find_spec(module)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {module}, which carries {parts[-1]}, is not installed")
    path = Path(found.submodule_search_locations[0]).joinpath(*parts)
    if not path.is_file():
        pytest.skip(f"this release of {module} does not carry {parts[-1]}")
    return path


def quicktok(name: str) -> tuple[list[bytes], dict[str, int]]:
    """`(bytes of each rank, special tokens)` from quicktok's binary tables."""
    data, at = file_of("quicktok", "data", f"{name}.vocab").read_bytes(), 4
    ranks: dict[int, bytes] = {}
    for _ in range(struct.unpack_from("<I", data)[0]):
        (length,) = struct.unpack_from("<H", data, at)
        token = data[at + 2 : at + 2 + length]
        (ranks_id,) = struct.unpack_from("<I", data, at + 2 + length)
        ranks[ranks_id], at = token, at + 6 + length
    data, at, special = file_of("quicktok", "data", f"{name}.special").read_bytes(), 4, {}
    for _ in range(struct.unpack_from("<I", data)[0]):
        id, length = struct.unpack_from("<IH", data, at)
        special[data[at + 6 : at + 6 + length].decode()] = id
        at += 6 + length
    return [ranks[i] for i in range(len(ranks))], special
