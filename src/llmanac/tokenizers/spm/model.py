"""SentencePiece's `.model` files: the wire format of the protocol buffers in `sentencepiece_model.proto`.

A message is a run of fields, each a tag `(number << 3) | wire type` and a value: 0 a varint, 1 eight bytes, 2 a length
and that many bytes, 5 four bytes. A field given twice counts by its last value, a message given twice is merged.
What a file asks for and this package cannot do is refused by its name; fields that do not decide any id are kept as
they are and written back.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmanac.core.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE, WORD, CHAR = range(1, 5)
TYPES = {UNIGRAM: "unigram", BPE: "bpe", WORD: "word", CHAR: "char"}
LONGEST_PIECE = 8000  # bytes; the library refuses longer ones too
SPACE = "\u2581"  # how a file writes a space
UNK_SURFACE = " \u2047 "
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5

# number -> (name, default) of the fields of TrainerSpec that decide anything here.
TRAINER: dict[int, tuple[str, Any]] = {
    3: ("model_type", UNIGRAM), 4: ("vocab_size", 8000), 24: ("treat_whitespace_as_suffix", False),
    35: ("byte_fallback", False), 44: ("unk_surface", UNK_SURFACE), 45: ("unk_piece", "<unk>"),
    46: ("bos_piece", "<s>"), 47: ("eos_piece", "</s>"), 48: ("pad_piece", "<pad>"),
}  # fmt: skip
# What a training writes besides, so that other readers know how it was done.
WRITTEN: dict[str, int] = {
    "character_coverage": 10, "max_sentencepiece_length": 20, "control_symbols": 30, "user_defined_symbols": 31,
    "unk_id": 40, "bos_id": 41, "eos_id": 42, "pad_id": 43,
} | {name: number for number, (name, _) in TRAINER.items()}  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place."""

    text: str
    score: float = 0.0
    type: int = NORMAL


@dataclass(frozen=True)
class Rules:
    """How text is normalised before it is cut (`NormalizerSpec`); `charsmap` is the compiled rule map or empty."""

    name: str = ""
    charsmap: bytes = b""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True
    escape_whitespaces: bool = True


@dataclass(frozen=True)
class Model:
    """A `.model` file. `trainer` holds the fields named in `TRAINER`; `source` is the file, where there is one."""

    pieces: tuple[Piece, ...]
    trainer: dict[str, Any]
    rules: Rules
    denormalizer: Rules | None = None
    source: bytes = field(default=b"", repr=False)


# ------------------------------------------------------------------------------------------------ reading
def _varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= stop:
            raise TokenizerError(f"ends within a number at byte {at}; the file is truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift >= 70:
            raise TokenizerError(f"byte {at}: a number of more than ten bytes; this is no SentencePiece model")


def fields(data: bytes, at: int, stop: int) -> Iterator[tuple[int, int, int | bytes]]:
    """`(number, wire type, value)` of each field of a message that lies in `data[at:stop]`."""
    while at < stop:
        tag, at = _varint(data, at, stop)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == VARINT:
            value, at = _varint(data, at, stop)
        elif wire in (BYTES, EIGHT_BYTES, FOUR_BYTES):
            start = at
            length = 8 if wire == EIGHT_BYTES else 4
            if wire == BYTES:
                length, start = _varint(data, at, stop)
            if length > stop - start:
                raise TokenizerError(
                    f"byte {at}: field {number} claims {length} bytes, {stop - start} are left; the file is truncated"
                )
            value, at = data[start : start + length], start + length
        else:
            raise TokenizerError(f"byte {at}: wire type {wire} in field {number}; this is no SentencePiece model")
        if number == 0:
            raise TokenizerError(f"byte {at}: a field numbered 0; this is no SentencePiece model")
        yield number, wire, value


def _require(condition: bool, where: str, what: str) -> None:
    if not condition:
        raise TokenizerError(f"{where}: {what}")


def _text(value: int | bytes, where: str) -> str:
    _require(isinstance(value, bytes), where, "expected text, got a number")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"{where}: is not UTF-8") from None


