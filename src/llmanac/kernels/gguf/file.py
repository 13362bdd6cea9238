"""The container of GGUF files, versions 2 and 3: metadata, a table of tensors, and their bytes, mapped into memory.

    "GGUF" | version u32 | tensors u64 | keys u64 | keys ... | tensors ... | padding | bytes of the tensors

A key is `text, type u32, value`, a tensor `name, axes u32, sizes u64 (fastest first), kind u32, offset u64`; a text is
its length in 8 bytes and UTF-8. All is little-endian. A file is untrusted: every length, count and offset is compared
with the file's size before memory is taken, and what is refused is named by file and field.
"""

import mmap
import os
import struct
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmanac.core import files
from llmanac.core.errors import CheckpointError, shown
from llmanac.kernels.gguf.blocks import BY_NUMBER, KINDS, Array
from llmanac.kernels.gguf.parts import count_parts, part_path

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_HEADER = 1 << 26  # bytes before the tensors; 256k tokens with scores and merges take 10 MiB
MOST_KEYS, MOST_ITEMS, MOST_TENSORS = 1 << 16, 1 << 22, 100_000  # of the file
MOST_AXES, MOST_ALIGNMENT = 4, 1 << 16
NUMBERS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"), 1: np.dtype("i1"), 2: np.dtype("<u2"), 3: np.dtype("<i2"), 4: np.dtype("<u4"),
    5: np.dtype("<i4"), 6: np.dtype("<f4"), 7: np.dtype("?"), 10: np.dtype("<u8"), 11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}  # fmt: skip
BOOL, TEXT, ARRAY = 7, 8, 9
UNREAD = {
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    21: "IQ3_S", 22: "IQ2_S", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 40: "NVFP4",
}  # fmt: skip


@dataclass(frozen=True)
class PackedTensor:
    """A tensor as the file stores it.

    Attributes:
        kind: one of `blocks.KINDS`.
        shape: in torch's order, rows first.
        data: (*shape[:-1], bytes of a row) in uint8, a view of the mapped file; blocks of a row follow one another.
    """

    kind: str
    shape: tuple[int, ...]
    data: Array

    def float32(self) -> Array:
        """The numbers, a new array (*shape) in float32."""
        return KINDS[self.kind].float32(self.data)


@dataclass(frozen=True)
class _Place:
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int


