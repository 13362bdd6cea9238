r"""Templates: fixed text and slots that the model fills, each with a constraint of its own.

    Template("Name: {name:/[A-Z][a-z]+/} Mood: {mood:['good', 'bad']}\nNote: {note:text, stop='\n', max_tokens=20}")
    Template("Record: {record}", record=Slot(schema={...}))
    Template(["Name: ", Slot("name", regex="[A-Z][a-z]+"), "."])

A slot is a regular expression between slashes, a list of choices, `text`, or a name alone, whose `Slot` is then an
argument. `{{` and `}}` are braces. A slot of text ends before its `stop`, by default the fixed text that follows (its
first 64 characters); a stop is written once, also where the fixed text begins with it. After `max_tokens` tokens a slot
of text ends by itself.

The template is one grammar over bytes, so tokens may cross from fixed text into a slot and back where the grammar
allows it (token healing). Fixed text is appended without a step of the model, up to the first token which could be part
of a longer one that goes on into the slot; from there the model chooses, among tokens that begin with the fixed text.
Where a text can be divided in several ways, each slot takes as much as it can, from left to right.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llmanac.core.errors import RequestError, SpecError, shown
from llmanac.generate.constrain import expressions as ex
from llmanac.generate.constrain._json_strings import literal
from llmanac.generate.constrain._template_text import Slot, read
from llmanac.generate.constrain._utf8 import EVERY
from llmanac.generate.constrain.automaton import compile_grammar
from llmanac.generate.constrain.json_schema import grammar as json_grammar
from llmanac.generate.constrain.json_schema import parse
from llmanac.generate.constrain.matcher import MaskFollower, Matcher
from llmanac.generate.constrain.regex import ANYTHING, parse_regex
from llmanac.kernels.constrain import recognize
from llmanac.kernels.constrain.items import ACCEPTS, FULL, memory_for

if TYPE_CHECKING:
    from llmanac.tokenizers import Tokenizer

MOST_PARTS, LONGEST = 1000, 100_000  # parts, and characters of a template
STOP = 64  # characters of fixed text that end a slot of text before it
Matchers = Callable[[int, str], Matcher]  # of the parts from a place on, behind a fixed text
ONE_OR_MORE = ex.Repeat(ex.Chars(EVERY), 1)


def template_of(given: object) -> Template:
    """A template, or that of a text. Raises RequestError for anything else, and as Template does."""
    if isinstance(given, Template):
        return given
    if not isinstance(given, str):
        raise RequestError(f"template: {shown(given)} is neither a Template nor a text")
    return _written(given)


@functools.lru_cache(maxsize=32)
def _written(text: str) -> Template:
    return Template(text)


class Template:
    """Fixed text and slots; see the module.

    Args:
        parts: the template as text, or texts (all of them fixed) and Slots in order.
        slots: the Slot of each name that the text gives no constraint for.

    Raises:
        RequestError: a slot that is not well-formed, has no constraint, or a name twice.
    """

    def __init__(self, parts: str | Sequence[str | Slot], **slots: Slot) -> None:
        if isinstance(parts, str) and len(parts) > LONGEST:
            raise RequestError(f"template: {len(parts):,} characters are more than {LONGEST:,}; make it shorter")
        given = read(parts, slots) if isinstance(parts, str) else list(parts)
        self.parts: list[str | Slot] = []
        for part in given:  # neighbouring fixed texts become one
            if isinstance(part, str) and self.parts and isinstance(self.parts[-1], str):
                self.parts[-1] += part
            elif part != "":
                self.parts.append(part)
        found = [part for part in self.parts if isinstance(part, Slot)]
        for slot in found:
            slot.check()
        names = [slot.name for slot in found]
        if twice := [name for name in names if names.count(name) > 1]:
            raise RequestError(f"template: two slots have the name {twice[0]!r}")
        if unknown := sorted(set(slots) - set(names)):
            raise RequestError(f"template: there is no slot {unknown[0]!r} in it")
        if (
            not self.parts
            or len(self.parts) > MOST_PARTS
            or sum(len(p) for p in self.parts if type(p) is str) > LONGEST
        ):
            raise RequestError(f"template: needs 1 to {MOST_PARTS} parts and at most {LONGEST:,} characters")
        self._made: weakref.WeakKeyDictionary[Tokenizer, Matchers] = weakref.WeakKeyDictionary()
        self._between: dict[tuple[int, int], GrammarReader] = {}
        self._pieces = [self._piece(at) for at in range(len(self.parts))]

    def _end(self, at: int) -> tuple[str | None, str]:
        """The stop of the free text at a place, and the fixed text behind the slot without that stop."""
        slot, after = self.parts[at], self.parts[at + 1] if at + 1 < len(self.parts) else ""
        assert isinstance(slot, Slot)
        if isinstance(after, Slot) and slot.stop is None:
            raise RequestError(f"template: nothing ends slot {slot.name!r} before {after.name!r}; give it a stop")
        fixed = after if isinstance(after, str) else ""
        stop = slot.stop or fixed[:STOP] or None
        return stop, fixed.removeprefix(stop or "")

    def _piece(self, at: int) -> ex.Grammar:
        """The grammar of a part; that of free text includes its stop, that of fixed text leaves out such a stop."""
        part, before = self.parts[at], self.parts[at - 1] if at else ""
        if isinstance(part, str):
            text = self._end(at - 1)[1] if isinstance(before, Slot) and before.free else part
            return _one(literal(text))
        if part.schema is not None:
            try:
                return json_grammar(part.schema, name=f"slot{at}.")
            except SpecError as error:
                raise RequestError(f"template: slot {part.name!r}: {str(error).removeprefix('schema: ')}") from None
        if part.choices is not None:
            return _one(ex.Union(tuple(map(literal, part.choices))))
        if part.regex is not None:
            try:
                return _one(parse_regex(part.regex))
            except RequestError as error:
                raise RequestError(f"template: slot {part.name!r}: {error}") from None
        stop, _ = self._end(at)
        if stop is None:
            return _one(ANYTHING)
        ended = ex.Concat((ANYTHING, literal(stop)))
        first = ex.And((ended, ex.Not(ex.Concat((ended, ONE_OR_MORE)))))
        if at + 1 < len(self.parts):
            return _one(first)
        return _one(ex.Union((first, ex.Not(ex.Concat((ended, ANYTHING))))))

    def grammar(self, start: int = 0, stop: int | None = None, before: str = "") -> ex.Grammar:
        """The texts of the parts from `start` to `stop`, behind the fixed text `before`."""
        rules: dict[str, ex.Node] = {}
        nodes: list[ex.Node] = [ex.Terminal(literal(before))]
        for piece in self._pieces[start:stop]:
            only = piece.rules[piece.start]
            if len(piece.rules) > 1 or not isinstance(only, ex.Terminal):
                rules |= piece.rules
                only = ex.Ref(piece.start)
            nodes.append(only)
        rules["template"] = ex.Concatenation(tuple(nodes))
        return ex.Grammar(rules, "template")

    def constraint(self, tokenizer: Tokenizer, ends: Collection[int], size: int) -> Callable[[], TemplateFollower]:
        """What makes the constraint of a sample. Arguments as of `MaskFollower`."""
        if tokenizer not in self._made:
            make = functools.lru_cache(maxsize=64)(lambda at, tail: Matcher(self.grammar(at, None, tail), tokenizer))
            make(0, "")  # what cannot be compiled is refused now
            self._made[tokenizer] = make
        matchers = self._made[tokenizer]
        return lambda: TemplateFollower(self, matchers, ends, size)

    def slots(self, text: str) -> dict[str, Any]:
        """The values of the slots in a text: texts, and the objects of schemas.

        Raises:
            ValueError: the text is not one of the template.
        """
        readers = self._readers
        data = text.encode("utf-8", "surrogatepass")
        if len(data) not in self._reader.ends(data, 0):  # at once, before ways to divide it are tried
            raise ValueError("the text is not one of the template")
        ends: list[list[int]] = [readers[0].ends(data, 0)]  # of the parts so far, the longest last
        starts, hopeless = [0], set[tuple[int, int]]()
        while len(ends) <= len(readers):
            if not ends[-1]:
                ends.pop()
                hopeless.add((len(ends), starts.pop()))
                continue
            stop = ends[-1].pop()
            if len(ends) == len(readers):
                if stop == len(data):
                    starts.append(stop)
                    break
            elif (len(ends), stop) not in hopeless:
                ends.append(readers[len(ends)].ends(data, stop))
                starts.append(stop)
        values = {}
        for at, part in enumerate(self.parts):
            if isinstance(part, Slot):
                found = data[starts[at] : starts[at + 1]].decode()
                if part.free and (end := self._end(at)[0]) is not None:
                    found = found.removesuffix(end)
                values[part.name] = found if part.schema is None else parse(found)
        return values

    @functools.cached_property
    def _reader(self) -> GrammarReader:
        return GrammarReader(self.grammar())

    @functools.cached_property
    def _readers(self) -> list[GrammarReader]:
        return [GrammarReader(piece) for piece in self._pieces]

    def begins(self, first: int, at: int, data: bytes, offset: int) -> int | None:
        """Where the part at a place begins in `data`, of which the parts from `first` on begin at `offset`."""
        if first == at:
            return offset
        if (first, at) not in self._between:
            self._between[first, at] = GrammarReader(self.grammar(first, at))
        found = self._between[first, at].ends(data, offset)
        return found[-1] if found else None

    def limit(self, at: int) -> int | None:
        """The most tokens of the slot of free text at a place."""
        part = self.parts[at]
        return part.max_tokens if isinstance(part, Slot) else None

    def stop(self, at: int) -> str | None:
        """What ends the slot of free text at a place."""
        return self._end(at)[0]


def _one(regex: ex.Regex) -> ex.Grammar:
    return ex.Grammar({"only": ex.Terminal(regex)}, "only")


class GrammarReader:
    """Reads bytes by a grammar, without a tokenizer."""

    def __init__(self, grammar: ex.Grammar) -> None:
        self.network = compile_grammar(grammar)
        self._room, self._lock = 1 << 11, threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Forget the sets, and have room for more of them."""
        self._room = min(8 * self._room, 1 << 17)
        self.memory = memory_for(int(self.network.classes.max()) + 1, self._room)

    def ends(self, data: bytes, start: int) -> list[int]:
        """Where the text from `start` on may end, in order."""
        buffer = np.frombuffer(data[start:] + b" ", np.uint8).copy()
        with self._lock:
            for _ in range(3):
                found, state = [], -1
                for at in range(len(buffer)):
                    state = int(recognize.follow(self.network, self.memory, state, buffer, max(0, at - 1), at))
                    if state < 0:
                        break
                    if self.memory.sets[state, ACCEPTS]:
                        found.append(start + at)
                if state != FULL:
                    return found
                self.clear()
        raise ValueError("the template is too ambiguous for this text")


