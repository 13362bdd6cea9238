"""The place of the passage that holds the answer, among ten.

SmolLM2-135M-Instruct (Q4_1) is given {passages} numbered passages and a question of XQuAD. One passage, the gold one,
holds the answer; the others are of other articles, the same ones for all places. A passage is a sentence
of a paragraph: the one with the answer, or one drawn at random; {tokens} tokens a prompt on average. Each of
{questions} questions is asked with the gold passage at the places {places}, and with the gold passage alone; greedy
decoding of {longest} tokens. An answer is right where it has the words of the gold answer, letter case, articles and
punctuation aside; parts of words do not count. Version 1 asked 30 questions at all places; its cell is kept.

- Right: {first:.2f} at the first place, {middle:.2f} on average at the places {between}, {last:.2f} at the last; with
  the gold passage alone {alone:.2f}.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from evidence._pretrained import needed
from evidence._synthetic import once
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import mean
from llmanac.retrieve.folder.quotes import spans
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("context/lost-in-the-middle", "context/rag")
CLAIM = "where the passage with the answer comes in the prompt decides whether it is used"
VERSION = 2  # 300 questions at five places; version 1 had 30 at all ten
SEEDS, REPLICATE = 1, "set of questions"
ARMS = ("the gold passage at an end", "the gold passage in the middle")
METRIC = "share of questions whose answer holds the words of the gold answer; paired over questions"
MARGIN = "0.01 of the questions; the 95% interval of the difference lies beyond it"
PASSAGES, LONGEST, QUESTIONS = 10, 16, 300
PLACES, MIDDLE = (1, 4, 5, 7, 10), (4, 5, 7)
ALONE = "alone"
KEPT = 1 << 28  # bytes of prompts that were read: a later place begins with the same passages


def sentences(context: str) -> list[str]:
    """Of a paragraph."""
    return [context[begin:end] for begin, end in spans(context)]


def passage(context: str, at: int) -> str:
    """The sentence of a paragraph that holds character `at`."""
    return [one for (begin, _), one in zip(spans(context), sentences(context), strict=True) if begin <= at][-1]


def corpus() -> list[dict[str, Any]]:
    """Questions with their gold passage and nine of other articles."""
    path = needed_data("squad/xquad.en.json") / "squad/xquad.en.json"
    rng, rows = random.Random(0), []
    articles = json.loads(path.read_text("utf-8"))["data"]
    for number, article in enumerate(articles):
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                gold = asked["answers"][0]
                rows.append(
                    (number, asked["question"], gold["text"], passage(paragraph["context"], gold["answer_start"]))
                )
    out = []
    for number, question, gold, text in rng.sample(rows, QUESTIONS):
        others = [p["context"] for i, a in enumerate(articles) if i != number for p in a["paragraphs"]]
        drawn = [rng.choice(sentences(context)) for context in rng.sample(others, 3 * PASSAGES)]
        apart = [one for one in drawn if not holds(one, gold)]
        out.append({"question": question, "gold": gold, "text": text, "others": apart[: PASSAGES - 1]})
    return [row for row in out if holds(row["text"], row["gold"])]


def plain(text: str) -> str:
    """In lower case, without articles and punctuation."""
    return " ".join(re.sub(r"\b(a|an|the)\b|[^\w\s]", " ", text.lower()).split())


def holds(text: str, gold: str) -> bool:
    """Whether a text has the words of an answer, next to each other."""
    return f" {plain(gold)} " in f" {plain(text)} "


def asked(engine: Engine, row: dict[str, Any], place: int | None) -> dict[str, Any]:
    """One question with the gold passage at a place from 1, or alone: whether the answer is right, and its tokens."""
    texts = [row["text"]] if place is None else [*row["others"][: place - 1], row["text"], *row["others"][place - 1 :]]
    shown = "\n".join(f"[{i}] {text}" for i, text in enumerate(texts, 1))
    words = f"Answer the question with the passages, in a few words.\n\n{shown}\n\nQuestion: {row['question']}"
    if engine.tokenizer.chat_template is None:
        ids = [int(i) for i in engine.tokenizer.encode(words)]
    else:
        chat = [{"role": "user", "content": words}]
        ids = list(engine.tokenizer.encode_chat(chat, add_generation_prompt=True)[0])
    [answer] = engine.generate([ids], max_new_tokens=LONGEST)
    return {"right": int(holds(answer.text, row["gold"])), "tokens": len(ids)}


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Every question at every place."""
    if size == "full":
        engine, rows = load_engine(needed(), device="cpu", runner="native"), corpus()
        engine.keep_prefixes(KEPT)
        places = {str(p): p for p in PLACES} | {ALONE: None}
    else:
        tokenizer = train_tokenizer("utf8", [])
        spec = make_method("lm", {"name": "transformer", "dim": 16, "layers": 1, "max_length": 900})
        engine = Engine(spec.build(vocab_size=tokenizer.vocab_size).initialise(seed).eval(), tokenizer)
        rows = [{"question": "What?", "gold": "x", "text": "It is x.", "others": ["It is y."] * (PASSAGES - 1)}]
        places = {"1": 1, ALONE: None}
    found: dict[str, Any] = {"right": {name: [] for name in places}, "tokens": []}
    for number, row in enumerate(rows):

        def part(row: dict[str, Any] = row) -> dict[str, Any]:
            return {name: asked(engine, row, places[name]) for name in reversed(places)}  # beginnings are shared

        one = once("gold_place", f"places-{number}", part) if size == "full" else part()
        for name in places:
            found["right"][name].append(one[name]["right"])
        found["tokens"].append(one["1"]["tokens"])
    return found


def _right(seeds: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    return np.array(seeds[0]["right"][name], np.float64)


def middle_against(seeds: Sequence[dict[str, Any]], end: int) -> list[float]:
    """Right answers with the passage in the middle less those with it at an end, by question."""
    middle = np.mean([_right(seeds, str(place)) for place in MIDDLE], axis=0)
    found: list[float] = (middle - _right(seeds, str(end))).tolist()
    return found


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% bootstrap interval of a mean over questions."""
    drawn = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [0.025, 0.975]).tolist()
    return low, high


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    names = list(seeds[0]["right"])
    body = []
    for name in names:
        values = _right(seeds, name)
        low, high = _interval(values)
        body.append([name, f"{values.mean():.2f}", f"{low:.2f} to {high:.2f}", f"{int(values.sum())} of {len(values)}"])
    points = [(float(name), float(_right(seeds, name).mean())) for name in names if name != ALONE]
    drawn = line_chart([Line("right", points)], "place of the gold passage", "right answers", "Right by place")
    head = ["place of the gold passage", "right", "95% interval over questions", "count"]
    return [Section("Right answers by place", [], [table(head, body)], [drawn])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    first, last = "1", str(PASSAGES)
    middle = np.mean([_right(seeds, str(place)) for place in MIDDLE], axis=0)
    return {
        "passages": PASSAGES, "questions": len(_right(seeds, first)), "longest": LONGEST,
        "places": ", ".join(map(str, PLACES)), "between": ", ".join(map(str, MIDDLE)),
        "tokens": round(mean(seeds[0]["tokens"])),
        "first": _right(seeds, first).mean(), "middle": middle.mean(), "last": _right(seeds, last).mean(),
        "alone": _right(seeds, ALONE).mean(),
    }  # fmt: skip
