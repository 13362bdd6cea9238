"""Plain text: pieces of a file, and its lines, each bounded; every problem names the file with its line or byte.

A file larger than memory can be read, and a line longer than `Bounds.line` is skipped without being held.
"""

import codecs
from collections.abc import Iterator
from pathlib import Path

from llmanac.data.quarantine import SHOWN, Problems
from llmanac.data.unpack import Span, blocks

NULS, FEWEST_NULS = 0.01, 16  # fraction and number of NUL bytes in a block from which on it is binary
BOMS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def why_binary(block: bytes, at: int) -> str:
    """What shows that a block of a file, from byte `at` on, is no text; empty where nothing does."""
    nuls = block.count(0)
    if nuls < max(FEWEST_NULS, NULS * len(block)):
        return ""
    found = f"from byte {at + block.find(0)} on it is binary: {nuls:,} of {len(block):,} bytes are NUL"
    return f"{found} (UTF-16 without its mark?)"


def not_utf8(block: bytes, at: int, byte: int) -> str:
    guess = next((name for bom, name in BOMS.items() if at == 0 and block.startswith(bom)), None)
    hint = f"it looks like {guess}" if guess else f"byte 0x{byte:02x}"
    return f"not UTF-8 at byte {at} ({hint}); convert it to UTF-8, for example with iconv"


def text_pieces(path: Path, problems: Problems, *, limit: int, most: int | None = None) -> Iterator[str]:
    """A text file's content in pieces of about `limit` characters, cut after a blank line where one is near.

    A file that is not UTF-8, or binary, is one problem, named with its byte offset; nothing of it is used after that
    byte.

    Args:
        most: bytes that a piece may have; a single line of more is a problem of its own and left out.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    held, seen = "", 0
    for at, block in _texts(path, problems) if most is None else _short_lines(path, problems, most):
        if not block:  # a line was left out: what came before it ends here
            yield from _fitting(held, most)
            held = ""
            continue
        pending = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block)
        except UnicodeDecodeError as error:
            where = at - pending + error.start
            problems.report(path, None, not_utf8(block, where, error.object[error.start]), code="not-utf8")
            return
        if at == 0:
            text = text.removeprefix("\ufeff")
        seen = at + len(block)
        held += text
        while len(held) > limit:
            cut = _cut(held, limit)
            yield from _fitting(held[:cut], most)
            held = held[cut:]
    if decoder.getstate()[0]:
        where = seen - len(decoder.getstate()[0])
        problems.report(path, None, f"not UTF-8 at byte {where} (it ends inside a character)", code="not-utf8")
        return
    yield from _fitting(held, most)


def _texts(path: Path, problems: Problems) -> Iterator[tuple[int, bytes]]:
    """A file's blocks, each with its offset, up to where it is binary."""
    at = 0
    for block in blocks(path, problems):
        if not (at == 0 and block.startswith(tuple(BOMS))) and (reason := why_binary(block, at)):
            problems.report(path, None, reason, code="not-text")
            return
        yield at, block
        at += len(block)


def _fitting(piece: str, most: int | None) -> Iterator[str]:
    """A piece, or its parts where it has more than `most` bytes."""
    if most is None or len(piece) < 2 or 4 * len(piece) <= most or len(piece.encode("utf-8", "surrogatepass")) <= most:
        if piece:
            yield piece
        return
    cut = _cut(piece, max(1, len(piece) // 2))
    yield from _fitting(piece[:cut], most)
    yield from _fitting(piece[cut:], most)


def _cut(text: str, limit: int) -> int:
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return at + len(mark)
    return limit


def _short_lines(path: Path, problems: Problems, most: int) -> Iterator[tuple[int, bytes]]:
    """A text file's bytes, each part with its offset; a line of more than `most` bytes is left out for an empty part.

    Parts end where lines do. At most `most` bytes and a block are held.
    """
    held: list[bytes] = []
    number, size = 1, 0  # of the unfinished line: its number, and its bytes up to this block
    for at, block in _texts(path, problems):
        start, end = 0, block.find(b"\n")
        while end >= 0:  # to the end of the unfinished line; then over all the short lines that follow at once
            if size + end - start > most:
                reason = f"a line of {size + end - start:,} bytes, more than {most:,} ({problems.bounds.longer})"
                problems.report(path, number, f"{reason}; it is left out", code="too-large")
                yield at, b""
            elif part := b"".join([*held, block[start : end + 1]]):
                yield at + start - size, part
            held.clear()
            number, start, size = number + block.count(b"\n", start, end + 1), end + 1, 0
            end = block.rfind(b"\n", start) if len(block) - start <= most else block.find(b"\n", start)
        size += len(block) - start
        if size <= most:
            held.append(block[start:])
        else:
            held.clear()
    if size > most:
        reason = f"a line of {size:,} bytes, more than {most:,} ({problems.bounds.longer}); it is left out"
        problems.report(path, number, reason, code="too-large")
    elif size:
        yield at + len(block) - size, b"".join(held)


def lines(path: Path, problems: Problems, span: Span | None = None, *, ends: str = "\r") -> Iterator[tuple[int, str]]:
    """Lines with their numbers; one that is not UTF-8, or longer than `Bounds.line`, is a problem of its own.

    Args:
        ends: characters that are taken off the end of a line with its newline.
    """
    limit = problems.bounds.line
    number, offset = (1, 0) if span is None else (span.line, span.start)
    held: list[bytes] = []
    size = 0  # bytes of the unfinished line; what is past `limit` is counted and not held

    def finish(last: bytes) -> Iterator[tuple[int, str]]:
        line = b"".join([*held, last]) if held else last
        if size + len(last) > limit:
            reason = f"a line of {size + len(last):,} bytes, more than {limit:,} ({problems.bounds.longer})"
            reason += "; it is left out"
            problems.report(path, number, reason, line[:SHOWN].decode("utf-8", "replace"), code="too-large")
            return
        text = _decode_line(path, number, line, offset, problems)
        if text is not None:
            yield number, text.rstrip(ends)

    for block in blocks(path, problems, span):
        *whole, rest = block.split(b"\n")
        for line in whole:
            yield from finish(line)
            number, offset, size = number + 1, offset + size + len(line) + 1, 0
            held.clear()
        if rest:
            size += len(rest)
            if size <= limit or not held:
                held.append(rest)
            elif len(held) > 1:
                held[:] = [held[0][:SHOWN]]
    if size:
        size, last = size - len(held[-1]), held.pop()
        yield from finish(last)


def _decode_line(path: Path, number: int, line: bytes, offset: int, problems: Problems) -> str | None:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        reason = not_utf8(line, offset + error.start, error.object[error.start])
        problems.report(path, number, reason, line.decode("utf-8", "replace"), code="not-utf8")
        return None
