"""The file of a SentencePiece tokenizer, `tokenizer.model`, and what a `tokenizer_config.json` adds to it.

The `.model` decides all ids of its pieces; a configuration names the special roles and tokens behind the model's own.

SentencePiece's `.model` files: the wire format of the protocol buffers in `sentencepiece_model.proto`.

A message is a run of fields, each a tag `(number << 3) | wire type` and a value: 0 a varint, 1 eight bytes, 2 a length
and that many bytes, 5 four bytes. A field given twice counts by its last value, a message given twice is merged.
What a file asks for and this package cannot do is refused by its name; fields that do not decide any id are kept as
they are and written back.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import TokenizerError
from llmanac.core.files import read_bytes, write_bytes
from llmanac.tokenizers import _pieces as pieces
from llmanac.tokenizers._added import AddedToken
from llmanac.tokenizers._base import ROLES
from llmanac.tokenizers._pieces import DEFAULTS, NORMAL, TRAINER, Model, NormalizerRules, ScoredPiece, require, validate
from llmanac.tokenizers._unigram import SentencePiece
from llmanac.tokenizers.hf.fields import CONFIG, MOST, content, flags_of, id_of, named_tokens

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5

# What a training writes besides, so that other readers know how it was done.
WRITTEN: dict[str, int] = {
    "character_coverage": 10, "max_sentencepiece_length": 20, "control_symbols": 30, "user_defined_symbols": 31,
    "unk_id": 40, "bos_id": 41, "eos_id": 42, "pad_id": 43,
} | {name: number for number, (name, _) in TRAINER.items()}  # fmt: skip


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
    """`(number, wire type, value)` of each field of the message `data[at:stop]`."""
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


def _text(value: int | bytes, where: str) -> str:
    require(isinstance(value, bytes), where, "expected text, got a number")
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError:
        raise TokenizerError(f"{where}: is not UTF-8") from None


def _typed(value: int | bytes, default: Any, where: str) -> Any:
    if isinstance(default, str):
        return _text(value, where)
    if isinstance(default, bytes):
        require(isinstance(value, bytes), where, "expected bytes, got a number")
        return value
    require(isinstance(value, int), where, "expected a number, got bytes")
    return bool(value) if isinstance(default, bool) else value


def _piece(data: bytes, where: str) -> ScoredPiece:
    text, score, kind = "", 0.0, NORMAL
    for number, wire, value in fields(data, 0, len(data)):
        if number == 1:
            text = _text(value, f"{where}: its text")
        elif number == 2:
            require(wire == FOUR_BYTES, where, "its score is not a 32-bit float")
            score = struct.unpack("<f", value)[0]  # type: ignore[arg-type]
        elif number == 3:
            require(wire == VARINT and value in range(1, 7), where, f"its type {value!r} is not one of 1 to 6")
            kind = int(value)
    return ScoredPiece(text, score, kind)


def _rules(data: bytes, where: str) -> NormalizerRules:
    named = {1: "name", 2: "charsmap", 3: "add_dummy_prefix", 4: "remove_extra_whitespaces", 5: "escape_whitespaces"}
    blank = NormalizerRules()
    given: dict[str, Any] = {}
    for number, _, value in fields(data, 0, len(data)):
        if number in named:
            name = named[number]
            given[name] = _typed(value, getattr(blank, name), f"{where}.{name}")
    return NormalizerRules(**given)


def parse(data: bytes) -> Model:
    """Read a `.model` file's bytes.

    Raises:
        TokenizerError: a truncated file, one of another kind, or a vocabulary that cannot be used; one sentence.
    """
    pieces: list[ScoredPiece] = []
    parts: dict[int, list[bytes]] = {2: [], 3: [], 5: []}
    for number, wire, value in fields(data, 0, len(data)):
        if number in (1, 2, 3, 5):
            require(wire == BYTES, f"field {number}", "expected a message; this is no SentencePiece model")
            if number == 1:
                pieces.append(_piece(value, f"piece {len(pieces)}"))  # type: ignore[arg-type]
            else:
                parts[number].append(value)  # type: ignore[arg-type]
    require(bool(pieces), "the file", "holds no piece; this is no SentencePiece model")
    for number, name in ((2, "trainer_spec"), (3, "normalizer_spec")):
        require(bool(parts[number]), "the file", f"has no {name}; it is truncated or no SentencePiece model")
    trainer = dict(DEFAULTS)
    merged = b"".join(parts[2])
    for number, _, value in fields(merged, 0, len(merged)):
        if number in TRAINER:
            name, default = TRAINER[number]
            trainer[name] = _typed(value, default, f"trainer_spec.{name}")
    rules = _rules(b"".join(parts[3]), "normalizer_spec")
    denormalizer = _rules(b"".join(parts[5]), "denormalizer_spec") if parts[5] else None
    if denormalizer is not None and not denormalizer.charsmap:
        denormalizer = None
    model = Model(tuple(pieces), trainer, rules, denormalizer, data, len(pieces))
    validate(model)
    return model


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


def _piece_bytes(piece: ScoredPiece) -> bytes:
    data = _field(1, piece.text) + _field(2, float(piece.score))
    return data if piece.type == NORMAL else data + _field(3, piece.type)


def _rules_bytes(rules: NormalizerRules) -> bytes:
    out = _field(1, rules.name) + (_field(2, rules.charsmap) if rules.charsmap else b"")
    out += _field(3, rules.add_dummy_prefix) + _field(4, rules.remove_extra_whitespaces)
    return out + _field(5, rules.escape_whitespaces)


def serialize(pieces: Sequence[ScoredPiece], trainer: dict[str, Any], rules: NormalizerRules) -> bytes:
    """The bytes of a `.model` file. `trainer` may hold any field named in `WRITTEN`; lists are repeated fields.

    Raises:
        TokenizerError: the vocabulary is one that no reader accepts.
    """
    validate(Model(tuple(pieces), trainer, rules))
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


def written(model: Model) -> bytes:
    """The bytes of a model's file: those that it was read from, and its further pieces."""
    if not model.source:
        return serialize(model.pieces, model.trainer, model.rules)
    new = model.pieces[model.filed :]
    if not new:
        return model.source
    out = bytearray(model.source)  # repeated fields may be anywhere, and a message given twice is merged
    for piece in new:
        out += _field(1, _piece_bytes(piece))
    return bytes(out + _field(2, _field(WRITTEN["vocab_size"], len(model.pieces))))