class TemplateFollower:
    """One text that follows a template; see `generate.constraint.Constraint`.

    A `MaskFollower` of the template's grammar, which is exchanged for one of the rest where a slot has had all its
    tokens.
    """

    def __init__(self, template: Template, matchers: Matchers, ends: Collection[int], size: int) -> None:
        self.template, self._matchers, self._ends, self.size = template, matchers, ends, size
        self._begin()

    def _begin(self) -> None:
        self.tokens: list[int] = []
        self._text, self._stops = b"", list[int]()  # the text, and where each token ends in it
        self._limited = [at for at in range(len(self.template.parts)) if self.template.limit(at) is not None]
        self._done = (0, 0)  # parts that are complete for certain, and where the last of them ends
        self._current = MaskFollower(self._matchers(0, ""), self._ends, self.size)

    def mask(self) -> np.ndarray:
        """(V,) bool; where a token is forced, only that one."""
        forced = self.forced()
        if forced is None:
            return self._current.mask()
        only = np.zeros(self.size, np.bool_)
        only[forced] = True
        return only

    def forced(self) -> int | None:
        """The next token of fixed text, or None where the model has a choice."""
        return self._current.forced()

    def accepting(self) -> bool:
        """Whether the text may end."""
        return self._current.accepting()

    def advance(self, token: int) -> None:
        """Take a token that the mask allowed. Raises RequestError for another one."""
        self._current.advance(token)
        self.tokens.append(token)
        words = self._current.matcher.vocabulary.token
        self._text += words[token] if token < len(words) else b""
        self._stops.append(len(self._text))
        while self._limited and self._counted(self._limited[0]):
            del self._limited[0]

    def _counted(self, at: int) -> bool:
        """Whether the slot at a place is over; ends it after its last token."""
        before, offset = self._done
        if len(self._text) < offset:
            return False
        begins = self.template.begins(before, at, self._text, offset)
        if begins is None:
            return False
        stop = (self.template.stop(at) or "").encode()
        found = self._text.find(stop, begins) if stop else -1
        if found >= 0:
            self._done = (at + 1, found + len(stop))
            return True
        own = self._text[begins:]
        if sum(n > begins for n in self._stops) < (self.template.limit(at) or 0) or not _complete(own):
            return False
        tail = stop if at + 1 < len(self.template.parts) else b""
        tail = tail[next(n for n in range(len(tail), -1, -1) if own.endswith(tail[:n])) :]
        self._current = MaskFollower(self._matchers(at + 1, tail.decode()), self._ends, self.size)
        self._done = (at + 1, len(self._text) + len(tail))
        return True

    def rewind(self, count: int) -> None:
        """Take back the last `count` tokens."""
        if not 0 <= count <= len(self.tokens):
            raise ValueError(f"count: {count} is not between 0 and the {len(self.tokens)} tokens so far")
        kept = self.tokens[: len(self.tokens) - count]
        self._begin()
        for token in kept:
            self.advance(token)

    def copy(self) -> TemplateFollower:
        """Another one at the same place."""
        made = TemplateFollower.__new__(TemplateFollower)
        made.__dict__ |= self.__dict__
        made.tokens, made._stops, made._limited = list(self.tokens), list(self._stops), list(self._limited)
        made._current = self._current.copy()
        return made


def _complete(data: bytes) -> bool:
    """Whether no character is cut at the end."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
