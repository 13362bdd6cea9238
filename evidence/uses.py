"""Scoring, labelling and correcting text with small language models.

Three models are trained first, in `studies/uses`: *english* reads 11 MB of plain English without any sentence of CoLA;
*labelled* and *labelled-512* read the 6,920 sentences of SST-2's training part, each with its label before and after
it. The machine had other load. Intervals are 95%. `LLMANAC_SHARED_DATA` names the folder that has cola/ and sst2/.

- **Log-likelihood: the formula as given.** Over {formula[sentences]} sentences the score differs from the sum of
  log-softmax values, computed separately from the full logits, by at most {formula[largest difference]:.1e} nats
  (float32). Against lm-eval, in float64: within 1e-9, `tests/references/test_likelihood.py`.
- **Perplexity.** Per token *labelled-512* looks {token:.1f} times as good as *labelled*, since its tokens carry less;
  per byte it needs {byte:+.0%} bits, having a smaller vocabulary and less training.
- **Scoring.** CoLA's unacceptable sentences differ from acceptable ones in a word or two, which a model of this size
  hardly notices, and a sentence's length changes its log-likelihood more than its grammar does.
- **Labelling.** Min et al. report the noisy channel for models hundreds of times as large, which this study does not
  test.
- **Correcting.** Most errors of CoLA's unacceptable sentences are of syntax that no single word fixes, so this does not
  judge grammaticality.

Errors were made by rule in acceptable sentences, one each, of the kinds that the corrector knows, so recall is for
errors that it can correct, and says nothing about others. A change is right if it alone restores the sentence. Known
words: those that occur three times in the training text. The margin was chosen on {tuned} acceptable sentences of
CoLA's training part: {margin} nats; all results are from its two dev parts.
"""

from __future__ import annotations

import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks._corpora import needed_data
from evidence import _uses_page
from evidence._uses_corpus import PLAIN, labelled, with_labels, write
from llmanac.core.files import read_json
from llmanac.core.pages import Section
from llmanac.core.registry import build
from llmanac.core.rng import seed_of
from llmanac.evaluate import english as english
from llmanac.evaluate.classify import TEMPLATES, classify
from llmanac.evaluate.correct import KINDS, Corrector, like, words_of
from llmanac.evaluate.score import score
from llmanac.evaluate.words import LETTERS, Words
from llmanac.generate.load import load_engine
from llmanac.metrics.log_likelihood import log_likelihood, token_logprobs
from llmanac.metrics.statistics.auc import auc
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.models.pairs import start_token
from llmanac.recipes.classification import small_language_model
from llmanac.recipes.run import run

