"""Formulas as MathML: those that docstrings have in plain characters, and LaTeX between dollar signs.

A docstring's formula is an indented block in which half of the lines have a relation (`y = W x`, `m <- b m`). Two
spaces or more separate formulas of a line, and what is said of them in words. Words become text, `x_i`, `x^2` and
`x_{t-1}` indices, `sqrt(...)` a root. Where `latex2mathml` is not installed formulas stay plain text.
"""

import functools
import re
from collections.abc import Callable
from html import escape

convert: Callable[[str], str] | None
try:
    from latex2mathml.converter import convert
except ImportError:  # the extra `guide`
    convert = None

RELATION = re.compile(r"(?:^|\s)(?:=|<-|~|<=|>=|->|\+=|iff|in)(?:\s|$)")
CODE = re.compile(
    r"""["]|\s#\s|\w\(\w+=|\(\)|^\s*\{|^\w+ = \w+\.\w+\(|'\w+'|\w=\w(?![^{}]*\})|"""
    r"^(?:with|for|import) .*:$|^def "
)
NOTE = re.compile(r"\(?(?:[A-Za-z][\w'-]+,? ){2,}|\(?[A-Za-z]{4,}(?:[ ,.)]|$)|[a-z]+:")
_GREEK_WORDS = "alpha beta gamma delta theta lambda mu pi rho sigma tau phi psi omega eta kappa"
_SHORT_WORDS = "of or if in to is as at by on it be no an so is"  # of two letters
GREEK, SHORT = frozenset(_GREEK_WORDS.split()), frozenset(_SHORT_WORDS.split())
FUNCTIONS = frozenset(("log", "ln", "exp", "sin", "cos", "tanh", "max", "min", "det"))
NAMED = {"inf": r"\infty ", "eps": r"\epsilon "}
TOKEN = re.compile(
    r"`[^`]*`|\s+|[A-Za-z]{2,}'s\b|[A-Za-z]{2,}(?:_[A-Za-z]+){2,}|[A-Za-z]{2,}(?:-[A-Za-z]+)+|[A-Za-z](?:-[A-Za-z]{2,})+|[A-Za-z]+\d*|\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?|"
    r"<=|>=|->|<-|//|\.\.\.|\.\.|\|\||\S"
)
SIGNS = {
    "<=": r"\le ", ">=": r"\ge ", "->": r"\to ", "<-": r"\leftarrow ", "...": r"\dots ", "..": r"\dots ",
    "||": r"\parallel ", "|": "|", "~": r"\sim ", "{": r"\{", "}": r"\}", "#": r"\#", "%": r"\%", "&": r"\&",
    "//": r"\text{ // }",
    "$": r"\$", "\\": "", "<": r"\lt ", ">": r"\gt ", "_": r"\_", "^": r"\wedge ", "*": r"\cdot ", "@": r"\text{@}",
}  # fmt: skip
WORD = re.compile(r'<mrow>(?:<mi mathvariant="normal">[A-Za-z0-9]</mi>|<mn>\d+</mn>){2,}</mrow>')
LETTER = re.compile(r"<[^>]+>")
INDEX = re.compile(r"(?:<=|>=|<|>|[-+])?(?:[A-Za-z]+|\d+(?:\.\d+)?)'*|\.|\*")


def is_formula(lines: list[str]) -> bool:
    """Whether an indented block is one, and not code or a table of words."""
    real = [line for line in lines if line.strip()]
    related = sum(RELATION.search(line) is not None for line in real)
    return related > 0 and 2 * related >= len(real) and not any(CODE.search(line) for line in real)


def block(lines: list[str]) -> str | None:
    """A block of plain formulas as HTML; None where it cannot be made."""
    if convert is None or not is_formula(lines):
        return None
    out = []
    for line in filter(str.strip, lines):
        parts = [part for part in re.split(r"\s{2,}", line.strip()) if part]
        shown = [said if (said := _segment(part)) else f"<span>{escape(part)}</span>" for part in parts]
        out.append(f"<div>{' '.join(shown)}</div>")
    return f'<div class="formula" tabindex="0">{"".join(out)}</div>'


