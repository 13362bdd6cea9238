"""The sheet that the small model reads: sentences with marks, so that it can say which one answers.

    <|1|> copytree: Recursively<|a|> a directory tree.<|1|><|2|> ...<|2|>
    <|user|> how do I<|a|> a folder<|assistant|><|1|><|end|>

A number is a sentence, with the name that its heading ends with. A word of content that both the question and a
sentence have is a small letter in both, so that the model need not match spellings. A mark is repeated at the end of
its sentence, where the model knows what it said and can copy the mark. `<|?|>` says that none answers.
"""

import re
import string
from collections.abc import Sequence
from typing import Any

from llmanac.core.errors import TokenizerError, nearest
from llmanac.retrieve import content
from llmanac.retrieve.folder.quotes import Quote
from llmanac.retrieve.folder.reader import CHOICES, UNLIKELY

USER, ASSISTANT, END, NONE = "<|user|>", "<|assistant|>", "<|end|>", "<|?|>"
NUMBERS = tuple(f"<|{number}|>" for number in range(1, CHOICES + 1))
LETTERS = tuple(f"<|{letter}|>" for letter in string.ascii_lowercase[:16])
SPECIAL = (END, USER, ASSISTANT, NONE, *NUMBERS, *LETTERS)
SENTENCE, QUESTION, TURN = 44, 64, 4  # tokens of a sentence and of a question, at most; marks of a turn
PROMPT = CHOICES * (SENTENCE + 2) + QUESTION + TURN
_WORD = re.compile(r"\w+")


def check_marks(tokenizer: Any) -> None:
    """Raise TokenizerError that names the first special token of a sheet which a tokenizer lacks."""
    for name in SPECIAL:
        if name not in tokenizer.special_tokens:
            hint = nearest(name, tokenizer.special_tokens)
            raise TokenizerError(f"the tokenizer has no {name!r}{hint}; train it with the assistant's marks")


def row_of(quote: Quote) -> str:
    """A sentence as it is shown: with the last part of its heading's name."""
    name = re.split(r"[ (]", quote.passage.heading.rpartition(" > ")[2])[0]
    return f"{name.rpartition('.')[2]}: {quote.text}"


def letters_of(question: str, rows: Sequence[str]) -> dict[str, str]:
    """By its stem, the letter of each word that a question and one of the rows share."""
    there = frozenset().union(*map(content, rows)) if rows else frozenset()
    words = dict.fromkeys(stem for word in _WORD.findall(question) for stem in content(word) if stem in there)
    return dict(zip(words, LETTERS, strict=False))


def encoded(tokenizer: Any, text: str, letters: dict[str, str], most: int) -> list[int]:
    """A text as at most so many token ids, its lettered words as their letters."""
    out, at = [], 0
    for match in _WORD.finditer(text):
        letter = next((letters[stem] for stem in content(match.group()) if stem in letters), None)
        if letter is not None:
            before = f" {text[at : match.start()]}" if not at else text[at : match.start()]
            out += [*(tokenizer.encode(before.rstrip()) if before.strip() else ()), tokenizer.special_tokens[letter]]
            at = match.end()
    rest = text[at:] if at else f" {text}"
    return [*out, *(tokenizer.encode(rest) if rest.strip() else ())][:most]


def sheet_ids(tokenizer: Any, rows: Sequence[str], letters: dict[str, str]) -> list[int]:
    """The sentences, each between two of its mark."""
    special, out = tokenizer.special_tokens, list[int]()
    for mark, row in zip(NUMBERS, rows, strict=False):
        out += [special[mark], *encoded(tokenizer, row, letters, SENTENCE), special[mark]]
    return out


def question_ids(tokenizer: Any, question: str, letters: dict[str, str]) -> list[int]:
    """A question as a turn."""
    special = tokenizer.special_tokens
    return [special[USER], *encoded(tokenizer, question, letters, QUESTION), special[ASSISTANT]]


class PointerReader:
    """A `Reader` (`retrieve/folder/reader.py`): the model that was trained on sheets.

    Args:
        caution: added to the log-probability that no sentence answers: a small model answers too readily.
    """

    def __init__(self, engine: Any, caution: float = 0.0) -> None:
        self.engine, self.tokenizer, self.caution = engine, engine.tokenizer, caution
        check_marks(self.tokenizer)
        self.marks = [self.tokenizer.special_tokens[mark] for mark in (*NUMBERS, NONE)]

    def weigh(self, question: str, quotes: Sequence[Quote]) -> list[float]:
        """The log-probability of each sentence, and last that none answers."""
        rows = [row_of(quote) for quote in quotes]
        letters = letters_of(question, rows)
        ids = [*sheet_ids(self.tokenizer, rows, letters), *question_ids(self.tokenizer, question, letters)]
        allowed = [*self.marks[: len(rows)], self.marks[-1]]
        [made] = self.engine.generate([ids], max_new_tokens=1, allowed_ids=allowed, logprobs=len(SPECIAL))
        [first] = made.token_logprobs
        known = {**first.top, first.id: first.logprob}
        out = [known.get(mark) or UNLIKELY for mark in allowed]
        return [*out[:-1], out[-1] + self.caution]
