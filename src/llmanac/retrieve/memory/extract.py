"""Facts that a chat model takes from a message, by two constrained calls.

The first call says of each sentence of the message whether it is a fact of the user, an end of one, or neither; what is
kept is the sentence itself. The second sees the stored facts that are nearest, and says for each such sentence: add,
update N, delete N or nothing. Both answers are JSON of a schema; nothing else can be said. Where the first finds
nothing there is one call. What the user asked to remember is neither shown to the model nor changed by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.core.errors import RequestError
from llmanac.core.files import read_toml
from llmanac.retrieve.folder.quotes import ORDERS, spans
from llmanac.retrieve.memory.recall import Fact, content
from llmanac.retrieve.memory.store import LONGEST, Done, Memory

if TYPE_CHECKING:
    from llmanac.generate.engine import Engine

MOST = 12  # sentences of a message that are read
SPARE = 512  # tokens of a prompt besides its examples
NEAREST = 3  # stored facts that are shown for each
Shots = Sequence[tuple[str, Sequence[str]]]
LABELS = ("fact", "ended", "neither")
TAKE, DECIDE = (read_toml(Path(__file__).with_name("extract.toml"))[call] for call in ("take", "decide"))


class FactExtractor:
    """Reads messages with an engine's chat model; a `reader` of a `Memory`.

    Raises:
        RequestError: the model has no chat template, or its context no room for the prompts.
    """

    def __init__(self, engine: Engine) -> None:
        tokenizer = engine.tokenizer
        if tokenizer is None or tokenizer.chat_template is None:
            raise RequestError("memory: the model has no chat template, so it reads no facts from messages")
        self.engine, self.tokenizer = engine, tokenizer
        self.take_shots = [(_numbered(texts), labels) for texts, labels in TAKE["examples"]]
        self.decide_shots = [(_notes(stored, new), choices) for stored, new, choices in DECIDE["examples"]]
        room, needed = engine.model.max_length, len(self._prompt(TAKE["task"], self.take_shots, "")) + SPARE
        if room is not None and room < needed:
            raise RequestError(f"memory: the model's context of {room} tokens is too short to read facts ({needed})")

    def __call__(self, memory: Memory, message: str) -> Done:
        said = self.take(message)
        if not said:
            return Done([], [])
        near = list(dict.fromkeys(fact for text in said for fact in self.own(memory, text)))
        choices = self.decide(near, said)
        kept, forgot = list[Fact](), list[Fact]()
        with memory.at_once():
            for text, choice in zip(said, choices, strict=False):
                verb, _, number = choice.partition(" ")
                old = near[int(number) - 1] if number else None
                if verb == "delete" and old and not {*content(text)} & {*content(old.text)}:
                    done = Done([], [])  # nothing in the sentence is of that fact
                elif verb == "delete":
                    done = Done([], memory.delete([fact for fact in near if fact == old and fact not in forgot]))
                else:
                    done = memory.remember(text, old, asked=False) if verb != "nothing" else Done([], [])
                kept, forgot = kept + done.kept, forgot + done.forgot
        return Done(kept, forgot)

    def own(self, memory: Memory, text: str) -> list[Fact]:
        """The stored facts nearest to a text that the user did not ask for: what they asked for is theirs to change."""
        return [fact for fact in memory.nearest(text, len(memory)) if not fact.asked][:NEAREST]

    def take(self, message: str) -> list[str]:
        """The sentences of a message that state something of the user, or say that something has ended."""
        said = [message[a:b] for a, b in spans(message) if b - a <= LONGEST][:MOST]
        labels = self._labels(TAKE["task"], self.take_shots, _numbered(said), LABELS, len(said)) if said else []
        chosen = [text for text, label in zip(said, labels, strict=False) if label != "neither"]
        return [text for text in chosen if not ORDERS.search(text)]

    def decide(self, near: Sequence[Fact], said: Sequence[str]) -> list[str]:
        """Of each sentence: add, update N, delete N or nothing, with N of the facts that are near, from 1."""
        ways = ["add", *(f"{verb} {n}" for verb in ("update", "delete") for n in range(1, len(near) + 1)), "nothing"]
        return self._labels(DECIDE["task"], self.decide_shots, _notes([f.text for f in near], said), ways, len(said))

    def _prompt(self, rules: str, shots: Shots, asked: str) -> list[int]:
        turns = [{"role": "system", "content": rules}]
        for text, labels in shots:
            answer = json.dumps({"labels": labels})
            turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        turns.append({"role": "user", "content": asked})
        return list(self.tokenizer.encode_chat(turns, add_generation_prompt=True)[0])

    def _labels(self, rules: str, shots: Shots, asked: str, ways: Sequence[str], count: int) -> list[str]:
        """One of `ways` for each of `count` sentences, by the model."""
        items = {"type": "array", "items": {"enum": list(ways)}, "minItems": count, "maxItems": count}
        schema = {
            "type": "object", "properties": {"labels": items}, "required": ["labels"], "additionalProperties": False,
        }  # fmt: skip
        ids = self._prompt(rules, shots, asked)
        [made] = self.engine.generate([ids], schema=schema, max_new_tokens=16 + 12 * count)
        parsed: Any = made.parsed
        return list(parsed["labels"]) if isinstance(parsed, dict) else []


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{i}. {text}" for i, text in enumerate(texts, 1))


def _notes(stored: Sequence[str], new: Sequence[str]) -> str:
    return "\n".join(["Stored:", _numbered(stored), "New:", _numbered(new)])
