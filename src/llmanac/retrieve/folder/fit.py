"""Fit the ranker's weights (`ranker.py`) on questions that a folder of documents yields by itself:

    python -m llmanac.retrieve.folder.fit FOLDER -o FILE.json [--encoder MODEL] [--questions N] [--seed N]

Questions are drawn from passages. `heading`: the name in a document's first heading; its section answers. `summary`: a
document's first sentence. `removed`: the same, taken out of the text first; what is left answers. `cloze`: a sentence,
some with the name of its heading or with words around it. Words are left out, some are replaced by words of other
passages, and letters of names are swapped, as in the questions of people; some are asked where no passage has a
heading. Each is asked twice: as the folder is, and with the file that answers removed, and the words that no other one
has; then nothing answers.

The regressions are logistic, by Newton's method with a ridge of 1 on standardized features. The threshold refuses
`REFUSED` of the questions without an answer. It and all that is printed come from five parts of the files, each rated
by weights of the other four; the weights that are written are of all files.
"""

from __future__ import annotations

import argparse
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.progress import progress
from llmanac.retrieve import dense
from llmanac.retrieve._words import code_words, content
from llmanac.retrieve.folder.index import FolderIndex, Passage
from llmanac.retrieve.folder.quotes import spans
from llmanac.retrieve.folder.ranker import CANDIDATES, PASSAGE, PRONOUN, SENTENCE, WANTED, Asked, Ranker, Weights

QUESTIONS, PARTS, REFUSED, RIDGE = 1500, 5, 0.85, 1.0
NAMED, TYPO, BARE, ACROSS = 0.6, 0.15, 0.3, 0.5  # shares of the questions
LEFT_OUT, REPLACED = (0.0, 0.8), (0.0, 0.8)  # shares of a sentence's words: of each question another one
SORTS = ("heading", "summary", "removed", "cloze", "cloze")
FEWEST = 4  # words of content of a sentence that is asked for
Rated = tuple[np.ndarray, np.ndarray]  # features and labels


@dataclass(frozen=True)
class Question:
    """A question and what it was made of."""

    text: str
    passage: Passage
    sort: str
    gold: str

    def related(self, passage: Passage) -> bool:
        """Whether a passage is of the same file, or answers as well."""
        return passage.document == self.passage.document or self.answers(passage)

    def answers(self, passage: Passage) -> bool:
        """Whether a passage, as it is in the folder, answers."""
        if self.sort == "heading":
            return passage.document == self.passage.document and passage.heading == self.passage.heading
        return self.gold in " ".join(passage.text.split())


def questions_of(index: FolderIndex, count: int, seed: int = 0, use: Sequence[int] | None = None) -> list[Question]:
    """Questions about passages that are drawn at random, of those whose numbers are in `use`.

    Raises:
        DataError: the folder yields too few.
    """
    rng, out = random.Random(seed), list[Question]()
    for _ in range(10 * count):
        passage, sort = index[rng.choice(use) if use else rng.randrange(len(index))], rng.choice(SORTS)
        name = _name(passage)
        rows = (" ".join(passage.text[a:b].split()) for a, b in spans(passage.text))
        said = [row for row in rows if not row.startswith(("#", "`", "|")) and len(content(row)) >= FEWEST]
        if not said or (sort != "cloze" and (passage.part > 1 or not content(name))):
            continue
        gold = rng.choice(said) if sort == "cloze" else said[0]
        if sort == "cloze":
            text = asked_of(passage, gold, index, rng)
        else:
            text = _slipped(name, rng) if sort == "heading" else _roughened(gold, index, rng)
        out.append(Question(text, passage, sort, gold))
        if len(out) == count:
            return out
    raise DataError(f"{index.place}: the folder yields {len(out)} questions of {count}; give more text, or --questions")


def asked_of(passage: Passage, sentence: str, index: FolderIndex, rng: random.Random) -> str:
    """A cloze of a passage's sentence."""
    text, around = _roughened(sentence, index, rng), passage.text.split()
    if PRONOUN.match(sentence):  # what it stands for is in the sentences before
        around = passage.text.partition(sentence[:20])[0].split()[-12:] or around
    if rng.random() < ACROSS or PRONOUN.match(sentence):
        text = f"{text} {' '.join(rng.sample(around, min(len(around), rng.randint(1, 6))))}"
    fitting = [word for word, (_, needed) in zip(("how many", "who"), WANTED, strict=True) if needed.search(sentence)]
    text = f"{rng.choice(fitting or ['what'])} {text}"
    return f"{_slipped(_name(passage), rng)} {text}" if rng.random() < NAMED else text


