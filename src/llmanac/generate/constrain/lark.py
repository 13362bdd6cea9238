r"""Grammars in the form of Lark, as `Grammar` trees.

    start: value                            // rules are in lower case, terminals in upper case
    value: object | "[" [value ("," value)*] "]" | STRING | NUMBER
    object: "{" [pair ("," pair)*] "}"
    pair: STRING ":" value
    STRING: /"[^"\\]*"/
    NUMBER: /-?[0-9]+/ | "inf"i
    %ignore /[ \n]+/

Alternatives, groups, `[...]` (optional), `* + ?`, `~ n`, `~ n..m`, strings and regular expressions (with the flags `i`
and `s`), ranges `"a".."z"`, terminals in terminals, recursive and ambiguous rules, `%ignore`. What only shapes Lark's
tree (`?rule`, `!rule`, `-> name`, priorities) is read and has no effect. A text matches where its characters can be
cut into terminals in any way that the rules allow, as with Lark's `earley` parser and `dynamic_complete` lexer. What
is ignored may be before and after every terminal. `%import`, `%declare`, `%override`, `%extend` and templates are
refused by name.
"""

from __future__ import annotations

import ast
import re
from typing import NamedTuple

from llmanac.core.errors import RequestError, nearest, shown
from llmanac.generate.constrain.expressions import (
    Chars,
    Choice,
    Concat,
    Grammar,
    Many,
    Node,
    Ref,
    Regex,
    Repeat,
    Sequence,
    Terminal,
    Union,
)  # fmt: skip
from llmanac.generate.constrain.regex import Flags, RegexReader

LONGEST, DEEPEST, MOST_REPEATS = 200_000, 60, 100_000
IGNORED = "%ignore"
TOKENS = re.compile(
    r"""(?P<space>(?:[ \t\r\f]|//[^\n]*|\\\n)+)|(?P<line>\n)|(?P<string>"(?:\\.|[^"\\\n])*"i?)"""
    r"""|(?P<regex>/(?!/)(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\\n\[])+/[a-z]*)|(?P<range>\.\.)|(?P<arrow>->)"""
    r"""|(?P<number>-?[0-9]+)|(?P<directive>%[a-z_]+)|(?P<terminal>_*[A-Z][A-Z0-9_]*)"""
    r"""|(?P<rule>[?!]*_*[a-z][a-z0-9_]*)|(?P<sign>[:|()\[\]*+?~.,{}])"""
)


class Token(NamedTuple):
    kind: str
    text: str
    line: int


def parse_lark(text: str, *, start: str = "start") -> Grammar:
    """The grammar of a text in Lark's form.

    Raises:
        RequestError: what is not understood or not supported, with its line.
    """
    return _GrammarReader(text).grammar(start)


def _error(why: str, line: int) -> RequestError:
    return RequestError(f"grammar: line {line}: {why}")


