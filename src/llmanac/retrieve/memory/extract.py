"""Facts that a chat model takes from a message, by two constrained calls.

The first call says of each sentence of the message whether it is a fact of the user, an end of one, or neither; what is
kept is the sentence itself. The second sees the stored facts that are nearest, and says for each such sentence: add,
update N, delete N or nothing. Both answers are JSON of a schema; nothing else can be said. Where the first finds
nothing there is one call. What the user asked to remember is neither shown to the model nor changed by it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmanac.core.errors import RequestError
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
TAKE = (
    "Label each sentence of the user's message. fact: it states something lasting about the user or the user's people, "
    "animals, things, work, home, health, plans or tastes. ended: it says that something about the user is over, or "
    "should be forgotten. neither: a question, a task, a quotation, a supposition, a mood, or the world."
)
SHOWN: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (  # mixed: a small model repeats the last labels
    (("Suppose I were a doctor.", "What would I earn?"), ("neither", "neither")),
    (("hi, im Petra from Lima", "How do magnets work?"), ("fact", "neither")),
    (("My new boss is called Ana.", "Fix this: he go home."), ("fact", "neither")),
    (("I wish I could fly.",), ("neither",)),
    (("If I were a bird, I would fly home.",), ("neither",)),
    (("What is the tallest mountain in Asia?",), ("neither",)),
    (("What is my name?",), ("neither",)),
    (("I'm not allergic to eggs after all.",), ("ended",)),
    (("I don't work at the post office any more.",), ("ended",)),
    (("Please delete my shoe size from your notes.",), ("ended",)),
    (("The hero of my book is called Max.",), ("neither",)),
    (("I need a regex for dates.",), ("neither",)),
    (("We sold the boat, so forget about it.",), ("ended",)),
    (("I'm so tired today.",), ("neither",)),
    (("my uncle Anton builds violins, isn't that great",), ("fact",)),
    (("Thanks, great!", "The canoe trip is in April."), ("neither", "fact")),
    (("Dinner ideas?", "We're five people and I can't eat eggs."), ("neither", "fact")),
    (('Translate: "I am a pilot."',), ("neither",)),
)
DECIDE = (
    "For each new sentence of the user say what to do with the stored facts. add: it states something else. "
    "update N: it gives stored fact N another value. delete N: stored fact N is over or should be forgotten. nothing: "
    "there is nothing to keep or to delete."
)
DECIDED: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ((), ("I have two sons.",), ("add",)),
    (("I live in Lima.",), ("I moved to Quito.",), ("update 1",)),
    (("My shoe size is 40.",), ("Please delete my shoe size.",), ("delete 1",)),
    (("My sister is called Eva.",), ("My brother is called Jan.",), ("add",)),
    (("I own a boat.",), ("I sold my boat.",), ("delete 1",)),
    ((), ("Forget my address.",), ("nothing",)),
    (("I like tea.", "I play golf."), ("I like cakes.", "I don't play golf any more."), ("add", "delete 2")),
    (("My son is five.",), ("My son turned six.",), ("update 1",)),
    (("I'm a vegan.",), ("I quit being vegan.", "I know Greek."), ("delete 1", "add")),
    (("My rent is 500 euros.", "I work at a bank."), ("My rent went up to 600.",), ("update 1",)),
    (("I speak Danish.",), ("I also speak Dutch.",), ("add",)),
)


class Extractor:
    """Reads messages with an engine's chat model; a `reader` of a `Memory`.

    Raises:
        RequestError: the model has no chat template, or its context no room for the prompts.
    """

    def __init__(self, engine: Engine) -> None:
        tokenizer = engine.tokenizer
        if tokenizer is None or getattr(tokenizer, "chat_template", None) is None:
            raise RequestError("memory: the model has no chat template, so it reads no facts from messages")
        self.engine, self.tokenizer = engine, tokenizer
        self.take_shots = [(_numbered(texts), labels) for texts, labels in SHOWN]
        self.decide_shots = [(_notes(stored, new), choices) for stored, new, choices in DECIDED]
        room, needed = engine.model.max_length, len(self._prompt(TAKE, self.take_shots, "")) + SPARE
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
        labels = self._labels(TAKE, self.take_shots, _numbered(said), LABELS, len(said)) if said else []
        chosen = [text for text, label in zip(said, labels, strict=False) if label != "neither"]
        return [text for text in chosen if not ORDERS.search(text)]

    def decide(self, near: Sequence[Fact], said: Sequence[str]) -> list[str]:
        """Of each sentence: add, update N, delete N or nothing, with N of the facts that are near, from 1."""
        ways = ["add", *(f"{verb} {n}" for verb in ("update", "delete") for n in range(1, len(near) + 1)), "nothing"]
        return self._labels(DECIDE, self.decide_shots, _notes([f.text for f in near], said), ways, len(said))

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
