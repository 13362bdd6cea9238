"""Answers from documents: how retrieval, the size of the corpus and the refusal threshold decide them.

{questions:,} questions of XQuAD (English) over its {paragraphs} paragraphs, among paragraphs of wikitext-2 up to the
size of the corpus. Answers are quotes without a model (`llmanac ask`, mode `extract`): a sentence, citing its passage.
A citation holds the answer where the gold answer is in the cited passage.

- Corpus of {least:,} to {most:,} passages: BM25 has the right paragraph first for {first_small:.3f} to
  {first_large:.3f} of the questions; {right_small:.3f} to {right_large:.3f} are answered with a citation that holds
  the answer, and of those answered {holds_large:.3f} hold it in the largest corpus.
- Quality depends on retrieval: where the paragraph is ranked first, {if_first:.3f} of the answers hold the gold answer
  in what they cite; where it is not, {if_not:.3f}.
- Refusals: support separates questions with their paragraph from the same with it passed over with an AUC of {auc:.3f};
  at the threshold of {threshold} {answered:.3f} are answered, and {wrongly:.3f} of those whose paragraph is gone. The
  default was chosen on 300 of these questions. {folds}
- {dense}
- {met}

How a paragraph is passed over: {more} passages are retrieved and its own is left out, or else the last, so that {k} are
read in both cases. It stays in the index, so that words are weighed as before. {rebuilt}

Retrieval gets worse with the size of the corpus. The share of right answers need not: more passages make better weights
of words, so that fewer questions are refused at the same threshold. One run. Intervals are of 2,000 resamples of
paragraphs, whose questions are kept together; one that includes 0 shows no difference.
"""

from __future__ import annotations

import json
import random
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from evidence._intervals import newcombe_interval
from evidence._pretrained import smollm2, unpacked_minilm
from evidence._synthetic import once
from evidence._verdicts import Estimate
from llmanac.core.pages import Section, table
from llmanac.core.progress import progress
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.metrics.answers._short import f1
from llmanac.metrics.statistics.auc import area
from llmanac.retrieve import Hit, bm25, hybrid
from llmanac.retrieve._words import plain_words
from llmanac.retrieve.dense import Dense, Spec
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAnswer, FolderAssistant
from llmanac.retrieve.folder.ranker import THRESHOLD, sigmoid

ROWS = ("context/rag",)
CLAIM = "answers from documents depend on what is retrieved, which gets worse slowly as the corpus grows"
SEEDS = 1
SIZES = (240, 1000, 3584)
HARD = 0.6  # of the words of a question, repeats counted: a hard one shares less with its paragraph
PLAIN = bm25.Spec(analyzer="plain", k1=1.2)
ARTICLE = 5  # paragraphs of an article of XQuAD: a fold is every second article
CHOICES = [("ranks", 1.0), *(("scores", weight) for weight in (0.25, 0.5, 0.75, 1.0, 1.5, 2.0))]  # weight of MiniLM
THRESHOLDS = [t / 20 for t in range(1, 20)]  # 0.05 to 0.95
READ, BUDGET = 120, 384  # questions that SmolLM2 answers, and the tokens of passages that it is shown
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
    place = needed_data("squad/xquad.en.json", "text")
    articles = json.loads((place / "squad/xquad.en.json").read_text("utf-8"))["data"]
    paragraphs = [p for article in articles for p in article["paragraphs"]]
    texts = [p["context"] for p in paragraphs]
    asked = [(row["question"], row["answers"][0]["text"], i) for i, p in enumerate(paragraphs) for row in p["qas"]]
    for name in ("wikitext2_test.txt", "wikitext2_valid.txt"):
        texts += [row for row in (place / "text" / name).read_text("utf-8").split("\n") if len(row.split()) > 30]
    return texts, asked


