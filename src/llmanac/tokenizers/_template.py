"""What goes around texts by convention: `[CLS] text [SEP]`, `text </s>`, pairs of texts, and the types of tokens.

Read from the `post_processor` of a `tokenizer.json`: TemplateProcessing, BertProcessing, RobertaProcessing; a ByteLevel
step adds nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llmanac.core.errors import TokenizerError

MOST_ITEMS = 64
A, B = "A", "B"
Item = tuple[str | tuple[int, ...], int]  # a text or the ids of a special token, and the type of its tokens


@dataclass(frozen=True)
class TokenTemplate:
    """single, pair: the items around one text and around two."""

    single: tuple[Item, ...]
    pair: tuple[Item, ...]

    def apply(self, first: Sequence[int], second: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """`(ids, type of each)` of one text or of a pair, with the special tokens around them."""
        texts = {A: first, B: second or ()}
        ids: list[int] = []
        types: list[int] = []
        for what, kind in self.single if second is None else self.pair:
            found = texts[what] if isinstance(what, str) else what
            ids += found
            types += [kind] * len(found)
        return ids, types

    @property
    def added(self) -> int:
        """How many tokens are put around one text."""
        return sum(len(what) for what, _ in self.single if not isinstance(what, str))


PLAIN = TokenTemplate(((A, 0),), ((A, 0), (B, 1)))


def template_of(processor: Any) -> TokenTemplate:
    """The template of a file's `post_processor`. Raises TokenizerError for what is not supported, by its name."""
    from llmanac.tokenizers.hf.fields import steps_of

    found = PLAIN
    for i, node in enumerate(steps_of(processor, "post_processor", "processors")):
        kind, where = node.get("type"), f"post_processor[{i}]"
        if kind == "ByteLevel":
            continue
        if found is not PLAIN:
            raise TokenizerError(f"{where}: a second step that adds tokens is not supported")
        if kind in ("BertProcessing", "RobertaProcessing"):
            (sep, cls), kind_of_second = (_end(node, key, where) for key in ("sep", "cls")), int(kind[0] == "B")
            middle = [(sep, 0)] * (1 + int(kind[0] == "R"))
            found = TokenTemplate(
                ((cls, 0), (A, 0), (sep, 0)),
                ((cls, 0), (A, 0), *middle, (B, kind_of_second), (sep, kind_of_second)),
            )
        elif kind == "TemplateProcessing":
            special = node.get("special_tokens")
            known = special if isinstance(special, Mapping) else {}
            items = (_items(node.get(name), known, f"{where}.{name}") for name in ("single", "pair"))
            found = TokenTemplate(*items)
        else:
            known_kinds = "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel"
            raise TokenizerError(f"{where}: {kind!r} is not supported (known: {known_kinds})")
    return found


def _end(node: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    pair = node.get(key)
    if not isinstance(pair, list) or len(pair) != 2 or not _is_id(pair[1]):
        raise TokenizerError(f"{where}.{key}: expected a token and its id, got {repr(pair)[:60]}")
    return (pair[1],)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 30


def _items(listed: Any, special: Mapping[str, Any], where: str) -> tuple[Item, ...]:
    if not isinstance(listed, list) or len(listed) > MOST_ITEMS:
        raise TokenizerError(f"{where}: expected a list of up to {MOST_ITEMS} items, got {repr(listed)[:60]}")
    return tuple(_item(item, special, f"{where}[{i}]") for i, item in enumerate(listed))


def _item(item: Any, special: Mapping[str, Any], where: str) -> Item:
    if isinstance(item, Mapping) and len(item) == 1:
        [(kind, held)] = item.items()
        if isinstance(held, Mapping) and _is_id(held.get("type_id")):
            name = held.get("id")
            if kind == "Sequence" and name in (A, B):
                return str(name), held["type_id"]
            about = special.get(name) if isinstance(name, str) else None
            ids = about.get("ids") if isinstance(about, Mapping) else None
            if kind == "SpecialToken" and isinstance(ids, list) and len(ids) <= MOST_ITEMS and all(map(_is_id, ids)):
                return tuple(ids), held["type_id"]
    raise TokenizerError(f"{where}: expected a text A or B, or a token of special_tokens, got {repr(item)[:60]}")


class Framed:
    """A tokenizer that knows what goes around texts."""

    encode: Callable[..., list[int]]
    document: Any = None  # the table of its tokenizer.json, where it has one

    @cached_property
    def template(self) -> TokenTemplate:
        """By the file's `post_processor`. Raises TokenizerError for one that is not supported."""
        document = self.document or {}
        return template_of(document.get("post_processor"))

    def framed(self, text: str, second: str | None = None) -> tuple[list[int], list[int]]:
        """`(ids, type of each)` of a text, or of a pair, with the special tokens that the file puts around them.

        Special tokens in the texts are plain text. Raises TokenizerError as `template` does.
        """
        return self.template.apply(self.encode(text), None if second is None else self.encode(second))