def _name(passage: Passage) -> str:
    return passage.heading.rpartition(" > ")[2].partition("(")[0]


def _slipped(name: str, rng: random.Random) -> str:
    """A name, at times with two letters swapped."""
    if len(name) < 5 or rng.random() >= TYPO:
        return name
    i = rng.randrange(1, len(name) - 1)
    return name[:i] + name[i + 1] + name[i] + name[i + 2 :]


def _roughened(text: str, index: FolderIndex, rng: random.Random) -> str:
    """A sentence with words left out, and some replaced by those of another passage."""
    other = index[rng.randrange(len(index))].text.split() or [""]
    lost, replaced = rng.uniform(*LEFT_OUT), rng.uniform(*REPLACED)
    kept = (word for word in text.split() if rng.random() >= lost)
    return " ".join(rng.choice(other) if rng.random() < replaced else word for word in kept)


def without(passage: Passage, sentence: str) -> Passage:
    """A passage without a sentence."""
    rows = [passage.text[a:b] for a, b in spans(passage.text)]
    return replace(passage, text="\n\n".join(row for row in rows if " ".join(row.split()) != sentence))


def logistic(x: np.ndarray, y: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """(F + 1,) weights and bias of the logistic regression of y (N,) on x (N, F), the ridge on standardized x."""
    mean, scale = x.mean(0), x.std(0)
    scale[scale < 1e-9] = np.inf  # a feature that never differs has no weight
    z = np.concatenate([(x - mean) / scale, np.ones((len(x), 1))], 1)
    penalty, w = np.append(np.full(x.shape[1], ridge), 0.0), np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(z @ w, -60, 60)))
        slope = z.T @ (p - y) + penalty * w
        step = np.linalg.solve((z * (p * (1 - p))[:, None]).T @ z + np.diag(penalty + 1e-9), slope)
        w -= step
        if abs(step).max() < 1e-10:
            break
    return np.append(w[:-1] / scale, w[-1] - (w[:-1] * mean / scale).sum())


@dataclass
class _Asked:
    """What one question has: its candidates with features, and whether each answers."""

    question: Question
    asked: Asked
    passages: list[Passage]
    x: np.ndarray
    here: np.ndarray  # which of them answer
    gone: np.ndarray  # features of the candidates with the file removed


def _looked_up(ranker: Ranker, question: Question) -> _Asked | None:
    asked, bare = ranker.asked(question.text), zlib.crc32(question.text.encode()) < BARE * 2**32
    bare = bare and question.sort != "heading"

    def seen(found: Sequence[tuple[Passage, float]]) -> list[tuple[Passage, float]]:
        return [(replace(p, heading=""), c) for p, c in found] if bare else list(found)

    found = ranker.candidates(asked)
    here = np.array([question.answers(passage) for passage, _ in found], bool)
    if not here.any():
        return None  # nothing that could be ranked
    if question.sort == "removed":
        found = [(without(p, question.gold) if yes else p, c) for (p, c), yes in zip(found, here, strict=True)]
    less = ranker.asked(question.text, _only_in(ranker, question))
    others = [one for one in ranker.candidates(less, 2 * CANDIDATES) if not question.related(one[0])]
    gone, found = _features(ranker, less, seen(others[:CANDIDATES])), seen(found)
    return _Asked(question, asked, [passage for passage, _ in found], _features(ranker, asked, found), here, gone)


def _features(ranker: Ranker, asked: Asked, found: Sequence[tuple[Passage, float]]) -> np.ndarray:
    return np.array([ranker.features(asked, *one) for one in found]).reshape(-1, len(PASSAGE))


def _only_in(ranker: Ranker, question: Question) -> set[str]:
    """The words of a question that no file has but the one that it is about."""
    lexical, table, out = ranker.lexical, ranker.index.arrays["passages"], set()
    document = table[question.passage.number, 0]
    for word in code_words(question.text):
        if (number := lexical.vocabulary.get(word)) is not None:
            places = lexical.texts[lexical.starts[number] : lexical.starts[number + 1]]
            if (table[places, 0] == document).all():
                out.add(word)
    return out


def _rows(some: Sequence[_Asked]) -> Rated:
    parts = [(one.x, one.here) for one in some] + [(one.gone, np.zeros(len(one.gone), bool)) for one in some]
    return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]).astype(float)


