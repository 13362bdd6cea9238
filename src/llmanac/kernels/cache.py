"""Where compiled code is kept: a folder of the user for each version of the package and each processor.

    $LLMANAC_CACHE, else $NUMBA_CACHE_DIR, else the user's cache folder (~/.cache/llmanac)
        0.1.0-znver4/bpe_<hash of the folder of the source>/encode.encode-54.py311.1.nbc

numba decides what a file is for (signature, processor, Python), and this module where it is, whether it is whole, and
what happens where it cannot be read or written: it is compiled again, and what cannot be kept is said once. Nothing is
looked up on the disk before a kernel is compiled.
"""

# mypy: disable-error-code="attr-defined, misc"
# (of numba's own types, which lack these names)
from __future__ import annotations

import functools
import hashlib
import itertools
import os
import pickle
import secrets
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import numba
from llvmlite import binding as llvm
from numba import config
from numba.core import caching
from numba.core.bytecode import FunctionIdentity

from llmanac import __version__
from llmanac.core.files import cache_folder

try:
    import fcntl
except ImportError:  # Windows: each process compiles for itself
    fcntl = None  # type: ignore[assignment]

VARIABLE = "LLMANAC_CACHE"
WAIT = 60.0  # seconds for another process that compiles the same kernel
DIGEST = 32  # bytes of SHA-256 before each part of a file


def _count_from_anywhere() -> None:
    """Have numba count this process's functions from a random number.

    The count is all that tells apart the symbols of functions that differ in their closures alone, such as its sorts.
    From 1 on, as it counts, code of two processes has the same names, and a third that loads both calls the wrong one.
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(62))


_count_from_anywhere()
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_count_from_anywhere)


def folder() -> Path:
    """The folder of this version and processor; it may not exist."""
    processor = config.CPU_NAME or llvm.get_host_cpu_name()
    numbas = config.CACHE_DIR if not os.environ.get(VARIABLE) else ""
    return (Path(numbas).expanduser() if numbas else cache_folder()) / f"{__version__}-{processor}"


@functools.cache
def stamp() -> str:
    """Of all files of kernels: numba looks at a function's own file only, and would use old code of what it calls."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


class _Locator(caching._SourceFileBackedLocatorMixin, caching._CacheLocator):
    def __init__(self, function: Any, file: str) -> None:
        self._py_file, self._lineno = file, function.__code__.co_firstlineno

    @classmethod
    def from_function(cls, function: Any, file: str) -> _Locator:
        return cls(function, file)

    def get_cache_path(self) -> str:
        return str(folder() / self.get_suitable_cache_subpath(self._py_file))

    def get_source_stamp(self) -> Any:
        return super().get_source_stamp(), stamp()

    def ensure_cache_path(self) -> None:
        os.makedirs(self.get_cache_path(), mode=0o700, exist_ok=True)


class _Files(caching.IndexDataCacheFile):
    """Files whose parts begin with their digest: a damaged one is not unpickled, and its code never run."""

    def _dump(self, data: Any) -> bytes:
        made: bytes = super()._dump(data)
        return hashlib.sha256(made).digest() + made

    def save(self, key: Any, data: Any) -> None:
        """With what it is of: the index may name an older file, where a process was killed before it wrote its own."""
        super().save(key, (self._version, self._source_stamp, key, data))

    def load(self, key: Any) -> Any:
        *of, data = super().load(key) or (None,)
        return data if of == [self._version, self._source_stamp, key] else None

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                version, data = pickle.load(file), file.read()
            found, overloads = _whole(data) if version == self._version else (None, {})
        except Exception:
            return {}
        return overloads if found == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        return _whole(Path(self._data_path(name)).read_bytes())


def _whole(data: bytes) -> Any:
    """What was dumped. Raises ValueError where it is not what was written."""
    if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
        raise ValueError("damaged")
    return pickle.loads(data[DIGEST:])


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes: ClassVar[list[Any]] = [_Locator]


class Cache(caching.FunctionCache):
    """numba's cache of one function; what goes wrong with it costs a compilation and nothing else."""

    _impl_class = _Implementation
    _lock: int | None = None

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        self._cache_file = _Files(self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """What is kept. Of processes that want the same kernel, one compiles it; the others wait and read it."""
        found, until = self._read(sig, target_context), time.monotonic() + WAIT
        if found is None:
            while not self._claimed() and time.monotonic() < until:
                time.sleep(0.05)
            found = self._read(sig, target_context)
            if found is not None:
                self._released()
        return found

    def _read(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a file that is damaged, or was written by another build of numba
            return None

    def _claimed(self) -> bool:
        """Whether this process compiles: it has the kernel's lock, or there is none to be had."""
        if self._lock is not None or fcntl is None:
            return True
        try:
            os.makedirs(self._cache_path, mode=0o700, exist_ok=True)
            lock = os.open(f"{self._cache_path}/{self._impl.filename_base}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return False
        except OSError:  # a disk without locks
            os.close(lock)
            return True
        self._lock = lock
        return True

    def _released(self) -> None:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile
            os.close(self._lock)
            self._lock = None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _say(str(folder()), error.strerror)
        finally:
            self._released()


@functools.cache
def _say(place: str, why: str) -> None:
    print(
        f"llmanac: {place}: compiled code cannot be kept, and is compiled again at the next start ({why}); "
        f"set {VARIABLE} to a folder that can be written to",
        file=sys.stderr,
    )


def keep(dispatcher: Any) -> Any:
    """The same dispatcher, whose compiled forms are kept."""
    if isinstance(dispatcher, numba.core.dispatcher.Dispatcher):  # not where numba is switched off
        dispatcher._cache = Cache(dispatcher.py_func)
    return dispatcher
