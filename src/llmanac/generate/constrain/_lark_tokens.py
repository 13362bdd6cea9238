"""The tokens of a grammar in Lark's form, and the expressions of its strings and regular expressions."""

import ast
import re
from typing import NamedTuple

from llmanac.core.errors import RequestError, shown
from llmanac.generate.constrain.expressions import Chars, Concat, Regex
from llmanac.generate.constrain.regex import RegexFlags, RegexReader

TOKENS = re.compile(
    r"""(?P<space>(?:[ \t\r\f]|(?://|\#)[^\n]*|\\\n)+)|(?P<line>\n)|(?P<string>"(?:\\.|[^"\\\n])*"i?)"""
    r"""|(?P<regex>/(?!/)(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*)|(?P<range>\.\.)|(?P<arrow>->)"""
    r"""|(?P<number>-?[0-9]+)|(?P<directive>%[a-z_]+)|(?P<terminal>_*[A-Z][A-Z0-9_]*)"""
    r"""|(?P<rule>[?!]*_*[a-z][a-z0-9_]*)|(?P<sign>[:|()\[\]*+?~.,{}])"""
)


class Token(NamedTuple):
    kind: str
    text: str
    line: int


def refused(why: str, line: int) -> RequestError:
    return RequestError(f"grammar: line {line}: {why}")


def tokens_of(text: str) -> list[Token]:
    found: list[Token] = []
    at, line = 0, 1
    while at < len(text):
        match = TOKENS.match(text, at)
        if match is None:
            raise refused(f"{shown(text[at : at + 20])} is not understood", line)
        kind, at = str(match.lastgroup), match.end()
        if kind != "space":
            found.append(Token(kind, match.group(), line))
        line += match.group().count("\n")
    found.append(Token("end", "the end", line))
    joined: list[Token] = []
    depth = 0
    for index, token in enumerate(found):
        if token.kind == "sign":
            depth = max(0, depth + (token.text in "([{") - (token.text in ")]}"))
        if token.kind == "line":
            later = next(t for t in found[index:] if t.kind != "line")
            if depth or later.text == "|":
                continue  # the definition goes on
        joined.append(token)
    return joined


def string_of(token: Token) -> tuple[str, bool]:
    """A string's text, and whether its letters are to be of the case that they have."""
    if token.kind != "string":
        raise refused(f"{shown(token.text)} where a string is expected", token.line)
    plain = not token.text.endswith("i")
    try:
        value = ast.literal_eval(token.text if plain else token.text[:-1])
        value.encode()
    except (SyntaxError, ValueError):
        raise refused(f"{shown(token.text)} has a wrong escape", token.line) from None
    return str(value), plain


def literal_of(value: str, plain: bool) -> Regex:
    reader = RegexReader("", RegexFlags(ignore_case=not plain))
    return Concat(tuple(Chars(reader.cased(((ord(c), ord(c)),))) for c in value))


def regex_of(token: Token) -> Regex:
    body, _, flags = token.text[1:].rpartition("/")
    for flag in flags:
        if flag not in "isu":
            raise refused(f"the flag {flag!r} of {shown(token.text)} is not supported", token.line)
    try:
        found = RegexReader(body.replace("\\/", "/"), RegexFlags("i" in flags, "s" in flags)).whole()
    except RequestError as error:
        raise refused(str(error), token.line) from None
    if [*found] != [(False, False)]:
        raise refused(f"{shown(token.text)}: ^ and $ are not supported in a grammar", token.line)
    return found[False, False]
