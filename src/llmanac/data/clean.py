"""Make text plain without changing what it says: line ends, control characters, trailing space, runs of blank lines."""

import re

# C0 and C1 controls but tab and newline, the byte order mark, and the noncharacters: none is ever written on purpose
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_LINE_ENDS = re.compile("\r\n|\r|\x0c|\u2028|\x85")
_LINE_MARKS = ("\r", "\x0c", "\u2028", "\x85")
_ASCII_CONTROLS = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F])
_SPACES = " \t\u00a0"
_BLANKS = re.compile(r"\n{4,}")


def clean(text: str) -> str:
    """Newlines are `\\n`, no control characters, no trailing space, at most two blank lines together, trimmed ends.

    Indentation, case, punctuation and every letter stay; cleaning twice changes nothing.
    """
    # searching for what is hardly ever there costs a tenth of replacing it
    if any(mark in text for mark in _LINE_MARKS):
        text = _LINE_ENDS.sub("\n", text)
    if text.isascii():
        text = text.encode("ascii").translate(None, _ASCII_CONTROLS).decode("ascii")
    else:
        text = _CONTROLS.sub("", text)
    if text[-1:] in _SPACES or any(space + "\n" in text for space in _SPACES):
        text = "\n".join([line.rstrip(_SPACES) for line in text.split("\n")])
    if "\n\n\n\n" in text:
        text = _BLANKS.sub("\n\n\n", text)
    return text.strip("\n").rstrip()
