r"""Grammars in the form of Lark, as `Grammar` trees.

    start: value                            // rules are in lower case, terminals in upper case
    value: object | "[" [value ("," value)*] "]" | STRING | NUMBER
    object: "{" [pair ("," pair)*] "}"
    pair: STRING ":" value
    STRING: /"[^"\\]*"/
    NUMBER: SIGNED_INT | "inf"i
    %import common (SIGNED_INT, WS)     // the terminals of Lark's own grammar `common`
    %ignore WS

Alternatives, groups, `[...]` (optional), `* + ?`, `~ n`, `~ n..m`, strings and regular expressions (with the flags `i`
and `s`), ranges `"a".."z"`, terminals in terminals, recursive and ambiguous rules, `%ignore`. What only shapes Lark's
tree (`?rule`, `!rule`, `-> name`, priorities) is read and has no effect. A text matches where its characters can be
cut into terminals in any way that the rules allow, as with Lark's `earley` parser and `dynamic_complete` lexer. What
is ignored may be before and after every terminal. Templates (`_list{x, sep}: x (sep x)*`), `%override`, `%extend`, and
`%import` from `common`; other grammars are files, which are refused. What is only in `%declare` has no text, so its use
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmanac.core.errors import RequestError, nearest, shown
from llmanac.generate.constrain._lark_tokens import Token, literal_of, refused, regex_of, string_of, tokens_of
from llmanac.generate.constrain.expressions import (
    Chars,
    Choice,
    Concat,
    Concatenation,
    Grammar,
    Many,
    Node,
    Ref,
    Regex,
    Repeat,
    Terminal,
    Union,
)  # fmt: skip

LONGEST, DEEPEST, MOST_REPEATS, MOST_USES = 200_000, 60, 100_000, 2_000
COMMON = Path(__file__).with_name("common.lark")
IGNORED = "%ignore"


@dataclass(frozen=True)
class Use(Ref):
    """A template with what stands for its parameters."""

    given: tuple[Node, ...]


def parse_lark(text: str, *, start: str = "start") -> Grammar:
    """The grammar of a text in Lark's form.

    Raises:
        RequestError: what is not understood or not supported, with its line.
    """
    return _GrammarReader(text).grammar(start)


class _GrammarReader:
    def __init__(self, text: str) -> None:
        if len(text) > LONGEST:
            raise RequestError(f"grammar: {len(text):,} characters are more than {LONGEST:,}; make it shorter")
        self.tokens, self.at, self.depth = tokens_of(text), 0, 0
        self.rules: dict[str, tuple[Node, int]] = {}
        self.terminals: dict[str, tuple[Node, int]] = {}
        self.templates: dict[str, tuple[tuple[str, ...], Node, int]] = {}
        self.uses: dict[tuple[str, tuple[Node, ...]], str] = {}  # the rules of templates
        self.declared: set[str] = set()
        self.ignored: list[tuple[Node, int]] = []

    # ------------------------------------------------------------------------------------------ statements
    def statements(self) -> None:
        while self.kind != "end":
            if self.kind == "line":
                self.at += 1
            elif self.kind == "directive":
                self.directive()
            else:
                self.definition(self.take())

    def grammar(self, start: str) -> Grammar:
        self.statements()
        if start not in self.rules:
            raise RequestError(f"grammar: there is no rule {start!r}{nearest(start, self.rules)}; texts begin with it")
        resolved = _Terminals(self.terminals, self.declared)
        ignored = Many(Choice(tuple(Terminal(resolved.regex(*one)) for one in self.ignored)), 0)
        after = Ref(IGNORED) if self.ignored else None
        rules: dict[str, Node] = {}
        while len(rules) < len(self.rules):  # uses of templates add some
            for name in [*self.rules][len(rules) :]:
                rules[name] = self.resolve(*self.rules[name], resolved, after)
        if after is None:
            return Grammar(rules, start)
        first: dict[str, Node] = {IGNORED: ignored, "%start": Concatenation((after, Ref(start)))}
        return Grammar({**rules, **first}, "%start")

    def directive(self) -> None:
        name, line = self.take().text, self.line
        if name == IGNORED:
            self.ignored.append((self.alternatives(), line))
        elif name == "%import":
            self.imported()
        elif name == "%declare":
            while self.kind in ("rule", "terminal"):
                self.declared.add(self.take().text)
        elif name in ("%override", "%extend"):
            self.definition(self.take(), name)
        else:
            raise refused(f"{name} is not supported; write the definition out", line)
        self.end_of_line()

    def imported(self) -> None:
        """`common.NAME`, `common.NAME -> OTHER` or `common (NAME, NAME)`."""
        source = self.take()
        if source.text != "common" or not (self.skip(".") or self.text == "("):
            raise refused(f"%import {source.text}: only 'common' is known; write the definitions out", source.line)
        names = self.listed("(", ")") if self.text == "(" else [self.take()]
        for name in names:
            regex = _common().named(name.text, name.line)
            self.define(self.terminals, self.take().text if self.skip("->") else name.text, Terminal(regex), name.line)

    def listed(self, opening: str, closing: str) -> list[Token]:
        """Names between brackets."""
        self.skip(opening)
        found = [self.take()]
        while self.skip(","):
            found.append(self.take())
        if not self.skip(closing):
            raise refused(f"the {opening!r} is not closed", self.line)
        return found

    def definition(self, name: Token, change: str = "") -> None:
        if name.kind not in ("rule", "terminal"):
            raise refused(f"{shown(name.text)} where a rule or terminal is to be defined", name.line)
        parameters = tuple(token.text for token in self.listed("{", "}")) if self.text == "{" else ()
        if self.skip("."):
            self.take()  # a priority
        if not self.skip(":"):
            raise refused(f"a ':' is missing after {name.text}", name.line)
        node, key = self.alternatives(), name.text.lstrip("?!")
        if parameters:
            if key in self.templates:
                raise refused(f"{key} is defined twice", name.line)
            self.templates[key] = (parameters, node, name.line)
        else:
            self.define(self.rules if name.kind == "rule" else self.terminals, key, node, name.line, change)
        self.end_of_line()

    def define(self, known: dict[str, tuple[Node, int]], name: str, node: Node, line: int, change: str = "") -> None:
        if (name in known) != bool(change):
            why = f"{change}: there is no {name} above{nearest(name, known)}" if change else f"{name} is defined twice"
            raise refused(why, line)
        known[name] = (Choice((known[name][0], node)) if change == "%extend" else node, line)

    def end_of_line(self) -> None:
        if self.kind not in ("line", "end"):
            raise refused(f"{shown(self.text)} is not expected here", self.line)

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
            raise refused(f"{shown(token.text)} is not a number from 0 to {MOST_REPEATS:,}", token.line)
        return int(token.text)

    # ------------------------------------------------------------------------------------------ expressions
    def alternatives(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise refused(f"groups are nested more than {DEEPEST} deep", self.line)
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
        return items[0] if len(items) == 1 else Concatenation(tuple(items))

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
                    raise refused(f"~ {least}..{most}: give the smaller number first", line)
                node = Many(node, least, most)
            else:
                return node

    def atom(self) -> Node:
        token = self.take()
        if token.text in ("(", "[") and token.kind == "sign":
            inner = self.alternatives()
            if not self.skip(")" if token.text == "(" else "]"):
                raise refused(f"the {token.text!r} is not closed", token.line)
            return inner if token.text == "(" else Many(inner, 0, 1)
        if token.kind == "string":
            value, plain = string_of(token)
            if self.skip(".."):
                last, _ = string_of(self.take())
                if len(value) != 1 or len(last) != 1 or last < value:
                    raise refused("a range needs a character on both sides, the smaller one first", token.line)
                return Terminal(Chars(((ord(value), ord(last)),)))
            return Terminal(literal_of(value, plain))
        if token.kind == "regex":
            return Terminal(regex_of(token))
        if token.text.startswith(("?", "!")):
            raise refused(f"{token.text} is not expected here", token.line)
        if not self.skip("{"):
            return Ref(token.text)
        given = [self.atom()]
        while self.skip(","):
            given.append(self.atom())
        if not self.skip("}"):
            raise refused("the '{' is not closed", token.line)
        return Use(token.text, tuple(given))

    # ------------------------------------------------------------------------------------------ names
    def resolve(self, node: Node, line: int, terminals: _Terminals, after: Node | None) -> Node:
        """A rule's node with its terminals in place of their names, each with what is ignored behind it."""
        match node:
            case Use(name, given):
                return Ref(self.rule_of(name, given, line))
            case Ref(name) if name in self.rules:
                return node
            case Ref(name):
                node = Terminal(terminals.named(name, line, self.rules))
            case Concatenation(items):
                return Concatenation(tuple(self.resolve(item, line, terminals, after) for item in items))
            case Choice(items):
                return Choice(tuple(self.resolve(item, line, terminals, after) for item in items))
            case Many(inner, least, most):
                return Many(self.resolve(inner, line, terminals, after), least, most)
        return node if after is None else Concatenation((node, after))

    def rule_of(self, name: str, given: tuple[Node, ...], line: int) -> str:
        """The rule of a template with what stands for its parameters."""
        if name not in self.templates:
            raise refused(f"there is no template {name}{nearest(name, self.templates)}", line)
        parameters, node, where = self.templates[name]
        if len(given) != len(parameters):
            raise refused(f"{name} has {len(parameters)} parameters, and {len(given)} are given", line)
        given = tuple(Ref(self.rule_of(g.name, g.given, line)) if isinstance(g, Use) else g for g in given)
        made = self.uses.setdefault((name, given), f"{name}{{{len(self.uses)}}}")
        if len(self.uses) > MOST_USES:
            raise refused(f"{name}: more than {MOST_USES:,} uses of templates with different things", line)
        if made not in self.rules:
            self.rules[made] = (_filled(node, dict(zip(parameters, given, strict=True))), where)
        return made