def _sentences(ranker: Ranker, some: Sequence[_Asked]) -> Rated:
    """Of the passages that answer, the sentences: the gold one, and the others."""
    x, y = [], []
    for one in (one for one in some if one.question.sort in ("heading", "cloze")):
        for passage in [p for p, yes in zip(one.passages, one.here, strict=True) if yes][:1]:
            for a, b, values in ranker.sentence_features(one.asked, passage):
                x.append(values)
                y.append(" ".join(passage.text[a:b].split()) == one.question.gold)
    return np.array(x).reshape(-1, len(SENTENCE)), np.array(y, float)


def fitted(index: FolderIndex, method: str, questions: Sequence[Question]) -> dict[str, Any]:
    """Weights, threshold, and what cross-validation by file measured."""
    none = Weights(dict.fromkeys((*PASSAGE, "bias"), 0.0), dict.fromkeys((*SENTENCE, "bias"), 0.0), 0.0)
    ranker, every = Ranker(index, method, none), []
    vectors = None if method == "bm25" else index.retriever("dense").queries([one.text for one in questions])
    with progress(f"look up ({method})", len(questions), "questions") as bar:
        for number, question in enumerate(questions):
            if vectors is not None:
                ranker.vector = question.text, vectors[number : number + 1]
            if one := _looked_up(ranker, question):
                every.append(one)
            bar.advance()
    part = np.array([zlib.crc32(one.question.passage.document.encode()) % PARTS for one in every])
    first, line, kept, refused = [], [], [], []
    for number in range(PARTS):
        there = [one for one, p in zip(every, part, strict=True) if p != number]
        held = [one for one, p in zip(every, part, strict=True) if p == number]
        if not there or not held:
            continue
        weights = logistic(*_rows(there))
        lines = logistic(*_sentences(ranker, there))
        for one in held:
            odds = one.x @ weights[:-1] + weights[-1]
            first.append(bool(one.here[odds.argmax()]))
            kept.append(odds.max())
            refused.append(max(one.gone @ weights[:-1] + weights[-1], default=-60.0))
            x, y = _sentences(ranker, [one])
            if y.any():
                line.append(bool(y[(x @ lines[:-1]).argmax()]))
    threshold = float(np.quantile(refused, REFUSED))
    weights = logistic(*_rows(every))
    lines = logistic(*_sentences(ranker, every))
    return {
        "passage": _named(PASSAGE, weights), "sentence": _named(SENTENCE, lines),
        "threshold": round(1 / (1 + float(np.exp(-threshold))), 6),
        "measured": {
            "questions": len(every), "right passage first": round(float(np.mean(first)), 4),
            "right sentence first": round(float(np.mean(line)), 4),
            "refused without answer": round(float(np.mean(np.array(refused) < threshold)), 4),
            "refused with answer": round(float(np.mean(np.array(kept) < threshold)), 4),
        },
    }  # fmt: skip


def _named(names: Sequence[str], weights: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip((*names, "bias"), weights, strict=True)}


def fit(
    folder: str | Path, *, encoder: dense.Spec | None = None, questions: int = QUESTIONS, seed: int = 0
) -> dict[str, Any]:
    """What the command writes: weights for `bm25`, and for `hybrid` where the folder's index has vectors."""
    index = FolderIndex.update(folder, encoder=encoder)
    asked = questions_of(index, questions, seed)
    methods = ["bm25", *(["hybrid"] if index.encoder is not None else [])]
    about = {"folder": Path(folder).resolve().name, "files": len(index.data["records"]), "passages": len(index)}
    made = {method: fitted(index, method, asked) for method in methods}
    return {"format_version": 1, "text": about, "questions": questions, "seed": seed, "weights": made}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of documents")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the file of weights")
    parser.add_argument("--encoder", help="a model's folder, for weights of hybrid retrieval")
    parser.add_argument("--questions", type=int, default=QUESTIONS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        encoder = None if given.encoder is None else dense.Spec(model=str(Path(given.encoder).resolve()))
        found = fit(given.folder, encoder=encoder, questions=given.questions, seed=given.seed)
        files.write_json(given.output, found)
    except LlmanacError as error:
        parser.exit(1, f"{error}\n")
    for method, weights in found["weights"].items():
        print(method, weights["threshold"], weights["measured"])


if __name__ == "__main__":
    main()
