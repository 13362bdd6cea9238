"""Short answers: SQuAD's words, DROP's bags of spans, TriviaQA's names, GSM8K's numbers, letters of choices.

SQuAD compares normalised text: lower case, without punctuation, without the articles a, an and the, single spaces. F1
is the harmonic mean of precision and recall over the words that both hold, counted with repeats; where either side has
no word, F1 is 1 if both are empty and else 0. Of several references the best one counts. Rajpurkar et al. 2016, section
6.1. DROP compares bags of words of several spans, aligned so that the sum of their F1 is largest; a number in the
reference must be in the answer (Dua et al. 2019, section 5).
"""

import functools
import re
import string
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np

from llmanac.core.errors import DataError

MOST_SPANS = 400  # of an answer to DROP; the alignment is cubic in it
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_STRICT = re.compile(r"#### (-?[0-9.,]+)")
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
_LETTER = re.compile(r"Answer[ \t]*:[ \t]*\$?([A-Z])\b", re.IGNORECASE)
_CLAUSE = re.compile(r"[\n.,]")
_MOST_DIGITS = 400  # of a number that is read as one


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _f1(answer: str, reference: str) -> float:
    words, wanted = normalise(answer).split(), normalise(reference).split()
    if not words or not wanted:
        return float(words == wanted)
    shared = sum((Counter(words) & Counter(wanted)).values())
    return 2 * shared / (len(words) + len(wanted)) if shared else 0.0


def f1(answer: str, references: str | Sequence[str]) -> float:
    """SQuAD's word F1 of an answer against one reference or the best of several, between 0 and 1."""
    return max((_f1(answer, r) for r in _list(references)), default=0.0)


def exact_match(answer: str, references: str | Sequence[str]) -> float:
    """1 where the normalised answer is a normalised reference, else 0; SQuAD's."""
    wanted = normalise(answer)
    return float(any(wanted == normalise(r) for r in _list(references)))


def _list(references: str | Sequence[str]) -> Sequence[str]:
    return [references] if isinstance(references, str) else references


def bare(text: str) -> str:
    """Lower case without punctuation."""
    return text.lower().translate(_PUNCTUATION)


def first_clause(text: str) -> str:
    """What stands before the first newline, full stop or comma."""
    return _CLAUSE.split(text, maxsplit=1)[0].strip()


def marked_number(text: str) -> str | None:
    """The first number behind `#### `."""
    found = _STRICT.search(text)
    return found[1].strip() if found else None


def last_number(text: str) -> str | None:
    """The last run of digits, `$`, full stops and commas."""
    found = deque(_FLEXIBLE.finditer(text), maxlen=1)
    return found[0][0].strip() if found else None


def number(text: str) -> str:
    """A number as GSM8K compares it: what follows the last `#### `, without commas, `$` and a full stop at its end."""
    text = text.replace(",", "").replace("$", "")
    text = text[text.rfind("#### ") + 5 :] if "#### " in text else text
    end = len(text) - text.endswith("\n")
    return (text[: end - 1] + text[end:] if text[:end].endswith(".") else text).lower()


def letter(text: str) -> str | None:
    """The letter behind the first `Answer:`, in upper case."""
    found = _LETTER.search(text)
    return found[1].upper() if found else None


def drop(answer: str | Sequence[str], reference: str | Sequence[str]) -> tuple[float, float]:
    """`(exact match, F1)` of DROP for spans against the spans of one reference; F1 is rounded to two places.

    Raises:
        DataError: more than `MOST_SPANS` spans.
    """
    sides = [[_span(text) for text in _list(side)] for side in (answer, reference)]
    if max(map(len, sides)) > MOST_SPANS or not all(sides):
        raise DataError(f"drop: {len(sides[0])} and {len(sides[1])} spans; each side needs 1 to {MOST_SPANS}")
    mine, theirs = sides
    exact = float(set(mine) == set(theirs) and len(mine) == len(theirs))
    bags = [[set(span.split()) for span in side] for side in sides]
    table = np.array([[_bag_f1(one, gold) for one in bags[0]] for gold in bags[1]])
    aligned = np.zeros(max(table.shape))
    rows, columns = _assignment(-table) if table.shape[0] <= table.shape[1] else _assignment(-table.T)[::-1]
    aligned[rows] = table[rows, columns]
    return exact, float(np.round(aligned.mean(), 2))  # as the official scorer rounds: halves of hundredths to even


def _is_number(text: str) -> bool:
    try:
        return len(text) <= _MOST_DIGITS and float(text) is not None
    except ValueError:
        return False


def _span(text: str) -> str:
    """A span as DROP compares it: words between spaces and dashes, numbers as floats, no punctuation and articles."""
    words = (word for word in text.lower().replace("-", " ").split(" ") if word)
    return " ".join([found for word in words if (found := _short_word(word) if len(word) < 64 else _word(word))])


def _word(word: str) -> str:
    word = word if _is_number(word) else word.translate(_PUNCTUATION)
    word = str(float(word)) if _is_number(word) else word
    return " ".join(_ARTICLES.sub(" ", word).split())


_short_word = functools.lru_cache(maxsize=1 << 14)(_word)


def _bag_f1(answer: set[str], gold: set[str]) -> float:
    numbers = {word for word in gold if _is_number(word)}
    if numbers and not numbers & answer:
        return 0.0
    both = len(gold & answer)
    precision, recall = both / len(answer) if answer else 1.0, both / len(gold) if gold else 1.0
    return 2 * precision * recall / (precision + recall) if precision or recall else 0.0


def _assignment(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the entries with the smallest sum, one in each row of a matrix that is not taller than wide
    (Kuhn 1955, with potentials)."""
    rows, columns = cost.shape
    u, v = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of, back = np.zeros(columns + 1, int), np.zeros(columns + 1, int)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        least, used = np.full(columns + 1, np.inf), np.zeros(columns + 1, bool)
        while row_of[column]:
            used[column] = True
            here = row_of[column]
            free = ~used
            free[0] = False
            slack = np.concatenate([[np.inf], cost[here - 1] - u[here] - v[1:]])
            better = free & (slack < least)
            least[better], back[better] = slack[better], column
            step = least[free].min()
            u[row_of[used]] += step
            v[used] -= step
            least[free] -= step
            column = int(np.flatnonzero(free)[least[free].argmin()])
        while column:
            row_of[column] = row_of[back[column]]
            column = int(back[column])
    taken = np.flatnonzero(row_of[1:])
    return row_of[1:][taken] - 1, taken