def load(path: Path, config: Mapping[str, Any], chat_template: str | None) -> SentencePiece:
    """Read a `.model` file, with roles and further tokens from a parsed `tokenizer_config.json`.

    Raises:
        TokenizerError: the file is broken or asks for what this package cannot do; one sentence.
    """
    data = read_bytes(path, most=MOST, error=TokenizerError)
    try:
        model = parse(data)
        control = {piece.text: id for id, piece in enumerate(model.pieces) if piece.type == pieces.CONTROL}
        added = [*(AddedToken(id=id, text=text) for text, id in control.items()), *_beyond(model, config)]
        known = {token.text for token in added}
        roles: dict[str, str | None] = {}
        for role in ROLES:
            named, own = content(config.get(f"{role}_token")), str(model.setting(f"{role}_piece"))
            roles[role] = named if named in known else own if own in control else None
        adds_bos = config.get("add_bos_token") is True
        further = {"chat_template": chat_template, "named": named_tokens(config)}
        return SentencePiece(model, added=added, adds_bos=adds_bos, **further, **roles)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _beyond(model: pieces.Model, config: Mapping[str, Any]) -> list[AddedToken]:
    """Tokens that a configuration adds behind the model's own ids."""
    table = config.get("added_tokens_decoder")
    out: list[AddedToken] = []
    for key, value in table.items() if isinstance(table, Mapping) else ():
        id, text = id_of(key), content(value)
        where = f"{CONFIG}: added_tokens_decoder.{str(key)[:40]}"
        if id is None or text is None or not isinstance(value, Mapping):
            raise TokenizerError(f"{where}: needs an id and a `content`")
        flags = flags_of(value, where)
        if id >= len(model.pieces):
            out.append(AddedToken(id=id, text=text, **flags))
    return out


def save(tokenizer: SentencePiece, path: Path) -> None:
    """Write the `.model` file, as the sentencepiece library reads it."""
    write_bytes(path, written(tokenizer.model))