def _segment(text: str) -> str | None:
    """One formula of a line; None for words about it, such as a source in brackets."""
    if re.fullmatch(r"\([^()]*\b(?:19|20)\d\d\b[^()]*\)", text):
        return None
    symbols = RELATION.search(text) or re.search(r"[_^]", text) or (text.split()[0] in GREEK and " " in text)
    if NOTE.match(text) and not symbols:
        return None
    return mathml(latex(text))


@functools.lru_cache(maxsize=4096)
def mathml(formula: str) -> str | None:
    """LaTeX as MathML; None where it is not understood."""
    if convert is None:
        return None
    try:
        made = convert(formula)
    except Exception:  # it raises errors of many kinds for what it cannot read
        return None
    made = WORD.sub(lambda found: f"<mi>{LETTER.sub('', found[0])}</mi>", made)  # a name is one identifier
    made = made.replace("<mi>&#x02032;</mi>", "<mo>&#x02032;</mo>")
    return made if "\\" not in made else None


def latex(text: str) -> str:
    """A plain formula as LaTeX."""
    found, at, out, words = TOKEN.findall(text), 0, [], list[str]()

    def flush() -> None:
        if words:
            out.append(r"\text{ " + " ".join(words) + " }")
            words.clear()

    while at < len(found):
        token, after = found[at], found[at + 1] if at + 1 < len(found) else ""
        at += 1
        if token.isspace():
            continue
        if token == "sqrt" and after == "(":
            end = _closing(found, at)
            flush()
            out.append(r"\sqrt{" + latex("".join(found[at + 1 : end])) + "}")
            at = end + 1
            continue
        if token in "_^" and out and not words and found[at - 2 : at - 1] != [" "]:
            inside, at = _index(found, at)
            out.append(f"{token}{{{inside}}}")
            continue
        if token == "*" and out and at > 1 and not found[at - 2].isspace() and (not after or after in " )_"):
            out.append("^{*}")
            continue
        name = _name(token, after)
        if name is None:
            words.append(re.sub(r"[^\w .,:/'-]", "", token.strip("`").replace("_", " ")))
            continue
        flush()
        out.append(name)
    flush()
    return "".join(out)


def _name(token: str, after: str) -> str | None:
    """A token as LaTeX; None for a word of text."""
    if token.count("_") > 1 or token.endswith("'s"):
        return None
    letters = token.rstrip("0123456789")
    number = token[len(letters) :]
    if not letters or not letters[0].isalpha():
        return None if token[0] == "`" else SIGNS.get(token, token)
    if letters in ("sum", "prod") and after in ("_", "^", "("):
        return f"\\{letters} "
    if letters in FUNCTIONS or letters in GREEK:
        return f"\\{letters}" + (f"_{{{number}}}" if number else " ")
    if len(letters) == 1:
        return letters + (f"_{{{number}}}" if number else "")
    if letters in NAMED:
        return NAMED[letters]
    if after[:1] in ("(", "_", "^", "[", "'") or (len(letters) == 2 and letters.lower() not in SHORT):
        return r"\mathrm{" + token + "}"
    return None


def _closing(found: list[str], at: int) -> int:
    """The place of the bracket that closes the one at `at`; the last place where none does."""
    opened, closes, depth = found[at], {"(": ")", "{": "}"}[found[at]], 0
    for place in range(at, len(found)):
        depth += (found[place] == opened) - (found[place] == closes)
        if depth == 0:
            return place
    return len(found) - 1


def _index(found: list[str], at: int) -> tuple[str, int]:
    """What stands as an index after `_` or `^`, and where the text goes on."""
    if at < len(found) and found[at] in ("{", "("):
        end = _closing(found, at)
        return latex("".join(found[at + 1 : end])), end + 1
    rest = "".join(found[at:])
    match = INDEX.match(rest)
    text = match[0] if match else ""
    end, size = at, 0
    while end < len(found) and size < len(text):
        size += len(found[end])
        end += 1
    taken = "".join(found[at:end])
    sign = re.match(r"[<>=+-]*", taken)
    head = sign[0] if sign else ""
    body = taken[len(head) :]
    if body in GREEK:
        body = f"\\{body}"
    elif len(body) > 3 and body.isalpha():
        body = r"\mathrm{" + body + "}"
    return SIGNS.get(head, head) + body, end
