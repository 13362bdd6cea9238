"""How good the assistant is, on modules and forms of questions that training never shows.

- retrieved: as a user gets it: retrieval, near misses next to the right passage, refusals.
- right passage among near misses: retrieval is corrected where it failed, and the passages are shuffled; this
  measures reading alone.
- without retrieval: the language model alone continues the question; its first line is the answer.
- first-sentence rule: the first statement of the first passage that the same retrieval finds.

Scores are of the first line of each answer, over answerable questions, the same number of each kind as far as no fact
is asked for more than twice; a refusal is scored by its words. Unanswerable questions are counted separately.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from llmanac.apps.docs_assistant.assistant import Answer, Assistant
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.material import Material, answers
from llmanac.apps.docs_assistant.passages import Passage
from llmanac.apps.docs_assistant.prompt import Asked
from llmanac.apps.docs_assistant.questions import UNANSWERABLE, Pair
from llmanac.core.progress import progress
from llmanac.core.rng import seed_of
from llmanac.metrics.answers import exact_match, f1

EXAMPLES = 10
MISSED = 0.5  # F1 below which an answer counts as a miss
GUESS_TOKENS = 32


def evaluate_assistant(assistant: Assistant, material: Material, *, alone: Any, questions: int = 150) -> dict[str, Any]:
    """Ask about `questions` answerable and as many unanswerable things.

    Args:
        alone: the engine of the language model that answers without retrieval.

    Returns:
        scores: by way of answering: f1, exact, questions.
        kinds: by kind of question, as a user gets it.
        refused_unanswerable, refused_answerable: fractions; `refused` has them by sort.
        retrieval: fraction of questions for which a passage with the answer is found, and is first.
        examples: question, answer, expected, citations; misses, refusals: the same, two of each: answers below
            `MISSED`, and a refusal that is right and one that is wrong.
    """
    maker = material.maker(held_out=True)
    asked = maker.examination(questions)
    unanswerable = maker.unanswerable(questions, UNANSWERABLE)
    with progress("ask", 4 * len(asked), "questions") as bar:
        given = _ask(assistant, asked, bar)
        texts = [answer.line for answer in given]
        declined = _ask(assistant, unanswerable, bar)
        helped = assistant.read([_helped(assistant.index, pair, i, material.seed) for i, pair in enumerate(asked)])
        read = [reading.text for reading in helped]
        bar.advance(len(asked))
        closed = _guesses(alone, [pair.question for pair in asked])
        bar.advance(len(asked))
    refused = _refused(unanswerable, declined)
    rule = [_first_sentence(assistant.index, pair.question) for pair in asked]
    missed = [(p, a) for p, a in zip(asked, given, strict=True) if not a.refused and f1(a.line, p.answer) < MISSED]
    rightly = [(p, a) for p, a in zip(unanswerable, declined, strict=True) if a.refused]
    wrongly = [(p, a) for p, a in zip(asked, given, strict=True) if a.refused]
    return {
        "scores": {
            "retrieved, with near misses": _score(asked, texts),
            "right passage among near misses": _score(asked, read),
            "without retrieval": _score(asked, closed),
            "first-sentence rule": _score(asked, rule),
        },
        "kinds": {kind: _score(asked, texts, kind) for kind in maker.kinds},
        "refused_unanswerable": sum(a * n for a, n in refused.values()) / max(1, len(unanswerable)),
        "refused_answerable": sum(answer.refused for answer in given) / max(1, len(asked)),
        "refused": {sort: share for sort, (share, _) in refused.items()},
        "retrieval": _retrieval(assistant.index, asked),
        "examples": [_example(pair, answer) for pair, answer in zip(asked[:EXAMPLES], given, strict=False)],
        "misses": [_example(*one) for one in missed[:2]],
        "refusals": [_example(*one) for one in (*rightly[:1], *wrongly[:1])],
    }


def _ask(assistant: Assistant, pairs: Sequence[Pair], bar: Any, size: int = 25) -> list[Answer]:
    given: list[Answer] = []
    for start in range(0, len(pairs), size):
        part = [pair.question for pair in pairs[start : start + size]]
        given += assistant.answers(part)
        bar.advance(len(part))
    return given


def _guesses(engine: Any, questions: Sequence[str]) -> list[str]:
    """The first line with which a language model goes on after each question."""
    said = engine.generate([f"{question}\n" for question in questions], max_new_tokens=GUESS_TOKENS, stop="\n\n")
    return [next((line for line in one.text.split("\n") if line.strip()), "") for one in said]


def _score(pairs: Sequence[Pair], texts: Sequence[str], kind: str = "") -> dict[str, float | int]:
    """Mean scores, of the pairs of one kind where it is given."""
    chosen = [(text, pair.answer) for pair, text in zip(pairs, texts, strict=True) if kind in ("", pair.sort)]
    count = max(1, len(chosen))
    return {
        "f1": sum(f1(text, answer) for text, answer in chosen) / count,
        "exact": sum(exact_match(text, answer) for text, answer in chosen) / count,
        "questions": len(chosen),
    }


def _helped(index: DocumentationIndex, pair: Pair, number: int, seed: int) -> tuple[Asked, list[Passage]]:
    """The question and its passages in random order; the right one replaces the last where retrieval missed it."""
    found = index.find(pair.question)
    shown = [index.passages[n] for n in found.passages]
    if not any(answers(passage, pair) for passage in shown):
        right = [p for p in index.passages if answers(p, pair)][:1]
        shown = [*shown[: max(0, len(shown) - 1)], *right]
    random.Random(seed_of(seed, "order", number)).shuffle(shown)
    return found.asked, shown


def _first_sentence(index: DocumentationIndex, question: str) -> str:
    found = index.find(question)
    passage = index.passages[found.passages[0]] if found.passages else None
    return passage.lines[0] if passage and passage.lines else ""


def _refused(pairs: Sequence[Pair], given: Sequence[Answer]) -> dict[str, tuple[float, int]]:
    """By sort: `(fraction refused, questions)`."""
    by: dict[str, list[bool]] = defaultdict(list)
    for pair, answer in zip(pairs, given, strict=True):
        by[pair.sort].append(answer.refused)
    return {sort: (sum(values) / len(values), len(values)) for sort, values in by.items()}


def _retrieval(index: DocumentationIndex, pairs: Sequence[Pair]) -> dict[str, float]:
    found = first = 0
    for pair in pairs:
        hits = [answers(index.passages[n], pair) for n in index.find(pair.question).passages]
        found += any(hits)
        first += bool(hits and hits[0])
    return {"found": found / max(1, len(pairs)), "first": first / max(1, len(pairs))}


def _example(pair: Pair, answer: Answer) -> dict[str, Any]:
    cited = [{"title": c.title, "text": c.text} for c in answer.citations]
    return {"question": pair.question, "answer": answer.line, "expected": pair.answer, "citations": cited[:1]}
