"""Texts to ids and back: what `llmanac tokenizer encode` writes. From standard input a line at a time.

Tokens as readable text: blanks and incomplete characters are made visible.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from llmanac.core.errors import DataError, TokenizerError
from llmanac.core.progress import progress
from llmanac.data import texts
from llmanac.data.command_problems import CommandProblems
from llmanac.recipes.vocabulary.texts import Reading
from llmanac.tokenizers import Special, Tokenizer
from llmanac.tokenizers.load import unreachable


def lines_of(paths: Sequence[str], reading: Reading, *, whole: bool, ids: bool) -> Iterator[tuple[str, str]]:
    """`(where, text)` of every line or row, or of every file as one text; no paths: standard input.

    Args:
        ids: lines of ids are wanted, which no table has.

    Raises:
        DataError: a file that is missing, cannot be read or is not UTF-8; it names the file and the line.
    """
    source = texts.files_of(paths or ["-"], column=reading.column, include=reading.include)
    problems = CommandProblems(column="--column")
    if ids:
        for path, _ in texts.inputs(source, problems):
            if not texts.is_plain(path):
                raise DataError(f"{path}: is no text file, and ids are read from lines of text")
    found = texts.whole(source, problems) if whole else texts.lines(source, problems, ends="")
    return ((f"{one.file}:{one.line}", one.text) for one in found)


def encode_lines(
    tokenizer: Tokenizer, texts: Iterator[tuple[str, str]], out: TextIO, *, special: Special, form: str, together:
    int = 0,
) -> tuple[int, int]:  # fmt: skip
    """Write a line of ids (`ids`), of tokens as text (`pieces`) or of both as JSON (`json`) a text.

    Args:
        together: characters of texts that are encoded together, which uses all cores; 0 to write each when it is read.

    Returns:
        Bytes read and tokens written.
    """
    size = tokens = 0
    with progress("encode", unit="B") as bar:
        for held in _groups(texts, together):
            for (_, text), ids in zip(held, _encoded(tokenizer, held, special), strict=True):
                if form == "json":
                    line = json.dumps({"ids": ids, "pieces": pieces(tokenizer, ids)}, ensure_ascii=False)
                else:
                    line = " ".join(pieces(tokenizer, ids) if form == "pieces" else map(str, ids))
                out.write(line + "\n")
                size += len(text.encode("utf-8", "replace"))
                tokens += len(ids)
            bar.update(size, tokens=tokens)
    return size, tokens


def _groups(texts: Iterator[tuple[str, str]], together: int) -> Iterator[list[tuple[str, str]]]:
    """The texts in lists of about so many characters; those before one that cannot be read come before its error."""
    held: list[tuple[str, str]] = []
    size = 0
    try:
        for where, text in texts:
            held.append((where, text))
            size += len(text)
            if size >= together or len(held) >= together:
                yield held
                held, size = [], 0
    except DataError:
        if held:
            yield held
        raise
    if held:
        yield held


def _encoded(tokenizer: Tokenizer, held: list[tuple[str, str]], special: Special) -> Iterator[list[int]]:
    if special == "never" and len(held) > 1:
        try:
            found = tokenizer.encode_batch([text for _, text in held])
        except TokenizerError:
            pass  # one by one, to say where
        else:
            yield from (ids.tolist() for ids in found)
            return
    for where, text in held:
        try:
            yield tokenizer.encode(text, special=special)
        except TokenizerError as error:
            raise TokenizerError(f"{where}: {error}") from None


def decode_lines(tokenizer: Tokenizer, lines: Iterator[tuple[str, str]], out: TextIO) -> None:
    """Write the text of every line of ids (blanks or commas between them, brackets around them or not).

    Raises:
        TokenizerError: what is no id of the tokenizer; it names the line.
    """
    with progress("decode", unit="lines") as bar:
        for where, line in lines:
            words = line.replace(",", " ").replace("[", " ").replace("]", " ").split()
            if not all(word.isascii() and word.isdigit() and len(word) < 12 for word in words):
                odd = next(word for word in words if not (word.isascii() and word.isdigit() and len(word) < 12))
                raise TokenizerError(f"{where}: {odd[:40]!r} is no token id")
            try:
                out.write(tokenizer.decode(map(int, words)) + "\n")
            except TokenizerError as error:
                raise TokenizerError(f"{where}: {error}") from None
            bar.advance()


MARKS = {" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"}
LONGEST, FIRST = 10, 20


def shown(data: bytes) -> str:
    """The bytes of a token: blanks, newlines and tabs as signs, what cannot be printed as `<0x1B>`."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" if byte >= 0x80 else shown(bytes([byte])) for byte in data)
    return "".join(MARKS.get(c) or (c if c.isprintable() else _code(c)) for c in text)