ROWS = ("use/score", "use/classify", "use/correct", "metric/log-likelihood", "metric/perplexity")
CLAIM = "a language model scores, labels and corrects text; perplexity is comparable only per byte"
SEEDS = 1
TIMED, TOLERANCE = ("seconds",), 1e-3  # float32 models

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "studies" / "uses"
SENTENCES = 400  # that are labelled
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "english": ("english", {}),
    "labelled": ("labelled", {}),
    "labelled-512": ("labelled", {"tokenizer.vocab_size": 512, "budget": "4m"}),
}
MARGINS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
FORMS = ("perplexity", "word-perplexity", "byte-perplexity", "bits-per-byte")
SAME = {"positive": "positive", "negative": "negative"}
LABELS = {"positive": "great", "negative": "terrible"}
ZERO_SHOT = {
    "direct": ("{text} It was {label}.", "{text} All in all, {label}.", "Review: {text} Verdict: {label}"),
    "channel": ("It was {label}. {text}", "All in all, {label}. {text}", "Verdict: {label} Review: {text}"),
}


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every section of the page."""
    if size == "small":
        return small()
    data = needed_data("cola", "sst2")
    folders = {name: trained(name, data) for name in RUNS}
    engines = {name: load_engine(folder) for name, folder in folders.items()}
    parts = {n.replace("_", " "): cola(data / f"cola/{n}.tsv") for n in ("in_domain_dev", "out_of_domain_dev")}
    train = random.Random(seed_of(seed, "margin")).sample(cola(data / "cola/in_domain_train.tsv")[0], 160)
    with (WORK / "english.jsonl").open(encoding="utf-8") as lines:
        known = Words.of((json.loads(line)["text"] for line in lines), least=3)
    rows = random.Random(seed_of(seed, "sst2")).sample(list(labelled(data, "test")), SENTENCES)
    asked = [text for _, text in labelled(data, "dev")]
    about = {name: record(folder, engines[name]) for name, folder in folders.items()}
    return {"models": about, **sections(engines, parts, rows, asked, known, train, MARGINS)}


def small() -> dict[str, Any]:
    """The same on a model of a few steps."""
    good = [
        f"The {a} {b} the {c} in the house."
        for a in ("old man", "cat")
        for b in ("sees", "likes")
        for c in ("dog", "girl")
    ]
    bad = [sentence.replace("in the", "the in") for sentence in good]
    model, tokenizer = small_language_model(
        good * 4, steps=8, dim=32, layers=1, vocab_size=300, length=32, batch_tokens=128
    )
    engines = dict.fromkeys(RUNS, SimpleNamespace(model=model, tokenizer=tokenizer))
    rows = [("positive" if "cat" in text else "negative", text) for text in good]
    return sections(engines, {"made up": (good, bad)}, rows, good, Words.of(good * 3, least=3), good[:4], (0.0, 2.0))


def trained(name: str, data: Path) -> Path:
    """The folder of a finished run; one that was stopped goes on."""
    recipe, patches = RUNS[name]
    text, folder = WORK / f"{recipe}.jsonl", WORK / name
    if not text.exists():
        write(data, text, PLAIN if recipe == "english" else (with_labels,))
    if not (folder / "results.json").exists():
        changes = {**patches, "data.source.paths": [str(text)]}
        run(HERE / f"uses_{recipe}.toml", changes, folder=folder, resume=folder.exists())
    return folder


def record(folder: Path, engine: Any) -> dict[str, Any]:
    found = read_json(folder / "results.json")
    return {
        "parameters": engine.model.parameter_count(), "seconds": found["seconds"]["pretrain"],
        "bits_per_byte": found["bits_per_byte"]["this model"], "trained_on": found["data"]["train"],
    }  # fmt: skip


def sections(
    engines: dict[str, Any], parts: dict[str, tuple[list[str], list[str]]], rows: list[tuple[str, str]],
    asked: list[str], known: Words, train: list[str], margins: Sequence[float],
) -> dict[str, Any]:  # fmt: skip
    engine, first = engines["english"], next(reversed(parts.values()))
    own = {way: [TEMPLATES[way]] for way in TEMPLATES}
    return {
        "formula": measure_formula(engine, first[0][:60]),
        "perplexity": measure_perplexity(engines, asked),
        "score": measure_score(engine, parts),
        "classify": {
            "rows": len(rows),
            "trained": measure_classify(engines["labelled"], rows, SAME, own),
            "untrained": measure_classify(engine, rows, LABELS, ZERO_SHOT),
        },
        "correct": measure_correct(engine, known, train, parts, margins),
    }


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    return _uses_page.sections(seeds[0])


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return _uses_page.facts(seeds[0])


def cola(path: Path) -> tuple[list[str], list[str]]:
    """(acceptable, unacceptable) sentences."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return [row[3] for row in rows if row[1] == "1"], [row[3] for row in rows if row[1] == "0"]


# ---------------------------------------------------------------- score
def shuffled(sentence: str, rng: random.Random) -> str:
    """The same words in another order; a final mark stays where it is."""
    mark = sentence[-1] if sentence[-1] in ".?!" else ""
    words = sentence[: len(sentence) - len(mark)].split()
    order = list(words)
    for _ in range(20):
        rng.shuffle(order)
        if order != words:
            break
    return " ".join(order) + mark