def measure(seed: int, size: str) -> dict[str, Any]:
    """Rates by corpus size, and the dense half where MiniLM is installed."""
    texts, asked = corpus(size)
    few = max(number for _, _, number in asked) + 1
    if size == "small":
        return {"paragraphs": few, "questions": len(asked), "rows": [_answers(texts[:few], asked)], "dense": None}
    parts = {"rows": lambda: [_answers(texts[:count], asked) for count in SIZES], "dense": lambda: _dense(texts, asked)}
    more = {name: once("retrieval_augmented", name, make) for name, make in parts.items()}
    return {"paragraphs": few, "questions": len(asked), **more, "read": _read(texts, asked)}


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
            found = index.retrieve(question, assistant.k + 1)
            name = f"all.jsonl:{number + 1}"
            first.append(bool(found) and found[0].passage.document == name)
            answer = assistant.answer(question)
            here.append(answer.support)
            held.append(None if answer.refused else gold.lower() in answer.citations[0].text.lower())
            gone.append(sigmoid(assistant.ranker.passages(assistant.ranker.asked(question), {name})[1]))
    right = {
        flag: [h for h, f in zip(held, first, strict=True) if f is flag and h is not None] for flag in (True, False)
    }
    answered = [h for h in held if h is not None]
    return {
        "passages": len(texts), "first": _mean(first), "answered": len(answered) / len(held), "holds": _mean(answered),
        "right": sum(answered) / len(held), "auc": area(here, gone), "if_first": _mean(right[True]),
        "if_not": _mean(right[False]), "wrongly": _mean([value >= THRESHOLD for value in gone]), "k": assistant.k,
        "folds": _folds(np.array(here), np.array(gone), np.array([number for _, _, number in asked])),
        "sampled": _mean([value >= THRESHOLD for value in _sample(gone)]),
        "curve": [[t, _mean([v >= t for v in here]), _mean([v >= t for v in gone])] for t in (0.3, 0.4, 0.5, 0.6, 0.7)],
    }  # fmt: skip


def _folds(here: np.ndarray, gone: np.ndarray, owners: np.ndarray) -> dict[str, Any]:
    """Rates at the threshold that was best on the other half of the articles: answered less answered though gone."""
    fold = owners // ARTICLE % 2
    best = [
        max(THRESHOLDS, key=lambda t: float(((here >= t) * 1.0 - (gone >= t))[fold != part].mean())) for part in (0, 1)
    ]
    limit = np.where(fold == 0, *best)
    return {"best": best, "answered": float((here >= limit).mean()), "wrongly": float((gone >= limit).mean())}


def _sample(rows: Sequence[Any]) -> list[Any]:
    """Of what is there for each question, that of those that SmolLM2 answers."""
    return random.Random(0).sample(list(rows), min(READ, len(rows)))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _dense(texts: Sequence[str], asked: Sequence[tuple[str, str, int]]) -> dict[str, Any] | None:
    """Whether the right paragraph is first, by BM25, MiniLM and both."""
    with unpacked_minilm() as folder, one_thread():
        if folder is None:
            return None
        questions = Dense([], Spec(model=str(folder))).embed([question for question, _, _ in asked])
        vectors = Dense(texts, Spec(model=str(folder)))
    return _joined(texts, asked, questions, vectors)