class Mapped:
    """A file's bytes in memory, which the system reads where they are looked at.

    A file that is written to or cut off meanwhile is refused by `check`; nothing guards a view that is read at that
    very moment, which ends the process where the file has become shorter. A file that is replaced (renamed over) stays
    as it was for whoever has opened it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with files.open_regular(path, CheckpointError) as handle:
            try:
                # a copy on write, so that torch takes views of it; nobody writes
                self.bytes = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
            except (ValueError, OSError) as error:  # ValueError: empty
                raise CheckpointError(f"{path}: cannot be read as a GGUF file ({error})") from None
            self._open = os.dup(handle.fileno())
            weakref.finalize(self, os.close, self._open)
            self._state = self._now()
        self.further: list[Mapped] = []  # the other files of a model in several parts

    def _now(self) -> tuple[int, int]:
        """Size and time of the last write."""
        found = os.fstat(self._open)
        return found.st_size, found.st_mtime_ns

    def check(self) -> None:
        """Raises CheckpointError where the file was written to or cut off since it was opened."""
        if self._now() != self._state:
            raise CheckpointError(f"{self.path}: was written to since it was opened; load the model again")
        for other in self.further:
            other.check()

    def release(self) -> None:
        """Give back the memory of what was read; the system reads it again where it is needed."""
        if hasattr(self.bytes, "madvise"):
            self.bytes.madvise(mmap.MADV_DONTNEED)
        for other in self.further:
            other.release()


class GGUF:
    """A GGUF file that is open to read, with the files after it where it is the first part of several.

    Attributes:
        metadata: the keys with their values: bool, int, float, str, a list of str, or an array of numbers.
        names: of the tensors, in the file's order.
        mapped: its bytes, of which tensors are views.

    Raises:
        CheckpointError: not a GGUF file of version 2 or 3, a damaged one, a tensor of a kind that is not read, or a
            part that is missing, of another model, or not the first.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.mapped, self.metadata, own = _read(self.path)
        self._files = dict.fromkeys(own, self.mapped)
        self._places = own
        count, wanted = count_parts(self.path, self.metadata), self.metadata.get("split.tensors.count")
        for number in range(1, count):
            part = part_path(self.path, number)
            mapped, metadata, own = _read(part)
            count_parts(part, metadata, number, count)
            if twice := sorted(own.keys() & self._places.keys()):
                raise CheckpointError(f"{part}: tensor {shown(twice[0])} is in an earlier part too")
            self.mapped.further.append(mapped)
            self._files |= dict.fromkeys(own, mapped)
            self._places |= own
        self.names = tuple(self._places)
        if count > 1 and wanted is not None and wanted != len(self.names):
            raise CheckpointError(
                f"{self.path}: says that its parts have {shown(wanted)} tensors, but these have {len(self.names):,}"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, rows first."""
        return self._places[name].shape

    def kind(self, name: str) -> str:
        """How a tensor is stored."""
        return self._places[name].kind

    @property
    def size(self) -> int:
        """In bytes, of all parts."""
        return sum(len(one.bytes) for one in (self.mapped, *self.mapped.further))

    def kinds(self) -> Counter[str]:
        """How many tensors are stored in which way."""
        return Counter(map(self.kind, self.names))

    def tensor(self, name: str) -> PackedTensor:
        """The tensor of this name; nothing is copied. Raises CheckpointError where the file is not what it was."""
        self.mapped.check()
        place = self._places[name]
        data = np.frombuffer(self._files[name].bytes, np.uint8, place.size, place.start)
        return PackedTensor(place.kind, place.shape, data.reshape(*place.shape[:-1], -1))


def _read(path: Path) -> tuple[Mapped, dict[str, Any], dict[str, _Place]]:
    """`(bytes, keys, tensors)` of one file."""
    mapped = Mapped(path)
    read = _FieldReader(path, mapped.bytes)
    metadata = read.metadata()
    return mapped, metadata, read.tensors(metadata)


_OPENED: weakref.WeakValueDictionary[tuple[int, ...], GGUF] = weakref.WeakValueDictionary()


def opened(path: str | Path) -> GGUF:
    """The file, read once for all that hold it: a model and its tokenizer. Raises CheckpointError as `GGUF` does."""
    try:
        found = os.stat(path)
    except OSError:
        return GGUF(path)
    key = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    made = _OPENED.get(key)
    if made is None or made.path != Path(path):
        made = _OPENED[key] = GGUF(path)
    return made


class _FieldReader:
    """Reads one field after the other; `where` names the one at hand."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.size, self.at = path, data, len(data), 0
        self.end = min(self.size, MOST_HEADER)
        self.items = 0
        if data[:4] != MAGIC:
            raise self.error(f"is no GGUF file (it begins with {data[:4]!r})")
        self.at = 4
        version = self.number("<I", "version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            raise self.error(
                "is big-endian, which is not read"
                if swapped
                else f"version {version} is not read (only {' and '.join(map(str, VERSIONS))})"
            )
        self.tensor_count = self.count("<Q", "tensor count", MOST_TENSORS)
        self.key_count = self.count("<Q", "key count", MOST_KEYS)

    def error(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {problem}")

    def take(self, size: int, where: str) -> int:
        """The place of the next `size` bytes, which are there."""
        at = self.at
        if size > self.end - at:
            limit = "the file ends there" if self.end == self.size else f"at most {MOST_HEADER:,} bytes of it are read"
            raise self.error(f"{where} needs {size:,} bytes at byte {at:,} of the header; {limit}")
        self.at += size
        return at

    def number(self, form: str, where: str) -> Any:
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form), where))[0]

    def count(self, form: str, where: str, most: int) -> int:
        value: int = self.number(form, where)
        if value > most:
            raise self.error(f"{where} is {value:,}; at most {most:,} are read")
        return value

    def text(self, where: str) -> str:
        size = self.number("<Q", where)
        at = self.take(size, where)
        try:
            return self.data[at : at + size].decode("utf-8")
        except UnicodeDecodeError:
            raise self.error(f"{where} is not UTF-8") from None

    def texts(self, count: int, where: str) -> list[str]:
        """The next texts; what is wrong with one is left to `text` to say."""
        from llmanac.kernels.gguf.texts import gather

        out = np.empty(self.end - self.at, np.uint8)
        read, stop, used = gather(np.frombuffer(self.data, np.uint8), self.at, self.end, count, out)
        try:
            found = str(out[: used - 1], "utf-8").split("\0") if read == count > 0 else []  # type: ignore[call-overload]
        except UnicodeDecodeError:
            found = []
        if len(found) != count:  # there are fewer, or one has a zero byte
            return [self.text(f"{where}[{i}]") for i in range(count)]
        self.at = stop
        return found

    def metadata(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i in range(self.key_count):
            key = self.text(f"the name of key {i}")
            where = f"key {shown(key)}"
            if key in found:
                raise self.error(f"{where} is given twice")
            kind = self.number("<I", where)
            found[key] = self.array(where) if kind == ARRAY else self.value(kind, where)
        return found

    def value(self, kind: int, where: str) -> Any:
        if kind == TEXT:
            return self.text(where)
        if kind not in NUMBERS:
            raise self.error(f"{where} has the type {kind}, which is not known")
        return self.numbers(kind, 1, where)[0].item()

    def numbers(self, kind: int, count: int, where: str) -> Array:
        dtype = NUMBERS[kind]
        at = self.take(dtype.itemsize * count, where)
        found = np.frombuffer(self.data, np.dtype("u1") if kind == BOOL else dtype, count, at)
        if kind == BOOL:
            if count and found.max() > 1:
                raise self.error(f"{where} is {found.max()}, expected 0 or 1")
            return found.astype(bool)
        return found.copy()

    def array(self, where: str) -> Any:
        kind, count = self.number("<I", where), self.number("<Q", where)
        self.items += count
        if self.items > MOST_ITEMS:
            raise self.error(f"{where} has {count:,} items; at most {MOST_ITEMS:,} are read in a file")
        if kind == TEXT:
            return self.texts(count, where)
        if kind not in NUMBERS:
            raise self.error(f"{where} is a list of the type {kind}, which is not read")
        return self.numbers(kind, count, where)

    def tensors(self, metadata: dict[str, Any]) -> dict[str, _Place]:
        found = {}
        for i in range(self.tensor_count):
            name = self.text(f"the name of tensor {i}")
            if name in found:
                raise self.error(f"tensor {shown(name)} is listed twice")
            found[name] = self.tensor(f"tensor {shown(name)}")
        step = metadata.get("general.alignment", 32)
        if type(step) is not int or not 1 <= step <= MOST_ALIGNMENT or step & (step - 1):
            raise self.error(f"general.alignment is {shown(step)}, expected a power of two up to {MOST_ALIGNMENT:,}")
        base = -(-self.at // step) * step
        end, before = base, ""
        for name, place in sorted(found.items(), key=lambda item: item[1].start):
            where, start = f"tensor {shown(name)}", base + place.start
            if place.start % step:
                raise self.error(f"{where}: its offset {place.start:,} is no multiple of the alignment, {step}")
            if start < end:
                raise self.error(f"{where}: overlaps {shown(before)}")
            if start + place.size > self.size:
                raise self.error(
                    f"{where}: ends at byte {start + place.size:,}, the file has {self.size:,} (was it cut off?)"
                )
            found[name] = _Place(place.kind, place.shape, start, place.size)
            end, before = start + place.size, name
        return found

    def tensor(self, where: str) -> _Place:
        axes = self.number("<I", f"{where}: axes")
        if not 1 <= axes <= MOST_AXES:
            raise self.error(f"{where}: has {axes:,} axes, expected 1 to {MOST_AXES}")
        shape = tuple(self.number("<Q", f"{where}: size") for _ in range(axes))[::-1]
        number, offset = self.number("<I", f"{where}: kind"), self.number("<Q", f"{where}: offset")
        kind = BY_NUMBER.get(number)
        if kind is None:
            name = UNREAD.get(number, "of an unknown kind")
            raise self.error(f"{where}: is {name} (number {number}), which is not read (read: {', '.join(KINDS)})")
        if 0 in shape:
            raise self.error(f"{where}: its shape {shape} has no numbers")
        if shape[-1] % kind.size:
            raise self.error(f"{where}: rows of {shape[-1]:,} are no multiple of {kind.name}'s blocks of {kind.size}")
        return _Place(kind.name, shape, offset, prod(shape) // kind.size * kind.bytes)


@dataclass(frozen=True)
class Packable:
    """A tensor to be written: its kind, its shape, and what gives its bytes when their turn comes."""

    kind: str
    shape: tuple[int, ...]
    data: Callable[[], Array]

    @property
    def size(self) -> int:
        """In bytes."""
        return prod(self.shape) // KINDS[self.kind].size * KINDS[self.kind].bytes


def write(handle: BinaryIO, metadata: Mapping[str, Any], tensors: Mapping[str, Packable], alignment: int = 32) -> None:
    """Write a GGUF file of version 3.

    Args:
        metadata: bool, str, a numpy number or array, a list of str, or a list of float (written in 32 bits).
    """
    handle.write(MAGIC + struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata)))
    for key, value in metadata.items():
        kind, data = _written(value)
        handle.write(_text(key) + struct.pack("<I", kind) + data)
    at = 0
    for name, tensor in tensors.items():
        sizes = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape[::-1])
        handle.write(_text(name) + sizes + struct.pack("<IQ", KINDS[tensor.kind].number, at))
        at += -(-tensor.size // alignment) * alignment
    handle.write(bytes(-handle.tell() % alignment))
    for tensor in tensors.values():
        handle.write(tensor.data().tobytes())
        handle.write(bytes(-tensor.size % alignment))


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _written(value: Any) -> tuple[int, bytes]:
    """`(type, bytes)` of a value."""
    if isinstance(value, str):
        return TEXT, _text(value)
    if isinstance(value, list) and (not value or isinstance(value[0], str)):
        return ARRAY, struct.pack("<IQ", TEXT, len(value)) + b"".join(map(_text, value))
    array = np.asarray(value, np.float32 if isinstance(value, list) else None)
    kind = next(number for number, dtype in NUMBERS.items() if dtype == array.dtype)
    if array.ndim:
        return ARRAY, struct.pack("<IQ", kind, len(array)) + array.tobytes()
    return kind, array.tobytes()