def measure_score(engine: Any, parts: dict[str, tuple[list[str], list[str]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (good, bad) in parts.items():
        rng = random.Random(seed_of(0, "shuffle", name))
        long = [s for s in good if len(set(s.rstrip(".?!").split())) > 3]
        natural = score(engine.model, long, engine.tokenizer)
        other = score(engine.model, [shuffled(s, rng) for s in long], engine.tokenizer)
        wins = sum(a.log_likelihood > b.log_likelihood for a, b in zip(natural, other, strict=True))
        yes, no = (score(engine.model, part, engine.tokenizer) for part in (good, bad))
        areas = {
            "sum": auc([s.log_likelihood for s in yes], [s.log_likelihood for s in no]),
            "per token": auc([s.log_likelihood / s.tokens for s in yes], [s.log_likelihood / s.tokens for s in no]),
            "per byte": auc([-s.bits_per_byte for s in yes], [-s.bits_per_byte for s in no]),
            "length alone": auc([-s.tokens for s in yes], [-s.tokens for s in no]),
        }
        found[name] = {"pairs": len(long), "natural above shuffled": wilson_interval(wins, len(long)), "auc": areas,
                       "acceptable": len(good), "unacceptable": len(bad)}  # fmt: skip
    return found


# ---------------------------------------------------------------- formula, perplexity
@torch.no_grad()
def measure_formula(engine: Any, sentences: list[str]) -> dict[str, Any]:
    """The largest difference between a score and the sum of its tokens' log-softmax, computed from the full logits."""
    worst, tokenizer = 0.0, engine.tokenizer
    first = start_token(tokenizer)
    for one in score(engine.model, sentences, tokenizer):
        logits = engine.model(torch.tensor([[first, *one.ids[:-1]]])).logits[0].numpy()
        worst = max(worst, abs(log_likelihood(token_logprobs(logits, one.ids)) - one.log_likelihood))
    return {"sentences": len(sentences), "largest difference": worst}


def measure_perplexity(engines: dict[str, Any], sentences: list[str]) -> dict[str, Any]:
    """The same sentences under models with other tokenizers, per token and per byte."""
    found = {}
    for name, engine in engines.items():
        scored = score(engine.model, sentences, engine.tokenizer)
        sums = [one.log_likelihood for one in scored]
        tokens = [one.tokens for one in scored]
        figures = {form: build("metric", form)(sums, tokens=tokens, texts=sentences) for form in FORMS}
        found[name] = {"vocabulary": engine.tokenizer.vocab_size, "tokens": sum(tokens), **figures}
    return {"sentences": len(sentences), "models": found}


# ---------------------------------------------------------------- classify
def measure_classify(
    engine: Any, rows: list[tuple[str, str]], labels: dict[str, str], templates: Any
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for way, own in templates.items():
        for calibrate in (None, "N/A"):
            shares = []
            for template in own:
                texts = [text for _, text in rows]
                how: dict[str, Any] = {"template": template, "way": way, "calibrate": calibrate}
                labelled_ = classify(engine.model, engine.tokenizer, texts, labels, **how)
                hits = sum(one.label == truth for one, (truth, _) in zip(labelled_, rows, strict=True))
                shares.append({"template": template, "accuracy": wilson_interval(hits, len(rows))})
            values = [entry["accuracy"][0] for entry in shares]
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[f"{way}{', calibrated' if calibrate else ''}"] = {
                "templates": shares, "mean": statistics.mean(values), "spread": spread,
            }  # fmt: skip
    return found


# ---------------------------------------------------------------- correct
def _replaced(text: str, word: Any, new: str) -> str:
    return text[: word.start] + like(word.text, new) + text[word.stop :]


def _dropped(text: str, word: Any) -> str:
    return text[: word.start] + text[word.stop + 1 :]


def swap_in(rows: Any) -> Callable[[str, Any, random.Random], str | None]:
    def corrupt(text: str, word: Any, rng: random.Random) -> str | None:
        others = [other for row in rows if word.plain in row for other in row if other != word.plain]
        return _replaced(text, word, rng.choice(others)) if others else None

    return corrupt


def verb(text: str, word: Any, rng: random.Random) -> str | None:
    bases = [base for base in english.possible_bases(word.plain) if base in english.IRREGULAR]
    forms = [form for base in bases for form in english.verb_forms(base) if form != word.plain]
    return _replaced(text, word, rng.choice(forms)) if forms and word.plain not in english.FUNCTION else None


def number(text: str, word: Any, rng: random.Random) -> str | None:
    if word.plain in english.FUNCTION or len(word.plain) < 4:
        return None
    singles = [s for s in english.possible_singulars(word.plain) if len(s) > 2]
    return _replaced(text, word, singles[0] if singles else english.with_s(word.plain))


def article(text: str, word: Any, rng: random.Random) -> str | None:
    if word.plain not in english.ARTICLES or word.first:
        return None
    return _dropped(text, word) if rng.random() < 0.5 else swap_in([english.ARTICLES])(text, word, rng)


def preposition(text: str, word: Any, rng: random.Random) -> str | None:
    if word.plain not in english.PREPOSITIONS or word.first:
        return None
    return _dropped(text, word) if rng.random() < 0.3 else swap_in([english.PREPOSITIONS])(text, word, rng)


def repetition(text: str, word: Any, rng: random.Random) -> str | None:
    return text[: word.stop] + " " + word.text + text[word.stop :]


def spelling(text: str, word: Any, rng: random.Random) -> str | None:
    if len(word.text) < 4 or word.text[0].isupper():
        return None
    at = rng.randrange(1, len(word.text))
    kind = rng.choice(["drop", "double", "swap", "wrong"])
    a, b = word.text[:at], word.text[at:]
    new = {"drop": a + b[1:], "double": a + b[0] + b, "swap": a[:-1] + b[0] + a[-1] + b[1:]}.get(
        kind, a + rng.choice(LETTERS[:26]) + b[1:]
    )
    return None if new == word.text else text[: word.start] + new + text[word.stop :]


CORRUPTIONS: dict[str, Callable[[str, Any, random.Random], str | None]] = {
    "agreement": swap_in(english.AGREEMENT), "verb form": verb, "number": number, "article": article,
    "preposition": preposition, "confusion": swap_in(english.CONFUSED), "repetition": repetition,
    "spelling": spelling,
}  # fmt: skip


def corrupted(sentences: list[str], name: str) -> list[tuple[str, str, str]]:
    """(kind, wrong, right): each sentence damaged once, in the kind whose turn it is, or the next that can."""
    rng, out = random.Random(seed_of(0, "corrupt", name)), []
    for turn, right in enumerate(sentences):
        for step in range(len(KINDS)):
            kind = KINDS[(turn + step) % len(KINDS)]
            words = words_of(right)
            rng.shuffle(words)
            wrong = next((w for w in (CORRUPTIONS[kind](right, word, rng) for word in words) if w), None)
            if wrong and wrong != right:
                out.append((kind, wrong, right))
                break
    return out


def f_half(right: int, made: int, there: int) -> dict[str, float]:
    """Precision, recall and F0.5 of `right` among `made` changes, where `there` were errors."""
    p, r = right / made if made else 0.0, right / there if there else 0.0
    return {"precision": p, "recall": r, "f0.5": 1.25 * p * r / (0.25 * p + r) if p + r else 0.0}


def measure_pairs(corrector: Corrector, pairs: list[tuple[str, str, str]]) -> dict[str, Any]:
    """A change counts as right where it alone makes the sentence what it was before."""
    right: dict[str, int] = defaultdict(int)
    there: dict[str, int] = defaultdict(int)
    made = 0
    for (kind, wrong, before), one in zip(pairs, corrector.correct([w for _, w, _ in pairs]), strict=True):
        there[kind] += 1
        made += len(one.changes)
        right[kind] += any(wrong[: c.start] + c.new + wrong[c.stop :] == before for c in one.changes)
    total = f_half(sum(right.values()), made, len(pairs))
    return {"pairs": len(pairs), "changes": made, **total,
            "recall of kinds": {kind: [right[kind], there[kind]] for kind in KINDS if there[kind]}}  # fmt: skip


def flagged(corrector: Corrector, sentences: list[str]) -> int:
    return sum(bool(one.changes) for one in corrector.correct(sentences))


class Remembering(Corrector):
    """A corrector that scores no sentence twice: margins are then compared at the cost of one."""

    known: dict[str, float] = {}  # noqa: RUF012 - shared on purpose

    def _scores(self, texts: list[str]) -> list[float]:
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        self.known.update(zip(new, super()._scores(new), strict=True))
        return [self.known[text] for text in texts]


def measure_correct(
    engine: Any, words: Words, train: list[str], parts: Any, margins: Sequence[float]
) -> dict[str, Any]:
    def with_margin(margin: float) -> Corrector:
        return Remembering(engine.model, engine.tokenizer, words, margin=margin)

    Remembering.known.clear()
    tuning = {}
    pairs = corrupted(train, "train")
    for margin in margins:
        corrector = with_margin(margin)
        measured = measure_pairs(corrector, pairs)
        clean = flagged(corrector, train)
        tuning[margin] = {**measured, "clean sentences changed": [clean, len(train)]}
    best = max(tuning, key=lambda margin: tuning[margin]["f0.5"])
    corrector, found = with_margin(best), {}
    for name, (good, bad) in parts.items():
        caught, false = flagged(corrector, bad), flagged(corrector, good)
        found[name] = {
            "made errors": measure_pairs(corrector, corrupted(good, name)),
            "clean sentences changed": [false, len(good)],
            "unacceptable flagged": [caught, len(bad)],
            "detection": f_half(caught, caught + false, len(bad)),
        }
    return {"margins": {str(k): v for k, v in tuning.items()}, "margin": best, "parts": found}