def _code(character: str) -> str:
    return "".join(f"<0x{byte:02X}>" for byte in character.encode("utf-8"))


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The tokens of a text, each as it is shown."""
    return [shown(tokenizer.token_bytes(id)) for id in ids]


def facts(tokenizer: Tokenizer, text: str | None = None) -> dict[str, Any]:
    """What `llmanac tokenizer inspect` says, as JSON data."""
    special = dict(sorted(tokenizer.special_tokens.items(), key=lambda item: item[1]))
    control = set(special.values())
    table = [(id, data) for id, data in enumerate(tokenizer._bytes) if data is not None and id not in control]
    never = unreachable(tokenizer)
    longest = sorted(table, key=lambda item: (-len(item[1]), item[0]))[:LONGEST]
    sizes = [len(data) for _, data in table]
    out: dict[str, Any] = {
        "class": type(tokenizer).__name__,
        "vocabulary": tokenizer.vocab_size,
        "tokens": len(table),
        "special_tokens": special,
        "roles": {role: getattr(tokenizer, f"{role}_id") for role in ("bos", "eos", "pad", "unknown")},
        "lossless": tokenizer.lossless,
        "merges": None if tokenizer.merges is None else int(tokenizer.merges.shape[1]),
        "mean_token_bytes": sum(sizes) / len(sizes) if sizes else 0.0,
        "longest": [{"id": id, "bytes": len(data), "token": shown(data)} for id, data in longest],
        "unreachable": None if never is None else len(never),
        "first_unreachable": [{"id": id, "token": shown(tokenizer.token_bytes(id))} for id in (never or [])[:FIRST]],
        "fingerprint": tokenizer.fingerprint(),
    }
    if text is not None:
        ids = tokenizer.encode(text)
        size = len(text.encode("utf-8", "replace"))
        out["text"] = {"ids": ids, "pieces": pieces(tokenizer, ids), "bytes_per_token": size / max(1, len(ids))}
        out["text"]["decoded"] = tokenizer.decode(ids)
    return out


def _never(found: dict[str, Any]) -> str:
    if found["unreachable"] is None:
        return "not counted: which tokens a text gives depends on the context"
    tokens = " ".join(item["token"] for item in found["first_unreachable"])
    return f"{found['unreachable']:,} tokens that no text gives" + (f": {tokens}" if tokens else "")


def described(found: dict[str, Any]) -> str:
    """The facts as a person reads them."""
    roles = ", ".join(f"{role} {id}" for role, id in found["roles"].items() if id is not None) or "none"
    lines = [
        f"{found['class']}, {found['vocabulary']:,} ids: {found['tokens']:,} tokens and {len(found['special_tokens'])} "
        f"special ones" + (f", {found['merges']:,} merges" if found["merges"] is not None else ""),
        f"roles          {roles}",
        "special        " + (", ".join(f"{id} {text}" for text, id in found["special_tokens"].items()) or "none"),
        f"comes back     {'every text as it was' if found['lossless'] else 'what is known, in the normal form'}",
        f"mean length    {found['mean_token_bytes']:.2f} bytes a token",
        "longest        " + ", ".join(f"{item['token']} ({item['bytes']})" for item in found["longest"]),
        "unreachable    " + _never(found),
        f"fingerprint    {found['fingerprint'][:16]}",
    ]
    if "text" in found:
        text = found["text"]
        lines += [
            "",
            f"{len(text['ids'])} tokens, {text['bytes_per_token']:.2f} bytes each: " + " ".join(text["pieces"]),
        ]
        lines.append("ids: " + " ".join(map(str, text["ids"])))
    return "\n".join(lines)
