"""The files of the inputs, what identifies them, and the units of work they are cut into.

A unit is a part of one input: some small files, one file, or a stretch of a large one (plain JSON Lines at line ends,
Parquet at row groups). Where cuts fall depends on the files alone.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.data.pages import INSTALL, missing_library
from llmanac.data.pipeline.recipe import BuildSpec
from llmanac.data.sources.files import Spec as FilesSpec
from llmanac.data.unpack import COMPRESSED, format_of

LINED = (".jsonl", ".ndjson")
STAMP = ("bytes", "mtime_ns", "ctime_ns", "inode")
NOTHING = dict.fromkeys(STAMP, 0)
Entry = dict[str, Any]  # input, path, shown, the stamp; after the scan sha256 and cuts; or aside: why it is not read


def prefixes(recipe: BuildSpec) -> list[str]:
    """What the ids of each input's documents begin with, so that several inputs cannot share one."""
    if len(recipe.inputs) == 1:
        return [""]
    domains = [item.domain for item in recipe.inputs]
    names = [d if d and domains.count(d) == 1 else f"{d or 'input'}-{n}" for n, d in enumerate(domains)]
    return [f"{name}/" for name in names]


def list_inputs(recipe: BuildSpec) -> list[Entry]:
    """Every file of every input, in order; an input that is no set of files is one entry without a path.

    Raises:
        DataError: a path that is not there.
    """
    found: list[Entry] = []
    for number, item in enumerate(recipe.inputs):
        if not isinstance(item.source, FilesSpec):
            of = {"version": item.source.version()}
            found.append({"input": number, "path": "", "shown": item.source.name, **NOTHING, **of})
            continue
        if not item.source.paths:
            raise DataError(f"inputs.{number}.source.paths: no input; name a file, a folder or a glob pattern")
        for file in item.source.found():
            entry = {"input": number, "path": str(file.path), "shown": file.shown}
            if file.why:
                found.append({**entry, **NOTHING, "aside": [file.why, file.detail]})
            else:
                found.append({**entry, **stamp(file.path)})
    return found


def check_libraries(entries: list[Entry], on_error: str) -> None:
    """Say once, before anything is read, which files need a library that is not installed: they are set aside.

    Raises:
        DataError: the same, where nothing may be set aside.
    """
    kinds: dict[str, list[str]] = {}
    for entry in filter(is_read, entries):
        kinds.setdefault(format_of(Path(entry["path"])), []).append(entry["path"])
    for kind, paths in kinds.items():
        if not (module := missing_library(kind)):
            continue
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        said = f"{module} is not installed, which reads {kind} files: {files.readable(paths[0])}{more}"
        if on_error == "fatal":
            raise DataError(f"{said}; run `{INSTALL}`, or leave such files out with include")
        print(f"note: {said}, set aside; to read them, run `{INSTALL}` and build with --no-resume", file=sys.stderr)


