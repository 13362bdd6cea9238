"""What scoring, labelling and correcting text with a small model is worth: measured on CoLA and SST-2, kept as a page.

python tools/make_uses_corpus.py ../shared/data corpus.jsonl         the text (no sentence of CoLA)
llmanac run docs/evidence/uses/english.toml --folder runs/english     the model
python tools/make_uses_evidence.py runs/english ../shared/data        docs/evidence/uses/{uses.md,uses.json}

The margin of corrections is chosen on sentences of CoLA's training part; everything reported is from its two dev parts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmanac.core.device import machine
from llmanac.core.files import read_json, write_json, write_text
from llmanac.core.rng import seed_of
from llmanac.evaluate import _english as english
from llmanac.evaluate._edits import KINDS, like, words_of
from llmanac.evaluate._words import LETTERS, Words
from llmanac.evaluate.classify import classify
from llmanac.evaluate.correct import Corrector
from llmanac.evaluate.score import score
from llmanac.generate.load import load_engine
from llmanac.metrics._auc import auc, share

MARGINS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
LABELS = {"positive": "great", "negative": "terrible"}
TEMPLATES = {
    "direct": ("{text} It was {label}.", "{text} All in all, {label}.", "Review: {text} Verdict: {label}"),
    "channel": ("It was {label}. {text}", "All in all, {label}. {text}", "Verdict: {label} Review: {text}"),
}


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
        found[name] = {"pairs": len(long), "natural above shuffled": share(wins, len(long)), "auc": areas,
                       "acceptable": len(good), "unacceptable": len(bad)}  # fmt: skip
    return found


# ---------------------------------------------------------------- classify
def measure_classify(engine: Any, data: Path, count: int) -> dict[str, Any]:
    lines = (data / "sst2/stsa.binary.test").read_text("utf-8").splitlines()
    rng = random.Random(seed_of(0, "sst2"))
    rows = [(("negative", "positive")[int(line[0])], line[2:]) for line in rng.sample(lines, count)]
    found: dict[str, Any] = {}
    for way, templates in TEMPLATES.items():
        for calibrate in (None, "N/A"):
            shares = []
            for template in templates:
                labelled = classify(
                    engine.model, engine.tokenizer, [text for _, text in rows], LABELS, template=template,
                    way=way, calibrate=calibrate,
                )  # fmt: skip
                hits = sum(one.label == truth for one, (truth, _) in zip(labelled, rows, strict=True))
                shares.append({"template": template, "accuracy": share(hits, len(rows))})
            values = [entry["accuracy"][0] for entry in shares]
            name = f"{way}{', calibrated' if calibrate else ''}"
            found[name] = {"templates": shares, "mean": statistics.mean(values), "spread": statistics.stdev(values)}
    return {"rows": count, "ways": found}


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


def measure_correct(engine: Any, words: Words, train: list[str], parts: Any) -> dict[str, Any]:
    def with_margin(margin: float) -> Corrector:
        return Remembering(engine.model, engine.tokenizer, words, margin=margin)

    tuning = {}
    pairs = corrupted(train, "train")
    for margin in MARGINS:
        corrector = with_margin(margin)
        measured = measure_pairs(corrector, pairs)
        clean = flagged(corrector, train)
        tuning[margin] = {**measured, "clean sentences changed": [clean, len(train)]}
        print(
            f"margin {margin}: F0.5 {measured['f0.5']:.3f}, {clean} of {len(train)} clean sentences changed", flush=True
        )
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


# ---------------------------------------------------------------- the page
def interval(figures: Any, digits: int = 3) -> str:
    value, low, high = figures
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def page(result: dict[str, Any]) -> str:
    scored, labelled, corrected_ = result["score"], result["classify"], result["correct"]
    lines = [
        "# Scoring, labelling and correcting text with a small language model",
        "",
        "Made by `python tools/make_uses_evidence.py runs/english ../shared/data`, after the two commands that stand at "
        "the head of that file.",
        "",
        f"The model: {result['model']['parameters']:,} parameters, {result['model']['train_bytes'] / 1e6:.1f} MB of "
        f"English (no sentence of CoLA among it), {result['model']['seconds']:.0f} s of training on "
        f"{result['machine']['cpu']}; {result['model']['bits_per_byte']:.3f} bits per byte on held-out text. Intervals are 95%.",
        "",
        "## Scoring (`use/score`): do natural sentences score higher?",
        "",
        "| CoLA part | natural above its own words shuffled | AUC, log-likelihood | AUC, per token | AUC, per byte | AUC, length alone |",
        "|---|---|---|---|---|---|",
    ]
    for name, part in scored.items():
        areas = part["auc"]
        lines.append(
            f"| {name} ({part['acceptable']} acceptable, {part['unacceptable']} not) | "
            f"{interval(part['natural above shuffled'])} of {part['pairs']} | {interval(areas['sum'])} | "
            f"{interval(areas['per token'])} | {interval(areas['per byte'])} | {interval(areas['length alone'])} |"
        )
    lines += ["", result["words"]["score"], "",
              "## Labelling (`use/classify`): the label after the text, or the text after the label?", "",
              f"{labelled['rows']} sentences of SST-2's test part, no training, labels as {LABELS}, three templates each way.", "",
              "| way | accuracy by template | mean | standard deviation over templates |", "|---|---|---|---|"]  # fmt: skip
    for name, way in labelled["ways"].items():
        each = "; ".join(interval(entry["accuracy"]) for entry in way["templates"])
        lines.append(f"| {name} | {each} | {way['mean']:.3f} | {way['spread']:.3f} |")
    lines += ["", result["words"]["classify"], "", "## Correcting (`use/correct`)", "",
              "Errors were made by rule in acceptable sentences, one each, of the kinds that the corrector knows: so recall "
              "is that of errors it can propose a mend for, and says nothing of others. A change is right where it alone "
              "restores the sentence. Known words: the training text's. Margin chosen on 160 acceptable sentences of CoLA's "
              f"training part: {corrected_['margin']} nats.", "",
              "| margin | precision | recall | F0.5 | clean sentences changed |", "|---|---|---|---|---|"]  # fmt: skip
    for margin, row in corrected_["margins"].items():
        clean = row["clean sentences changed"]
        lines.append(
            f"| {margin} | {row['precision']:.3f} | {row['recall']:.3f} | {row['f0.5']:.3f} | {clean[0]} of {clean[1]} |"
        )
    lines += ["", "| CoLA part | errors | precision | recall | F0.5 | clean sentences changed | unacceptable flagged | "
              "detection: precision, recall, F0.5 |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for name, part in corrected_["parts"].items():
        made, clean, bad, found = (
            part[key] for key in ("made errors", "clean sentences changed", "unacceptable flagged", "detection")
        )
        lines.append(
            f"| {name} | {made['pairs']} | {made['precision']:.3f} | {made['recall']:.3f} | {made['f0.5']:.3f} | "
            f"{interval(share(*clean))} | {interval(share(*bad))} | {found['precision']:.3f}, {found['recall']:.3f}, "
            f"{found['f0.5']:.3f} |"
        )
    lines += ["", "Mended, by the kind of error that was made:", "", "| kind | " + " | ".join(corrected_["parts"]) + " |",
              "|---|" + "---|" * len(corrected_["parts"])]  # fmt: skip
    for kind in KINDS:
        cells = []
        for part in corrected_["parts"].values():
            hits, total = part["made errors"]["recall of kinds"].get(kind, [0, 0])
            cells.append(f"{hits} of {total}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", result["words"]["correct"], ""])


def words(result: dict[str, Any]) -> dict[str, str]:
    """What the figures say of each claim, in a sentence that follows from them."""
    areas = [part["auc"]["sum"] for part in result["score"].values()]
    lowest = min(part["natural above shuffled"][1] for part in result["score"].values())
    ways = result["classify"]["ways"]
    steadier = ways["channel"]["spread"] < ways["direct"]["spread"]
    better = ways["channel"]["mean"] > ways["direct"]["mean"]
    parts = result["correct"]["parts"].values()
    above = all(share(*p["unacceptable flagged"])[1] > share(*p["clean sentences changed"])[2] for p in parts)
    return {
        "score": (
            f"The claim holds for shuffled words (at least {lowest:.0%} of pairs). It "
            f"{'holds weakly' if all(a[1] > 0.5 for a in areas) else 'does not hold'} for CoLA's own judgements: unacceptable "
            "sentences there differ in a word or two, which a model of this size hardly notices, and a sentence's length "
            "moves its log-likelihood more than its grammar does."
        ),
        "classify": (
            f"Here the channel is {'more' if better else 'no more'} accurate than the direct way on average, and "
            f"{'varies less' if steadier else 'does not vary less'} with the template. With 50% for guessing, a model "
            "this small knows little of sentiment; the claim is about models a thousand times as large."
        ),
        "correct": (
            "The claim (a model scores and replaces words to correct grammar) holds for errors of these kinds within the "
            f"figures above. CoLA's unacceptable sentences are {'' if above else 'not clearly '}flagged more often than "
            "clean ones: most of their faults are of syntax that no single word mends, so this is no grammar checker."
        ),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--corpus", type=Path, default=Path("corpus.jsonl"), help="the text that gives the known words")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "docs/evidence/uses")
    parser.add_argument("--rows", type=int, default=400, help="sentences that are labelled")
    given = parser.parse_args(arguments)
    engine = load_engine(given.run)
    record = read_json(given.run / "results.json")
    parts = {n.replace("_", " "): cola(given.data / f"cola/{n}.tsv") for n in ("in_domain_dev", "out_of_domain_dev")}
    train = random.Random(seed_of(0, "margin")).sample(cola(given.data / "cola/in_domain_train.tsv")[0], 160)
    known = Words.of((json.loads(line)["text"] for line in given.corpus.open(encoding="utf-8")), least=3)
    result: dict[str, Any] = {"machine": machine(), "model": {
        "parameters": engine.model.parameter_count(), "seconds": record["seconds"]["pretrain"],
        "train_bytes": given.corpus.stat().st_size,
        "bits_per_byte": record["bits_per_byte"]["this model"],
    }}  # fmt: skip
    result["score"] = measure_score(engine, parts)
    result["classify"] = measure_classify(engine, given.data, given.rows)
    result["correct"] = measure_correct(engine, known, train, parts)
    result["words"] = words(result)
    write_json(given.out / "uses.json", result)
    write_text(given.out / "uses.md", page(result))
    print(page(result))


if __name__ == "__main__":
    main()
