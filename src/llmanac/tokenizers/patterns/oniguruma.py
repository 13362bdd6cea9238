r"""Patterns of a `tokenizer.json`, which Hugging Face `tokenizers` gives to Oniguruma, as patterns of `regex`.

Both share most of the syntax, but not its meaning: in Oniguruma `^` and `$` match at the ends of lines, `{1,3}+`
repeats a repeat, `{e<=3}` is text, `\h` is a hexadecimal digit. A pattern is parsed once and rewritten with
constructs that mean one thing; other constructs are refused by name.
"""

from dataclasses import dataclass, field, replace

from llmanac.tokenizers.patterns.sets import (
    ANY,
    LETTERS_THAT_JOIN,
    Flags,
    Node,
    PatternError,
    Set,
    escaped,
    property_set,
)

DEEPEST, LONGEST, MOST_REPEATS = 40, 20_000, 10_000
PAIRS_THAT_JOIN = frozenset(("ss", "st", "ff", "fi", "fl"))  # which fold to a ligature or to the sharp s
LINE_START, LINE_END = r"(?:\A|(?<=\n)(?!\Z))", r"(?:\Z|(?=\n))"
NEWLINES = r"(?>\r\n|[\n\x0b\x0c\r\x85\u2028\u2029])"
CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "e": "\x1b"}
GROUPS_REFUSED = (
    ("?R", "recursion"), ("?&", "recursion"), ("?P", "Python's groups"), ("?(", "a condition"),
    ("?~", "an absent group"),
    ("?{", "a callout"), ("*", "a callout"), ("?|", "a branch reset"), ("?+", "recursion"), ("?'", "a named group"),
)  # fmt: skip


