"""Atomic writes (a temporary file next to the target, flushed, then renamed) and bounded reads of untrusted files."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from llmanac.core.errors import DataError, LlmanacError, shown

TEMPORARY = ".tmp-"  # the prefix of temporary names
# errors of a disk or its permissions, which a user can fix
DISK = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOTDIR,
    errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.EBUSY,
)  # fmt: skip
MOST = 1 << 30  # bytes of a file read at once; readers of untrusted files have lower limits
MOST_SETTINGS = 4 << 20  # of a JSON file of settings; the longest known ones have one line a label
MOST_TOML = 1 << 20
PIECE = 1 << 20
KINDS: dict[type, str] = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "a table"}
T = TypeVar("T")
DEEPEST = 128  # levels of JSON, as other readers have it
LONG_KEY = re.compile(rf"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){{{DEEPEST}}}""")
LEFT_FOR = 86_400.0  # seconds after which a temporary file is removed even if a process with its number runs


def cache_folder() -> Path:
    """The user's folder for what can be made again: $LLMANAC_CACHE, else a standard place; it may not exist."""
    if named := os.environ.get("LLMANAC_CACHE"):
        return in_home(named, "LLMANAC_CACHE")
    usual = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = {"win32": os.environ.get("LOCALAPPDATA") or "~/AppData/Local", "darwin": "~/Library/Caches"}
    return in_home(own.get(sys.platform, usual), "LLMANAC_CACHE") / "llmanac"


def in_home(place: str, variable: str) -> Path:
    """The folder that begins with `~`. Raises LlmanacError for a user who has no home, as in some containers."""
    try:
        return Path(place).expanduser()
    except RuntimeError as error:
        raise LlmanacError(f"{variable}: this user has no home folder; set HOME or {variable} to a folder") from error


@contextlib.contextmanager
def refusing(place: str | Path) -> Iterator[None]:
    """Errors of the disk inside are sentences (`refused`)."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK:
            raise
        raise refused(error, place) from error


def refused(error: OSError, place: str | Path) -> LlmanacError:
    """An error of the system as a sentence; it names `place` where the error names no file."""
    name = readable(error.filename) if isinstance(error.filename, (str, bytes)) else str(place)
    return LlmanacError(
        f"{name}: the system refuses it ({error.strerror or error}); free some space, or name a place "
        "that you may read and write"
    )


def has_name(path: str | Path) -> bool:
    """Whether a path ends in a name that can be written: `.`, `..` and `/` do not."""
    return Path(path).name not in ("", "..")


def _temporary(path: Path, mark: str = "") -> Path:
    """The temporary name next to a path. Raises LlmanacError for a path that has no name."""
    if not has_name(path):
        raise LlmanacError(f"{path}: cannot be written in place of a whole folder; name a file or a folder inside it")
    # a file system takes names of 255 bytes, and ours is longer by a few
    name = path.name if len(os.fsencode(path.name)) <= 200 else path.name[-40:]
    return path.with_name(f"{TEMPORARY}{os.getpid()}-{mark}{name}")


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its rename is already durable enough
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write a file atomically. Raises LlmanacError that names the file when the disk refuses."""
    with atomic_file(path) as handle:
        handle.write(data)
    return Path(path)


