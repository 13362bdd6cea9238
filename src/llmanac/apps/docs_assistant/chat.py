"""A chat model as the reader: it is shown passages of the kept index as `llmanac ask --mode quote` shows them, and
chooses the line that answers. Rows to tune it on are the assistant's own questions about training modules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.material import WEIGHTS, Material
from llmanac.apps.docs_assistant.prompt import Asked, Block, stated_defaults
from llmanac.core.errors import CheckpointError
from llmanac.retrieve.folder import Found
from llmanac.retrieve.folder import Passage as Kept
from llmanac.retrieve.folder.quotes import Quote
from llmanac.retrieve.folder.reader import PassageReader, shown, turns

RULES = "Answer with one line of the passages, word for word."
BUDGET, LONGEST = 420, 96  # tokens of passages in a prompt, and of an answer
ROW_PASSAGES, ROW_CHARACTERS = 2, 640  # of a row to tune on


class ChatReader:
    """Chooses lines with the engine of a chat model.

    Raises:
        CheckpointError: an index that was not kept.
    """

    def __init__(self, engine: Any, index: DocumentationIndex) -> None:
        if index.documents is None:
            raise CheckpointError("a chat model reads the kept passages; save the index first")
        self.index, self.kept = index, index.documents
        self.reader = PassageReader(engine, RULES, budget=BUDGET, longest=LONGEST)

    def read(self, asked: Asked, numbers: Sequence[int]) -> tuple[Block, str] | None:
        """The block and the line that the model says answers; None where nothing is shown."""
        found = [Found(self.kept[number], 0.0) for number in numbers]
        lines = [
            (quote, n) for one, n in zip(found, numbers, strict=True) for quote in self._quotes(one.passage, n, asked)
        ]
        if not lines:
            return None
        chosen = self.reader.choose(asked.text, found, [quote for quote, _ in lines])
        number = next(n for quote, n in lines if quote is chosen)
        entry = self.index.passages[number].entry
        own = tuple(
            line for n in numbers if self.index.passages[n].entry == entry for line in self.index.passages[n].lines
        )
        return Block(entry, self.index.first_passage(entry).title, own), chosen.text

    def _quotes(self, kept: Kept, number: int, asked: Asked) -> Iterator[Quote]:
        """The lines of a passage and the defaults in its title; the title too, where the question names nothing."""
        passage = self.index.passages[number]
        named = [passage.title] if asked.entry < 0 else []
        for line in dict.fromkeys([*named, *stated_defaults(passage.title), *passage.lines]):
            at = kept.text.find(line)
            if at >= 0:
                yield Quote(kept, at, at + len(line), 0.0)


def chat_rows(material: Material, index: DocumentationIndex, count: int) -> Iterator[dict[str, Any]]:
    """`count` rows for `llmanac tune`: passages that retrieval over training modules finds, a question, its line.

    Args:
        index: of the whole documentation, kept.
    """
    assert index.documents is not None
    numbers = {passage: number for number, passage in enumerate(index.passages)}
    made = 0
    for pair in material.maker(held_out=False, salt=5).endless(WEIGHTS):
        found = material.practice.find(pair.question, ROW_PASSAGES)
        kept = [index.documents[numbers[material.practice.passages[n]]] for n in found.passages]
        packed = [(one, shown(one)) for one in kept]
        line = next((row for _, text in packed for row in text.split("\n") if pair.answer in row), "")
        if not line or sum(len(text) for _, text in packed) > ROW_CHARACTERS:
            continue
        answer = pair.answer if line.startswith("#") else line.strip()
        yield {"messages": [*turns(RULES, found.asked.text, packed), {"role": "assistant", "content": answer}]}
        made += 1
        if made == count:
            return