def stamp(path: Path) -> dict[str, int]:
    """Size, times and number of a file: while all stay, its content is taken to be the same. Raises DataError.

    A change of the content always sets `ctime_ns`, which no program can set back. (On Windows it is the time of
    creation: there a change that keeps size and `mtime_ns` is not seen.)
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from None
    if not S_ISREG(stat.st_mode):
        raise DataError(f"{path}: is no regular file; copy what comes out of it to one")
    return dict(zip(STAMP, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino), strict=True))


def is_same(entry: Entry, now: dict[str, Any] | None = None) -> bool:
    """Whether a file still holds what it did: by its stamp, and where that differs but not its size, by its hash.

    Args:
        now: its stamp, where that is known already.

    Raises:
        DataError: the file is gone.
    """
    path = Path(entry["path"])
    now = stamp(path) if now is None else now
    if all(now.get(key) == entry.get(key) for key in STAMP):
        return True
    return now["bytes"] == entry["bytes"] and files.file_sha256(path) == entry.get("sha256")


def is_read(entry: Entry) -> bool:
    """Whether it is a file whose content counts: not a source of another kind, and not one that is set aside."""
    return bool(entry["path"]) and "aside" not in entry


def scan(entry: Entry, shard_bytes: int) -> dict[str, Any]:
    """Hash a file and find where it may be cut: `[[start, line], ...]`, the first at its beginning.

    Raises:
        DataError: the file cannot be read, or changed since it was listed.
    """
    path = Path(entry["path"])
    kind = format_of(path)
    plain = path.suffix.lower() not in COMPRESSED and entry["bytes"] > 1.5 * shard_bytes
    digest = hashlib.sha256()
    cuts, line, offset, due = [[0, 1]], 1, 0, shard_bytes
    try:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
                if plain and kind in LINED:
                    while due < offset + len(block):
                        end = block.find(b"\n", max(0, due - offset - 1))
                        if end < 0:
                            break
                        at = offset + end + 1
                        cuts.append([at, line + block.count(b"\n", 0, end + 1)])
                        due = max(due + shard_bytes, at + shard_bytes // 2)
                    line += block.count(b"\n")
                offset += len(block)
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from None
    if not is_same({**entry, "sha256": digest.hexdigest()}):
        raise DataError(f"{path}: it changed while it was read; run the build again when it is finished")
    cuts = [cut for cut in cuts if cut[0] < offset or cut[0] == 0]
    end = offset
    if plain and kind == ".parquet" and len((found := _row_groups(path, shard_bytes))[0]) > 1:
        cuts, end = found
    return {"sha256": digest.hexdigest(), "cuts": cuts, "end": end}


def _row_groups(path: Path, shard_bytes: int) -> tuple[list[list[int]], int]:
    """Where a Parquet file may be cut, and how many row groups it has."""
    import pyarrow.parquet

    try:
        metadata = pyarrow.parquet.read_metadata(path)
    except Exception:  # the reader proper says what is wrong with the file
        return [], 0
    cuts, held, row = [[0, 1]], 0, 1
    for group in range(metadata.num_row_groups):
        if held >= shard_bytes:
            cuts.append([group, row])
            held = 0
        held += metadata.row_group(group).total_byte_size
        row += metadata.row_group(group).num_rows
    return cuts, metadata.num_row_groups


def units(entries: list[Entry], shard_bytes: int) -> list[dict[str, Any]]:
    """The units of work, in the order of the output: `{"input", "bytes", "parts": [{path, shown, span}]}`."""
    found: list[dict[str, Any]] = []
    room = 0  # bytes that the last unit may still take
    for entry in entries:
        cuts = entry.get("cuts") or [[0, 1]]
        if len(cuts) > 1:
            stops = [*(cut[0] for cut in cuts[1:]), entry["end"]]
            for (start, line), stop in zip(cuts, stops, strict=True):
                part = {**_part(entry), "span": [start, stop, line]}
                share = entry["bytes"] * (stop - start) // max(1, entry["end"])
                found.append({"input": entry["input"], "bytes": share, "parts": [part]})
            room = 0
            continue
        # what comes out of a compressed file is not known; the unit writes as many shards as it needs
        if room < entry["bytes"] or not found or found[-1]["input"] != entry["input"] or not entry["path"]:
            found.append({"input": entry["input"], "bytes": 0, "parts": []})
            room = shard_bytes
        found[-1]["parts"].append({**_part(entry), "span": None})
        found[-1]["bytes"] += entry["bytes"]
        room -= entry["bytes"] + 4096  # a file costs something even when it is empty
    return found


def _part(entry: Entry) -> dict[str, Any]:
    return {key: entry[key] for key in ("path", "shown", *STAMP, "sha256", "aside") if key in entry}


def changed(known: list[Entry], now: list[Entry]) -> str | None:
    """What differs between the input as it was and as it is, as a part of a sentence; None when it is the same.

    A file whose stamp is another is read again: only its content counts.
    """
    before = {(e["input"], e["shown"]): e for e in known}
    after = {(e["input"], e["shown"]): e for e in now}
    for key, entry in before.items():
        if key not in after:
            return f"{entry['path'] or entry['shown']} is gone"
    for key, entry in after.items():
        old = before.get(key)
        if old is None:
            return f"{entry['path'] or entry['shown']} is new"
        if (was := old.get("version")) != (now_is := entry.get("version")):
            return f"{entry['shown']} was of {was} and is of {now_is}"
        if old.get("aside") != entry.get("aside"):
            return f"{entry['path']} can be read now" if "aside" in old else f"{entry['path']} cannot be read any more"
        if is_read(entry) and not is_same({**old, "path": entry["path"]}, entry):
            return f"{entry['path']} has changed"
    return None if list(before) == list(after) else "its files come in another order"


def write_listing(path: Path, entries: list[Entry]) -> None:
    """One line an input file."""
    files.write_text(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def read_listing(path: Path) -> Iterator[Entry]:
    """What `write_listing` wrote. Raises DataError when it is damaged."""
    try:
        with open(path, encoding="utf-8") as handle:
            for line in handle:
                yield dict(json.loads(line))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: damaged ({error}); build anew with --no-resume") from None