class _GrammarReader:
    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise RequestError(f"grammar: {len(text):,} characters are more than {LONGEST:,}; make it shorter")
        self.tokens, self.at, self.depth = _tokens(text), 0, 0
        self.rules: dict[str, tuple[Node, int]] = {}
        self.terminals: dict[str, tuple[Node, int]] = {}
        self.ignored: list[Node] = []

    # ------------------------------------------------------------------------------------------ statements
    def grammar(self, start: str) -> Grammar:
        while self.kind != "end":
            if self.kind == "line":
                self.at += 1
            elif self.kind == "directive":
                self.directive()
            else:
                self.definition()
        if start not in self.rules:
            raise RequestError(f"grammar: there is no rule {start!r}{nearest(start, self.rules)}; texts begin with it")
        resolved = _Terminals(self.terminals)
        ignored = Many(Choice(tuple(Terminal(resolved.regex(node)) for node in self.ignored)), 0)
        after = Ref(IGNORED) if self.ignored else None
        rules = {name: self.resolve(node, line, resolved, after) for name, (node, line) in self.rules.items()}
        if after is None:
            return Grammar(rules, start)
        first: dict[str, Node] = {IGNORED: ignored, "%start": Sequence((after, Ref(start)))}
        return Grammar({**rules, **first}, "%start")

    def directive(self) -> None:
        name, line = self.take().text, self.line
        if name != IGNORED:
            raise _error(f"{name} is not supported; write the definition out", line)
        self.ignored.append(self.alternatives())
        self.end_of_line()

    def definition(self) -> None:
        name = self.take()
        if name.kind not in ("rule", "terminal"):
            raise _error(f"{shown(name.text)} where a rule or terminal is to be defined", name.line)
        if self.text == "{":
            raise _error("templates are not supported; write the rules out", name.line)
        if self.skip("."):
            self.take()  # a priority
        if not self.skip(":"):
            raise _error(f"a ':' is missing after {name.text}", name.line)
        known, key = (self.rules, name.text.lstrip("?!")) if name.kind == "rule" else (self.terminals, name.text)
        if key in known:
            raise _error(f"{key} is defined twice", name.line)
        known[key] = (self.alternatives(), name.line)
        self.end_of_line()

    def end_of_line(self) -> None:
        if self.kind not in ("line", "end"):
            raise _error(f"{shown(self.text)} is not expected here", self.line)

    # ------------------------------------------------------------------------------------------ tokens
    @property
    def kind(self) -> str:
        return self.tokens[self.at].kind

    @property
    def text(self) -> str:
        return self.tokens[self.at].text

    @property
    def line(self) -> int:
        return self.tokens[self.at].line

    def take(self) -> Token:
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def skip(self, text: str) -> bool:
        found = self.text == text and self.kind in ("sign", "range", "arrow")
        self.at += found
        return found

    def number(self) -> int:
        token = self.take()
        if token.kind != "number" or not 0 <= int(token.text[:9]) <= MOST_REPEATS:
            raise _error(f"{shown(token.text)} is not a number from 0 to {MOST_REPEATS:,}", token.line)
        return int(token.text)

    # ------------------------------------------------------------------------------------------ expressions
    def alternatives(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _error(f"groups are nested more than {DEEPEST} deep", self.line)
        found = [self.sequence()]
        while self.skip("|"):
            found.append(self.sequence())
        self.depth -= 1
        return found[0] if len(found) == 1 else Choice(tuple(found))

    def sequence(self) -> Node:
        items = []
        while self.kind in ("string", "regex", "rule", "terminal") or (self.kind == "sign" and self.text in "(["):
            items.append(self.repeated())
        if self.skip("->"):
            self.take()
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def repeated(self) -> Node:
        node = self.atom()
        while True:
            if self.skip("*"):
                node = Many(node, 0)
            elif self.skip("+"):
                node = Many(node, 1)
            elif self.skip("?"):
                node = Many(node, 0, 1)
            elif self.skip("~"):
                line, least = self.line, self.number()
                most = self.number() if self.skip("..") else least
                if most < least:
                    raise _error(f"~ {least}..{most}: give the smaller number first", line)
                node = Many(node, least, most)
            else:
                return node

    def atom(self) -> Node:
        token = self.take()
        if token.text in ("(", "[") and token.kind == "sign":
            inner = self.alternatives()
            if not self.skip(")" if token.text == "(" else "]"):
                raise _error(f"the {token.text!r} is not closed", token.line)
            return inner if token.text == "(" else Many(inner, 0, 1)
        if token.kind == "string":
            value, plain = _string(token)
            if self.skip(".."):
                last, _ = _string(self.take())
                if len(value) != 1 or len(last) != 1 or last < value:
                    raise _error("a range needs a character on both sides, the smaller one first", token.line)
                return Terminal(Chars(((ord(value), ord(last)),)))
            return Terminal(_literal(value, plain))
        if token.kind == "regex":
            return Terminal(_regex(token))
        if token.text.startswith(("?", "!")):
            raise _error(f"{token.text} is not expected here", token.line)
        return Ref(token.text)

    # ------------------------------------------------------------------------------------------ names
    def resolve(self, node: Node, line: int, terminals: _Terminals, after: Node | None) -> Node:
        """A rule's node with its terminals in place of their names, each with what is ignored behind it."""
        match node:
            case Ref(name) if name in self.rules:
                return node
            case Ref(name):
                node = Terminal(terminals.named(name, line, self.rules))
            case Sequence(items):
                return Sequence(tuple(self.resolve(item, line, terminals, after) for item in items))
            case Choice(items):
                return Choice(tuple(self.resolve(item, line, terminals, after) for item in items))
            case Many(inner, least, most):
                return Many(self.resolve(inner, line, terminals, after), least, most)
        return node if after is None else Sequence((node, after))


class _Terminals:
    """Terminals by name, as regular expressions."""

    def __init__(self, nodes: dict[str, tuple[Node, int]]) -> None:
        self.nodes, self.known, self.open = nodes, dict[str, Regex](), set[str]()
        for name in nodes:
            self.named(name, nodes[name][1])

    def named(self, name: str, line: int, rules: dict[str, tuple[Node, int]] | None = None) -> Regex:
        if name in self.known:
            return self.known[name]
        if name not in self.nodes:
            near = nearest(name, [*self.nodes, *(rules or ())])
            what = "a terminal cannot use a rule" if name[:1].islower() and rules is None else "it is not defined"
            raise _error(f"{name}: {what}{near}", line)
        if name in self.open or len(self.open) > DEEPEST:
            raise _error(f"the terminal {name} uses itself, which only a rule may do", line)
        self.open.add(name)
        self.known[name] = self.regex(self.nodes[name][0], line)
        self.open.remove(name)
        return self.known[name]

    def regex(self, node: Node, line: int = 1) -> Regex:
        match node:
            case Terminal(regex):
                return regex
            case Ref(name):
                return self.named(name, line)
            case Sequence(items):
                return Concat(tuple(self.regex(item, line) for item in items))
            case Choice(items):
                return Union(tuple(self.regex(item, line) for item in items))
            case Many(inner, least, most):
                return Repeat(self.regex(inner, line), least, most)
        raise _error(f"{shown(node)} in a terminal", line)


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    at, line = 0, 1
    while at < len(text):
        match = TOKENS.match(text, at)
        if match is None:
            raise _error(f"{shown(text[at : at + 20])} is not understood", line)
        kind, at = str(match.lastgroup), match.end()
        if kind != "space":
            found.append(Token(kind, match.group(), line))
        line += match.group().count("\n")
    found.append(Token("end", "the end", line))
    joined: list[Token] = []
    depth = 0
    for index, token in enumerate(found):
        if token.kind == "sign":
            depth = max(0, depth + (token.text in "([") - (token.text in ")]"))
        if token.kind == "line":
            later = next(t for t in found[index:] if t.kind != "line")
            if depth or later.text == "|":
                continue  # the definition goes on
        joined.append(token)
    return joined


def _string(token: Token) -> tuple[str, bool]:
    """A string's text, and whether its letters are to be of the case that they have."""
    if token.kind != "string":
        raise _error(f"{shown(token.text)} where a string is expected", token.line)
    plain = not token.text.endswith("i")
    try:
        value = ast.literal_eval(token.text if plain else token.text[:-1])
        value.encode()
    except (SyntaxError, ValueError):
        raise _error(f"{shown(token.text)} has a wrong escape", token.line) from None
    return str(value), plain


def _literal(value: str, plain: bool) -> Regex:
    reader = RegexReader("", Flags(ignore_case=not plain))
    return Concat(tuple(Chars(reader.cased(((ord(c), ord(c)),))) for c in value))


def _regex(token: Token) -> Regex:
    body, _, flags = token.text[1:].rpartition("/")
    for flag in flags:
        if flag not in "isu":
            raise _error(f"the flag {flag!r} of {shown(token.text)} is not supported", token.line)
    try:
        found = RegexReader(body.replace("\\/", "/"), Flags("i" in flags, "s" in flags)).whole()
    except RequestError as error:
        raise _error(str(error), token.line) from None
    if [*found] != [(False, False)]:
        raise _error(f"{shown(token.text)}: ^ and $ are not supported in a grammar", token.line)
    return found[False, False]