def append(path: str | Path, data: bytes) -> None:
    """Append to a file; when this returns, the disk has it. Raises LlmanacError; the file is then as it was."""
    try:
        with open(path, "ab", buffering=0) as file:  # a buffer would write its rest when the file is closed
            size = file.seek(0, os.SEEK_END)
            try:
                while data:
                    data = data[file.write(data) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise refused(error, path) from error


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 file atomically."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, data: Any, *, indent: int | None = 1) -> Path:
    """Write a JSON file atomically; NaN and infinity are refused, since other readers reject them.

    Half a surrogate pair, as Python holds a byte of a file's name that is not UTF-8, is written as an escape.
    """
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        return write_text(path, text + "\n")
    except UnicodeEncodeError:
        return write_text(path, json.dumps(data, indent=indent, allow_nan=False) + "\n")


def readable(name: str | bytes | Path) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, removed on failure. Raises LlmanacError where the disk refuses a write."""
    temporary = _temporary(path)
    try:
        yield temporary
    except OSError as error:
        _remove(temporary)
        raise LlmanacError(f"{path}: cannot write ({error.strerror or error}); nothing was changed") from error
    except LlmanacError as error:
        _remove(temporary)
        error.args = tuple(str(said).replace(str(temporary), str(path)) for said in error.args)  # which nobody knows
        raise
    except BaseException:
        _remove(temporary)
        raise


@contextlib.contextmanager
def atomic_file(path: str | Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write in pieces; on success it is renamed to `path`, on failure it is removed.

    Args:
        durable: wait until the disk has it. For thousands of small files that takes too long: without it the system
            writes them when it likes, and after a power cut some may be missing or empty.

    Raises:
        LlmanacError: the disk refused a write; the message names the file, and an earlier file is unchanged.
    """
    path = Path(path)
    with _writing(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as handle:
            yield handle
            handle.flush()
            if durable:
                os.fsync(handle.fileno())
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a temporary folder; on success it replaces `path`, on failure it is removed.

    Raises:
        LlmanacError: the disk refused a write; the message names the folder, and an earlier folder is unchanged.
    """
    path = Path(path)
    with _writing(path) as temporary:
        _remove(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        for child in temporary.rglob("*"):
            if child.is_file():
                with open(child, "rb") as handle:
                    os.fsync(handle.fileno())
        _sync_folder(temporary)
        old = _temporary(path, "old-")
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
        _remove(old)
        _sync_folder(path.parent)


def _remove(path: Path) -> None:
    """Remove a file or a folder, as far as the system allows it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def sweep(folder: str | Path) -> None:
    """Remove the temporary files of killed processes, in a folder and next to it.

    Only for the holder of the folder's lock. Files of running processes stay, for at most a day. A folder whose
    replacement was interrupted is restored.
    """
    folder = Path(folder)
    if not folder.parent.is_dir():
        return
    siblings = [path for path in folder.parent.glob(f"{TEMPORARY}*") if path.name.endswith(f"-{folder.name}")]
    inside = list(folder.rglob(f"{TEMPORARY}*")) if folder.is_dir() else []
    for path in [*siblings, *inside]:
        with contextlib.suppress(OSError):  # also where its folder has just been removed
            if _is_abandoned(path):
                _restore_or_remove(path)


def _is_abandoned(path: Path) -> bool:
    if time.time() - path.stat().st_mtime > LEFT_FOR:
        return True
    number = re.match(rf"{re.escape(TEMPORARY)}(\d+)-", path.name)
    if number is None or os.name == "nt":  # Windows' os.kill would end the process instead of looking for it
        return False
    try:
        os.kill(int(number[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):  # it runs, under another user
        return False
    return False


def _restore_or_remove(path: Path) -> None:
    replaced = re.match(rf"{re.escape(TEMPORARY)}\d+-old-(.+)", path.name)
    if replaced and path.is_dir() and not path.with_name(replaced[1]).exists():
        os.replace(path, path.with_name(replaced[1]))
    else:
        _remove(path)


def file_sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def open_regular(path: str | Path, error: type[LlmanacError] = DataError) -> BinaryIO:
    """A regular file, opened to read. A pipe would wait for a writer and a device has no end: both are refused.

    Raises:
        `error`: no such file, one that may not be read, or no regular file; the message names it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return os.fdopen(handle, "rb")
        os.close(handle)
    except FileNotFoundError:
        raise error(f"{path}: no such file") from None
    except (OSError, ValueError) as reason:  # ValueError: a null byte in the name
        raise error(f"{path}: cannot read it ({system_reason(reason)})") from None
    raise error(f"{path}: is a folder, a pipe or a device where a regular file is expected")


def system_reason(error: BaseException | None) -> str:
    """The system's own words for an error of a file, without number and path; else the message."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def read_bytes(path: str | Path, *, most: int = MOST, error: type[LlmanacError] = DataError) -> bytes:
    """A regular file of at most `most` bytes. Raises `error`, which names the file."""
    data = bytearray()
    with open_regular(path, error) as handle:
        try:
            size = os.fstat(handle.fileno()).st_size
            # a size may be wrong: what grows meanwhile, and files of the system
            while size <= most and len(data) <= most and (piece := handle.read(min(PIECE, most + 1 - len(data)))):
                data += piece
        except OSError as reason:
            raise error(f"{path}: cannot read it ({reason.strerror})") from None
    if max(size, len(data)) > most:
        raise error(f"{path}: has {max(size, len(data)):,} bytes, more than the {most:,} that are read of such a file")
    return bytes(data)


def read_text(path: str | Path, *, most: int = MOST, error: type[LlmanacError] = DataError) -> str:
    """The UTF-8 text of a regular file of at most `most` bytes. Raises `error`, which names the file."""
    try:
        return read_bytes(path, most=most, error=error).decode("utf-8")
    except UnicodeDecodeError as reason:
        raise error(f"{path}: not UTF-8 at byte {reason.start}") from None


def read_json(path: str | Path, *, most: int = MOST, error: type[LlmanacError] = DataError) -> Any:
    """Read a JSON file of at most `most` bytes, nested at most DEEPEST levels, in which no object has a key twice.

    Raises:
        `error`: it cannot be read so; the message names the file and, where there is one, the line.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):  # readers differ on which of the two counts
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise error(f"{path}: the key {shown(twice)} is given twice in one object; remove one of them")
        return found

    text = read_text(path, most=most, error=error)
    try:
        found = json.loads(text, object_pairs_hook=unique)
        if not _nested_within(found, DEEPEST):
            raise RecursionError
    except json.JSONDecodeError as reason:
        raise error(f"{path}:{reason.lineno}: not JSON ({reason.msg})") from None
    except RecursionError:
        raise error(f"{path}: not JSON that can be read (nested deeper than {DEEPEST} levels)") from None
    except LlmanacError:
        raise
    except ValueError:
        raise error(f"{path}: holds a number of more digits than can be read") from None
    return found


def read_table(path: str | Path, *, most: int = MOST, error: type[LlmanacError] = DataError) -> dict[str, Any]:
    """Read a JSON file that holds one object, as `read_json` does."""
    found = read_json(path, most=most, error=error)
    if not isinstance(found, dict):
        raise error(f"{path}: expected a table, got {type(found).__name__}")
    return found


def field(table: Any, key: str, kind: type[T], path: str | Path, fix: str) -> T:
    """The value of a file's table at a dotted key.

    Args:
        kind: its type; a whole number is also a float, and every number must be finite and at least 0.
        path: the file; fix: what to do where it is not so.

    Raises:
        DataError: it is missing or of another kind; the message names file, key and value.
    """
    value = table
    for step in key.split("."):
        if not isinstance(value, dict) or step not in value:
            raise DataError(f"{path}: {key}: is missing; {fix}")
        value = value[step]
    right = type(value) is kind or (kind is float and type(value) is int)
    if not right or (isinstance(value, (int, float)) and not 0 <= value < float("inf")):
        raise DataError(f"{path}: {key}: expected {KINDS.get(kind, kind.__name__)}, got {shown(value)}; {fix}")
    return cast(T, value)


def _nested_within(value: Any, levels: int) -> bool:
    """Whether lists and tables are nested at most `levels` deep; without recursion."""
    level = [value]
    for _ in range(levels + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return True
    return False


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file. Raises DataError that names the file and what is wrong in it."""
    text = read_text(path, most=MOST_TOML)
    if LONG_KEY.search(text):  # tomllib takes time that grows with the square of a key's parts, or faster
        raise DataError(f"{path}: not TOML that can be read (a key of more than {DEEPEST} parts)")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise DataError(f"{path}: not TOML that can be read (nested too deep)") from None
    except ValueError as error:  # also a number of too many digits
        raise DataError(f"{path}: not TOML ({str(error).partition(';')[0]})") from None