@dataclass
class PatternReader:
    pattern: str
    at: int = 0
    depth: int = 0
    flags: Flags = field(default_factory=Flags)

    def peek(self, size: int = 1) -> str:
        return self.pattern[self.at : self.at + size]

    def take(self, size: int = 1) -> str:
        taken = self.peek(size)
        if len(taken) < size:
            raise PatternError("ends too early")
        self.at += size
        return taken

    def skip(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def until(self, mark: str) -> str:
        end = self.pattern.find(mark, self.at)
        if end < 0:
            raise PatternError(f"a {mark!r} is missing")
        found, self.at = self.pattern[self.at : end], end + 1
        return found

    # ---------------------------------------------------------------------------- alternatives and sequences
    def alternatives(self) -> Node:
        """Up to the next closing bracket or the end."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise PatternError(f"groups nested more than {DEEPEST} deep are not supported")
        branches = [self.sequence()]
        while self.skip("|"):
            branches.append(self.sequence())
        self.depth -= 1
        letters = frozenset().union(*(branch.letters for branch in branches))
        if len(branches) == 1:
            return branches[0]
        return Node("|".join(b.text for b in branches), min(b.width for b in branches), False, letters)

    def sequence(self) -> Node:
        nodes: list[Node] = []
        while self.peek() not in ("", "|", ")"):
            node = self.option() or self.quantified()
            if node is not None:
                if nodes and any(a + b in PAIRS_THAT_JOIN for a in nodes[-1].letters for b in node.letters):
                    raise PatternError("(?i) with letters that fold to one, such as ss or fi, is not supported")
                nodes.append(node)
        if len(nodes) == 1:
            return nodes[0]
        letters = frozenset().union(*(node.letters for node in nodes))
        parts = [node.text if node.unit or "|" not in node.text else f"(?:{node.text})" for node in nodes]
        return Node("".join(parts), sum(node.width for node in nodes), False, letters)

    def option(self) -> Node | None:
        """`(?i)`, which holds up to the end of the group, further alternatives included."""
        start = self.at
        if not self.skip("(?"):
            return None
        signs = ""
        while self.peek() and self.peek() in "imxsWDSPy-":
            signs += self.take()
        if not signs or not self.skip(")"):
            self.at = start
            return None
        before, self.flags = self.flags, self.with_options(signs)
        inner = self.alternatives()
        self.flags = before
        return replace(inner, text=f"(?:{inner.text})", unit=True, single=False)

    def with_options(self, signs: str) -> Flags:
        flags, value = self.flags, True
        for sign in signs:
            if sign == "-":
                value = False
            elif sign == "i":
                flags = replace(flags, ignore_case=value)
            elif sign == "m":
                flags = replace(flags, dot_all=value)
            else:
                raise PatternError(f"the option (?{sign}) is not supported")
        return flags

    # ---------------------------------------------------------------------------- quantifiers
    def quantified(self) -> Node | None:
        node = self.atom()
        while node is not None:
            bounds = self.bounds()
            if bounds is None:
                return node
            node = self.repeated(node, *bounds)
        return node

    def bounds(self) -> tuple[int, int | None, str] | None:
        """`(least, most, how)` of a quantifier at this place; `how` is "", "?" (lazy) or "+" (possessive)."""
        sign = self.peek()
        if sign and sign in "?*+":
            self.take()
            how = self.take() if self.peek() and self.peek() in "?+" else ""
            return {"?": (0, 1), "*": (0, None), "+": (1, None)}[sign] + (how,)
        if sign != "{":
            return None
        end = self.pattern.find("}", self.at)
        inner = self.pattern[self.at + 1 : max(end, self.at)]
        low, comma, high = inner.partition(",")
        digits = all(part == "" or (part.isascii() and part.isdigit()) for part in (low, high))
        if end < 0 or not digits or not (low or high):
            return None  # a brace that is text
        self.at = end + 1
        if max(len(low), len(high)) > 6 or max(int(low or 0), int(high or 0)) > MOST_REPEATS:
            raise PatternError(f"more than {MOST_REPEATS} repeats are not supported")
        if not comma:
            if self.skip("?"):
                return 0, int(low), f"={low}"
            return int(low), int(low), ""
        least, most = int(low or 0), int(high) if high else None
        if most is not None and most < least:
            raise PatternError(f"the repeat {{{inner}}}, whose second number is the smaller one, is not supported")
        return least, most, "?" if self.skip("?") else ""

    def repeated(self, node: Node, least: int, most: int | None, how: str) -> Node:
        if not node.repeatable:
            raise PatternError("a repeat of an assertion is not supported")
        if how.startswith("="):  # {n}? is an optional {n}
            inner = self.repeated(node, most or 0, most, "")
            return self.repeated(inner, 0, 1, "")
        if node.width == 0 and most != 1:
            raise PatternError("a repeat of what can be empty is not supported")
        if self.flags.behind and how == "+":
            raise PatternError("a possessive repeat in a look-behind is not supported")
        if node.letters & LETTERS_THAT_JOIN and (least > 1 or (most or 2) > 1):
            raise PatternError("(?i) with a repeat of s or f is not supported")
        if (least, most, how) == (1, None, "") and node.single is False and node.text.endswith("}"):
            node = _without_upper_bound(node)
            if node.text.endswith("+"):
                return node
        signs = {(0, 1): "?", (0, None): "*", (1, None): "+"}.get((least, most))
        if signs is None:
            signs = f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}"
        text = node.text if node.unit else f"(?:{node.text})"
        return Node(f"{text}{signs}{how}", node.width * least, False, node.letters)

    # ---------------------------------------------------------------------------- atoms
    def atom(self) -> Node | None:
        sign = self.take()
        if sign == "(":
            return self.group()
        if sign == "[":
            found = self.bracket()
            return Node(found.text, 1, single=True)
        if sign == "\\":
            return self.escape()
        if sign == "^":
            return Node(LINE_START, 0, repeatable=False)
        if sign == "$":
            return Node(LINE_END, 0, repeatable=False)
        if sign == ".":
            return Node(ANY.text if self.flags.dot_all else r"[^\n]", 1, single=True)
        if sign in "?*+":
            raise PatternError(f"the repeat {sign!r} has nothing before it")
        return self.literal(sign)

    def literal(self, character: str) -> Node:
        if not self.flags.ignore_case:
            return Node(escaped(character), 1, single=True)
        found = Set.of(character).any_case()
        letters = frozenset(character.lower()) if character.isascii() and character.isalpha() else frozenset()
        return Node(found.text if letters else escaped(character), 1, letters=letters, single=True)

    def group(self) -> Node | None:
        if self.skip("?#"):
            self.until(")")
            return None
        before = self.flags
        for sign in ("?=", "?!", "?<=", "?<!"):
            if self.skip(sign):
                if before.behind:
                    raise PatternError("a look-ahead or look-behind inside a look-behind is not supported")
                self.flags = replace(before, behind="<" in sign)
                inner = self.closed(before)
                return Node(f"({sign}{inner.text})", 0, repeatable=False)
        if self.skip("?>"):
            if before.behind:
                raise PatternError("an atomic group in a look-behind is not supported")
            inner = self.closed(before)
            return Node(f"(?>{inner.text})", inner.width, letters=inner.letters)
        for sign, name in GROUPS_REFUSED:
            if self.pattern.startswith(sign, self.at):
                raise PatternError(f"{name} ({'(' + self.peek(3)}) is not supported")
        if self.skip("?<"):
            if not self.until(">").isidentifier():
                raise PatternError("a group's name is to be a word")
        elif self.skip("?"):
            start = self.at
            while self.peek() and self.peek() in "imxsWDSPy-":
                self.take()
            signs = self.pattern[start : self.at]
            if not self.skip(":"):
                raise PatternError(f"the group (?{(signs + self.peek())[:10]} is not supported")
            self.flags = self.with_options(signs)
        inner = self.closed(before)
        return Node(f"(?:{inner.text})", inner.width, letters=inner.letters)

    def closed(self, flags: Flags) -> Node:
        inner = self.alternatives()
        if not self.skip(")"):
            raise PatternError("a ')' is missing")
        self.flags = flags
        return inner

    def escape(self) -> Node:
        sign = self.peek()
        simple = {"A": r"\A", "z": r"\Z", "Z": r"(?=\n?\Z)"}.get(sign)
        if simple is not None:
            self.take()
            return Node(simple, 0, repeatable=False)
        if sign in ("b", "B"):
            self.take()
            word = property_set("word", outside=True).text
            inside = f"(?:(?<={word})(?={word})|(?<!{word})(?!{word}))"
            outside = f"(?:(?<={word})(?!{word})|(?<!{word})(?={word}))"
            return Node(outside if sign == "b" else inside, 0, repeatable=False)
        if sign == "R":
            self.take()
            if self.flags.behind:
                raise PatternError(r"\R in a look-behind is not supported")
            return Node(NEWLINES, 1)
        if sign in ("N", "O"):
            self.take()
            return Node(r"[^\n]" if sign == "N" else ANY.text, 1, single=True)
        found = self.escaped_set()
        if isinstance(found, str):
            return self.literal(found)
        if self.flags.ignore_case:
            found = found.any_case()
        return Node(found.text, 1, single=True)

    def escaped_set(self, bracket: bool = False) -> Set | str:
        """The meaning of an escape that is also allowed in brackets: a set, or one character."""
        sign = self.take()
        if sign in "wWsSdDhH":
            name = {"w": "word", "s": "space", "d": "digit", "h": "xdigit"}[sign.lower()]
            found = property_set(name, outside=not bracket)
            return found.negated() if sign.isupper() else found
        if sign in "pP":
            if not self.skip("{"):
                raise PatternError(rf"\{sign} without braces is not supported")
            name = self.until("}")
            negative = (sign == "P") != name.startswith("^")
            found = property_set(name.removeprefix("^"), outside=not bracket)
            return found.negated() if negative else found
        if sign in CONTROLS:
            return CONTROLS[sign]
        if sign in ("x", "u"):
            return self.code_point(sign)
        if sign == "b" and bracket:
            return "\b"
        if sign == "0" and not (self.peek() and self.peek() in "01234567"):
            return "\0"
        if sign.isascii() and sign.isalnum():
            what = "a back reference" if sign.isdigit() else "the escape"
            raise PatternError(rf"{what} \{sign} is not supported")
        return sign

    def code_point(self, sign: str) -> str:
        if sign == "x" and self.skip("{"):
            digits = self.until("}")
        else:
            digits = self.take(2 if sign == "x" else 4)
        if not 0 < len(digits) <= 8 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
            raise PatternError(rf"\{sign} needs hexadecimal digits")
        found = int(digits, 16)
        bare_byte = sign == "x" and not self.pattern.endswith("}", 0, self.at) and found > 0x7F
        if bare_byte or found > 0x10FFFF or 0xD800 <= found < 0xE000:
            raise PatternError(rf"\{sign} with {digits} is no character")
        return chr(found)

    # ---------------------------------------------------------------------------- brackets
    def bracket(self) -> Set:
        """A set in brackets, whose opening one has been read."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise PatternError(f"brackets nested more than {DEEPEST} deep are not supported")
        negative = self.skip("^")
        if self.peek() == "]":
            raise PatternError("brackets that begin with ']' are not supported; write \\]")
        parts: list[Set] = []
        found = Set()
        while not self.skip("]"):
            if self.skip("&&"):
                parts.append(found)
                found = Set()
                continue
            found = found | self.item()
        if self.flags.ignore_case:
            found = found.any_case()
            parts = [part.any_case() for part in parts]
        parts.append(found)
        if any(part.is_empty for part in parts):
            raise PatternError("brackets with nothing between them are not supported")
        whole = parts[0]
        for part in parts[1:]:
            whole = whole & part
        self.depth -= 1
        return whole.negated() if negative else whole

    def item(self) -> Set:
        if self.skip("[:"):
            name = self.until(":")
            if not self.skip("]"):
                raise PatternError(f"[:{name[:20]} is not closed")
            found = property_set(name.removeprefix("^"), outside=False, posix=True)
            return found.negated() if name.startswith("^") else found
        if self.skip("["):
            return self.bracket()
        first = self.member()
        if isinstance(first, Set):
            if self.peek() == "-" and self.peek(2) != "-]":
                raise PatternError("a range that begins with a class is not supported")
            return first
        if first == "-" and self.peek() == "-":
            raise PatternError("'--' in brackets is not supported; write \\-")
        if self.peek() != "-" or self.peek(2) == "-]":
            return Set.of(first)
        self.take()
        last = self.member()
        if not isinstance(last, str) or last < first:
            raise PatternError(f"a range from {first!r} is to end with a character that is no smaller")
        if self.peek() == "-" and self.peek(2) != "-]":
            raise PatternError("a range after a range is not supported; write \\-")
        return Set.range(first, last)

    def member(self) -> Set | str:
        sign = self.take()
        if sign == "\\":
            return self.escaped_set(bracket=True)
        if sign == "[" or (sign == "&" and self.peek() == "&"):
            raise PatternError("a range that ends with a set is not supported")
        return sign


def _without_upper_bound(node: Node) -> Node:
    """`X{1,3}` in `(X{1,3})+` as `X+`, which takes the same and does not try every way to cut it."""
    body, _, bounds = node.text.rpartition("{")
    return replace(node, text=f"{body}+") if bounds.startswith("1,") else node


def translated(pattern: str) -> tuple[str, int]:
    """`(the pattern for regex's V1, how many characters a match has at least)`.

    Raises:
        PatternError: it is not a valid pattern, or has a construct that is not supported, by its name.
    """
    if len(pattern) > LONGEST:
        raise PatternError(f"has {len(pattern):,} characters; more than {LONGEST:,} are not supported")
    reader = PatternReader(pattern)
    whole = reader.alternatives()
    if reader.at < len(pattern):
        raise PatternError("has a ')' without a '('")
    return whole.text, whole.width
