"""What is written between the parts of JSON arrays and objects."""

from dataclasses import dataclass

from llmanac.generate.constrain._json_strings import literal
from llmanac.generate.constrain.expressions import Chars, Concat, Node, Regex, Repeat, Terminal

_SPACE = Repeat(Chars(((9, 10), (13, 13), (32, 32))), 0)


@dataclass(frozen=True)
class JSONLayout:
    """What is between the parts of arrays and objects."""

    comma: Regex
    colon: Regex
    inner: Regex | None = None  # behind an opening bracket and before a closing one

    def opening(self, bracket: str) -> Node:
        """`[` or `{`."""
        return Terminal(Concat((literal(bracket), *([self.inner] if self.inner else []))))

    def closing(self, bracket: str) -> Node:
        """`]` or `}`."""
        return Terminal(Concat((*([self.inner] if self.inner else []), literal(bracket))))


LAYOUTS = {
    "spaced": JSONLayout(literal(", "), literal(": ")),
    "compact": JSONLayout(literal(","), literal(":")),
    "any": JSONLayout(Concat((_SPACE, literal(","), _SPACE)), Concat((_SPACE, literal(":"), _SPACE)), _SPACE),
}