def _joined(
    texts: Sequence[str], asked: Sequence[tuple[str, str, int]], questions: np.ndarray, vectors: Dense
) -> dict[str, Any]:
    """`_dense` from the vectors of questions and texts; `chosen` is the way that was best on the other fold."""
    depth, owners = hybrid.Spec().depth, np.array([number for _, _, number in asked])
    lexical, plain = (
        _hits(*bm25.BM25(texts, spec).search([q for q, _, _ in asked], depth)) for spec in (bm25.Spec(), PLAIN)
    )
    dense = _hits(*vectors.search(questions, depth))
    pairs = list(zip(lexical, dense, strict=True))

    def joined(fusion: str, weight: float) -> list[list[Hit]]:
        if fusion == "ranks":
            return [hybrid.fuse([[hit.position for hit in one] for one in pair]) for pair in pairs]
        return [hybrid.fuse_scores(pair, (1.0, weight)) for pair in pairs]

    def first(rows: Sequence[Sequence[Hit]]) -> np.ndarray:
        return np.array([hits[0].position == number for hits, number in zip(rows, owners, strict=True)], float)

    found = {"bm25": first(lexical), "plain": first(plain), "dense": first(dense)}
    ways = {choice: first(joined(*choice)) for choice in CHOICES}
    fold = owners // ARTICLE % 2
    best = [max(CHOICES, key=lambda choice: ways[choice][fold != part].mean()) for part in (0, 1)]
    found |= {"ranks": ways["ranks", 1.0], "hybrid": ways["scores", 1.0]}
    found["chosen"] = np.where(fold == 0, ways[best[0]], ways[best[1]])
    words = [(plain_words(question), set(plain_words(texts[number]))) for question, _, number in asked]
    hard = np.array([sum(word in own for word in said) < HARD * len(said) for said, own in words])
    out: dict[str, Any] = {
        "passages": len(texts), "questions": len(asked), "hard": int(hard.sum()), "ways": len(CHOICES), "best": best,
    }  # fmt: skip
    for name, mask in (("all", np.ones(len(hard), bool)), ("hard", hard)):
        rates = {key: float(values[mask].mean()) for key, values in found.items()}
        gains = {
            key: _gain(found[key][mask] - found["bm25"][mask], owners[mask]) for key in ("ranks", "hybrid", "chosen")
        }
        out[f"of {name}"] = {**rates, "gains": gains}
    return out


def _hits(places: np.ndarray, scores: np.ndarray) -> list[list[Hit]]:
    rows = zip(places.tolist(), scores.tolist(), strict=True)
    return [[Hit(p, s) for p, s in zip(*row, strict=True) if p >= 0] for row in rows]


def _gain(differences: np.ndarray, owners: np.ndarray) -> dict[str, Any]:
    """The mean of paired differences with its 95% bootstrap interval; paragraphs are drawn, with their questions."""
    _, place = np.unique(owners, return_inverse=True)
    total, count = np.bincount(place, differences), np.bincount(place)
    drawn = np.random.default_rng(0).integers(0, len(total), (2000, len(total)))
    low, high = np.quantile(total[drawn].sum(1) / count[drawn].sum(1), [0.025, 0.975]).tolist()
    return {"gain": float(differences.mean()), "interval": [low, high]}


@one_thread()
def _read(texts: Sequence[str], asked: Sequence[tuple[str, str, int]]) -> dict[str, Any] | None:
    """Answers by SmolLM2 and without a model to a sample, with the paragraphs of its questions there and removed."""
    place = smollm2()
    if place is None:
        return None
    chosen = _sample(asked)
    own = {number for _, _, number in chosen}
    out: dict[str, Any] = {"questions": READ, "budget": BUDGET, "owners": [n for _, _, n in chosen], "modes": {}}
    engine = load_engine(place, device="cpu", runner="native")
    for part, kept in (("here", texts), ("gone", [text for i, text in enumerate(texts) if i not in own])):
        with tempfile.TemporaryDirectory() as folder:
            index = _index(folder, kept)
            for mode in MODES:
                assistant = FolderAssistant(index, engine, mode=mode, budget=BUDGET, longest=48)
                made = partial(_all_judged, assistant, chosen)
                rows = once("retrieval_augmented", f"{mode}-{part}", made)
                short = [row | {"score": round(row["score"], 4)} for row in rows]  # a cell has 20,000 bytes
                out["modes"].setdefault(mode, {})[part] = short
    return out


def _all_judged(assistant: FolderAssistant, chosen: Sequence[tuple[str, str, int]]) -> list[dict[str, float]]:
    rows = []
    with progress(assistant.mode, len(chosen), "questions") as bar:
        for question, gold, _ in chosen:
            rows.append(_judged(assistant.answer(question), gold))
            bar.advance(1)
    return rows