class _Terminals:
    """Terminals by name, as regular expressions."""

    def __init__(self, nodes: dict[str, tuple[Node, int]], declared: set[str]) -> None:
        self.nodes, self.known, self.open, self.declared = nodes, dict[str, Regex](), set[str](), declared
        for name in nodes:
            self.named(name, nodes[name][1])

    def named(self, name: str, line: int, rules: dict[str, tuple[Node, int]] | None = None) -> Regex:
        if name in self.known:
            return self.known[name]
        if name not in self.nodes:
            near = nearest(name, [*self.nodes, *(rules or ())])
            what = "a terminal cannot use a rule" if name[:1].islower() and rules is None else "it is not defined"
            if name in self.declared:
                what, near = "it is only declared, so it has no text; define it", ""
            raise refused(f"{name}: {what}{near}", line)
        if name in self.open or len(self.open) > DEEPEST:
            raise refused(f"the terminal {name} uses itself, which only a rule may do", line)
        self.open.add(name)
        self.known[name] = self.regex(self.nodes[name][0], line)
        self.open.remove(name)
        return self.known[name]

    def regex(self, node: Node, line: int) -> Regex:
        match node:
            case Use(name):
                raise refused(f"the template {name} in a terminal, which only a rule may use", line)
            case Terminal(regex):
                return regex
            case Ref(name):
                return self.named(name, line)
            case Concatenation(items):
                return Concat(tuple(self.regex(item, line) for item in items))
            case Choice(items):
                return Union(tuple(self.regex(item, line) for item in items))
            case Many(inner, least, most):
                return Repeat(self.regex(inner, line), least, most)
        raise refused(f"{shown(node)} in a terminal", line)


@cache
def _common() -> _Terminals:
    reader = _GrammarReader(COMMON.read_text("utf-8"))
    reader.statements()
    return _Terminals(reader.terminals, set())


def _filled(node: Node, given: Mapping[str, Node]) -> Node:
    """A template's node with what stands for its parameters."""
    match node:
        case Use(name, inner):
            return Use(name, tuple(_filled(item, given) for item in inner))
        case Ref(name):
            return given.get(name, node)
        case Concatenation(items):
            return Concatenation(tuple(_filled(item, given) for item in items))
        case Choice(items):
            return Choice(tuple(_filled(item, given) for item in items))
        case Many(item, least, most):
            return Many(_filled(item, given), least, most)
    return node