def _typed(value: int | bytes, default: Any, where: str) -> Any:
    if isinstance(default, str):
        return _text(value, where)
    if isinstance(default, bytes):
        _require(isinstance(value, bytes), where, "expected bytes, got a number")
        return value
    _require(isinstance(value, int), where, "expected a number, got bytes")
    return bool(value) if isinstance(default, bool) else value


def _piece(data: bytes, where: str) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, wire, value in fields(data, 0, len(data)):
        if number == 1:
            text = _text(value, f"{where}: its text")
        elif number == 2:
            _require(wire == FOUR_BYTES, where, "its score is not a 32-bit float")
            score = struct.unpack("<f", value)[0]  # type: ignore[arg-type]
        elif number == 3:
            _require(wire == VARINT and value in range(1, 7), where, f"its type {value!r} is not one of 1 to 6")
            kind = int(value)
    return Piece(text, score, kind)


def _rules(data: bytes, where: str) -> Rules:
    named = {1: "name", 2: "charsmap", 3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
    blank = Rules()
    given: dict[str, Any] = {}
    for number, _, value in fields(data, 0, len(data)):
        if number in named:
            name = named[number]
            given[name] = _typed(value, getattr(blank, name), f"{where}.{name}")
    return Rules(**given)


def parse(data: bytes) -> Model:
    """Read a `.model` file's bytes.

    Raises:
        TokenizerError: a truncated file, one of another kind, or a vocabulary that cannot be used; one sentence.
    """
    pieces: list[Piece] = []
    parts: dict[int, list[bytes]] = {2: [], 3: [], 5: []}
    for number, wire, value in fields(data, 0, len(data)):
        if number in (1, 2, 3, 5):
            _require(wire == BYTES, f"field {number}", "expected a message; this is no SentencePiece model")
            if number == 1:
                pieces.append(_piece(value, f"piece {len(pieces)}"))  # type: ignore[arg-type]
            else:
                parts[number].append(value)  # type: ignore[arg-type]
    _require(bool(pieces), "the file", "holds no piece; this is no SentencePiece model")
    for number, name in ((2, "trainer_spec"), (3, "normalizer_spec")):
        _require(bool(parts[number]), "the file", f"has no {name}; it is truncated or no SentencePiece model")
    trainer = dict(TRAINER.values())
    merged = b"".join(parts[2])
    for number, _, value in fields(merged, 0, len(merged)):
        if number in TRAINER:
            name, default = TRAINER[number]
            trainer[name] = _typed(value, default, f"trainer_spec.{name}")
    rules = _rules(b"".join(parts[3]), "normalizer_spec")
    denormalizer = _rules(b"".join(parts[5]), "denormalizer_spec") if parts[5] else None
    if denormalizer is not None and not denormalizer.charsmap:
        denormalizer = None
    model = Model(tuple(pieces), trainer, rules, denormalizer, data)
    validate(model)
    return model


def byte_of(text: str) -> int:
    """The byte that a piece `<0x41>` stands for, or -1."""
    if len(text) == 6 and text.startswith("<0x") and text[5] == ">":
        digits = text[3:5]
        if all(c in "0123456789ABCDEF" for c in digits):
            return int(digits, 16)
    return -1


def validate(model: Model) -> None:
    """Refuse a vocabulary that the library would refuse too, and scores that no comparison can order.

    Raises:
        TokenizerError: one sentence that names the piece.
    """
    kind = model.trainer["model_type"]
    if kind not in (UNIGRAM, BPE):
        raise TokenizerError(
            f"trainer_spec.model_type: {TYPES.get(kind, kind)!r} is not supported, only unigram and bpe"
        )
    seen: dict[str, int] = {}
    found: set[int] = set()
    unknown = -1
    for id, piece in enumerate(model.pieces):
        text = piece.text
        _require(text != "", f"piece {id}", "is empty")
        if text == "\0" and piece.type == UNUSED:  # how the library fills up a vocabulary
            continue
        _require("\0" not in text, f"piece {id}", f"{text[:40]!r} holds a NUL character")
        _require(
            len(text) < LONGEST_PIECE and len(text.encode()) < LONGEST_PIECE, f"piece {id}", "is 8000 bytes or more"
        )
        if text in seen:
            raise TokenizerError(f"pieces {seen[text]} and {id}: both are {text[:40]!r}")
        seen[text] = id
        _require(
            math.isfinite(piece.score), f"piece {id} ({text[:40]!r})", f"its score is {piece.score}, no finite number"
        )
        if piece.type == UNKNOWN:
            _require(unknown < 0, f"pieces {unknown} and {id}", "both stand for what is unknown; there must be one")
            unknown = id
        elif piece.type == BYTE:
            _require(model.trainer["byte_fallback"], f"piece {id} ({text})", "is a byte, but byte_fallback is off")
            _require(
                byte_of(text) >= 0,
                f"piece {id}",
                f"{text[:40]!r} is marked as a byte, which is written <0x00> to <0xFF>",
            )
            found.add(byte_of(text))
    _require(unknown >= 0, "the file", "has no piece of type UNKNOWN (<unk>), which every model needs")
    if model.trainer["byte_fallback"] and len(found) < 256:
        missing = min(set(range(256)) - found)
        raise TokenizerError(f"byte_fallback is on, but there is no piece for the byte <0x{missing:02X}>")


# ------------------------------------------------------------------------------------------------ writing
def _number(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # negative numbers take ten bytes, as the format has it
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, float):
        return _number(number << 3 | FOUR_BYTES) + struct.pack("<f", value)
    if isinstance(value, int):  # booleans too
        return _number(number << 3 | VARINT) + _number(value)
    data = value.encode("utf-8") if isinstance(value, str) else bytes(value)
    return _number(number << 3 | BYTES) + _number(len(data)) + data


def _piece_bytes(piece: Piece) -> bytes:
    data = _field(1, piece.text) + _field(2, float(piece.score))
    return data if piece.type == NORMAL else data + _field(3, piece.type)


def _rules_bytes(rules: Rules) -> bytes:
    out = _field(1, rules.name) + (_field(2, rules.charsmap) if rules.charsmap else b"")
    out += _field(3, rules.add_dummy_prefix) + _field(4, rules.remove_extra_whitespaces)
    return out + _field(5, rules.escape_whitespaces)


def serialize(pieces: Sequence[Piece], trainer: dict[str, Any], rules: Rules) -> bytes:
    """The bytes of a `.model` file. `trainer` may hold any field named in `WRITTEN`; lists are repeated fields.

    Raises:
        TokenizerError: the vocabulary is one that no reader accepts.
    """
    known = dict(TRAINER.values())
    validate(Model(tuple(pieces), known | {k: v for k, v in trainer.items() if k in known}, rules))
    out = bytearray()
    for piece in pieces:
        out += _field(1, _piece_bytes(piece))
    written = bytearray()
    for name, number in sorted(WRITTEN.items(), key=lambda item: item[1]):
        value = trainer.get(name)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            if item is not None:
                written += _field(number, item)
    return bytes(out + _field(2, bytes(written)) + _field(3, _rules_bytes(rules)))


def appended(model: Model, pieces: Sequence[Piece]) -> Model:
    """The model with more pieces behind its own; all else that its file holds stays as it is.

    Raises:
        TokenizerError: the vocabulary is one that no reader accepts.
    """
    out = bytearray(model.source)  # repeated fields may stand anywhere, and a message given twice is merged
    for piece in pieces:
        out += _field(1, _piece_bytes(piece))
    out += _field(2, _field(WRITTEN["vocab_size"], len(model.pieces) + len(pieces)))
    return parse(bytes(out))