def _judged(answer: FolderAnswer, gold: str) -> dict[str, float]:
    """Whether it is an answer, its F1, whether it holds the gold answer, and the share of its citations that do.

    `score` orders answers by how sure they are: their support, each refusal below every answer.
    """
    if answer.refused:
        return {"answered": 0, "f1": 0.0, "says": 0, "cites": 0, "score": answer.support - 1.0}
    text = re.sub(r"\s*\[\d+\]", "", answer.text).strip('" ')
    held = _mean([gold.lower() in one.text.lower() for one in answer.citations])
    return {"answered": 1, "f1": f1(text, gold), "says": int(gold.lower() in text.lower()), "cites": held,
            "score": answer.support}  # fmt: skip


def first_in_larger(seeds: Sequence[dict[str, Any]]) -> Estimate:
    """The share of questions whose paragraph is first in the largest corpus less that in the smallest, by Newcombe."""
    n, rows = seeds[0]["questions"], seeds[0]["rows"]
    counts = [count for row in (rows[-1], rows[0]) for count in (round(n * row["first"]), n)]
    return Estimate(*newcombe_interval(*counts), n=n)


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
        out.append(_retrievers(dense))
    if read := seeds[0].get("read"):
        out.append(_shown(read))
    if reached := _targets(seeds[0]):
        body = [[what, figure, "met" if met else "not met"] for what, figure, met in reached]
        out.append(Section("Targets", [], [table(["target", "measured", ""], body)]))
    return out


def _interval(gain: dict[str, Any]) -> str:
    return "{:+.3f} [{:+.3f}, {:+.3f}]".format(gain["gain"], *gain["interval"])


def _retrievers(dense: dict[str, Any]) -> Section:
    """The table of `_dense`."""
    names = {"bm25": "BM25", "plain": "plain BM25", "dense": "MiniLM", "ranks": "fused ranks", "hybrid": "hybrid",
             "chosen": "hybrid, chosen"}  # fmt: skip
    body = [
        [text, *(f"{dense[of][key]:.3f}" for of in ("of all", "of hard")),
         *(_interval(dense[of]["gains"][key]) if key in dense[of]["gains"] else "" for of in ("of all", "of hard"))]
        for key, text in names.items()
    ]  # fmt: skip
    best = " and ".join(name if name == "ranks" else f"{name} with {weight:g}" for name, weight in dense["best"])
    text = (
        f"{dense['passages']:,} passages; {dense['questions']:,} questions. {dense['hard']} of them are hard: under "
        f"{HARD:.0%} of a question's words (in lower case, repeats counted) are in its paragraph. BM25 is "
        "`--method bm25`, which splits names and removes a plural's s; plain BM25 splits words only, with k1 = "
        f"{PLAIN.k1:g}. Hybrid is `--method hybrid`: scores of both, each brought to 0..1, added with equal weights, "
        "which was chosen with these questions in view. The last row's way was not: of "
        f"{dense['ways']} ways (fused ranks, or scores with a weight of {CHOICES[1][1]:g} to {CHOICES[-1][1]:g} for "
        f"MiniLM's), each half of the articles has the one that was best on the other half ({best})."
    )
    head = ["retriever", "all", "hard", "less BM25, all", "less BM25, hard"]
    return Section("Paragraph first, by retriever", [text], [table(head, body)])


def _targets(result: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """What was to be reached: the sentence, the figure, whether it is."""
    large, dense = result["rows"][-1], result["dense"]
    if dense is None:
        return []
    out = [
        ("quotes without a model answer at least 0.7 of the questions", f"{large['answered']:.3f}",
         large["answered"] >= 0.7),
        ("their citations hold the gold answer in at least 0.85", f"{large['holds']:.3f}", large["holds"] >= 0.85),
    ]  # fmt: skip
    for name in ("all", "hard"):
        gain = dense[f"of {name}"]["gains"]["chosen"]
        out.append((f"hybrid, chosen on other articles, above BM25 on {name} questions", _interval(gain),
                    gain["interval"][0] > 0))  # fmt: skip
    return out


def _shown(read: dict[str, Any]) -> Section:
    """The table of `_read`."""
    body, base = [], read["modes"]["extract"]["here"]
    for mode, name in MODES.items():
        here, gone = (read["modes"][mode][part] for part in ("here", "gone"))
        answered = [row for row in here if row["answered"]]
        apart = _gain(np.array([a["f1"] - b["f1"] for a, b in zip(here, base, strict=True)]), np.array(read["owners"]))
        body.append([
            name, f"{len(answered) / len(here):.2f}", *(f"{_mean([r[k] for r in here]):.2f}" for k in ("f1", "says")),
            "" if mode == "extract" else _interval(apart), f"{_mean([row['cites'] for row in answered]):.2f}",
            f"{_mean([row['answered'] for row in gone]):.2f}",
            f"{area([row['score'] for row in here], [row['score'] for row in gone]):.3f}",
        ])  # fmt: skip
    text = (
        f"{read['questions']} questions drawn at random, in the largest corpus, and in the same without their "
        f"paragraphs; at most {read['budget']} tokens of passages in a prompt, greedy decoding. F1 and `says` (the "
        "answer holds the gold answer) are of all questions, a refusal counting 0; a quoted sentence is longer than a "
        "gold answer, which costs F1. Citations that hold the gold answer are of the answers given. The refusal AUC "
        "orders questions by support, each refusal below every answer; SmolLM2 cannot refuse where it chooses a quote, "
        "so that both quoting modes have one AUC."
    )
    head = ["mode", "answered", "F1", "says", "F1 less the first's, 95% interval", "citations hold", "answered, gone",
            "refusal AUC"]  # fmt: skip
    return Section("Answers by SmolLM2-135M-Instruct", [text], [table(head, body)])


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result = seeds[0]
    small, large = result["rows"][0], result["rows"][-1]
    said = "The dense half was not measured."
    if dense := result["dense"]:
        parts = [
            "{name}: BM25 {bm25:.3f}, MiniLM {dense:.3f}, hybrid {chosen:.3f}".format(name=name, **dense[key])
            for key, name in (("of all", "of all questions"), ("of hard", "of hard ones"))
        ]
        said = f"Retrieval from the largest corpus, paragraph first: {'; '.join(parts)} (chosen on other articles)."
    both = large["folds"]
    folds = (
        "With the threshold whose two rates differ most on one half of the articles "
        "({1:g} and {0:g}), the other halves are answered in ".format(*both["best"])
        + f"{both['answered']:.3f}, and in {both['wrongly']:.3f} without the paragraph."
    )
    rebuilt = ""
    if read := result.get("read"):
        true = _mean([row["answered"] for row in read["modes"]["extract"]["gone"]])
        rebuilt = (
            f"Of the {read['questions']} questions of the last table {large['sampled']:.3f} are answered so; with an "
            f"index built without their paragraphs it is {true:.3f}."
        )
    targets = _targets(result)
    met = f"Of {len(targets)} targets {sum(row[2] for row in targets)} are met."
    return {
        "questions": result["questions"], "paragraphs": result["paragraphs"], "least": small["passages"],
        "most": large["passages"], "first_small": small["first"], "first_large": large["first"],
        "right_small": small["right"], "right_large": large["right"], "holds_large": large["holds"],
        "if_first": large["if_first"], "if_not": large["if_not"], "auc": large["auc"], "threshold": THRESHOLD,
        "answered": large["answered"], "wrongly": large["wrongly"], "folds": folds, "k": large["k"],
        "more": large["k"] + 1, "rebuilt": rebuilt, "dense": said, "met": met,
    }  # fmt: skip
