"""What the study of uses shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmanac.evaluate._edits import KINDS
from llmanac.lab.report import Section, table
from llmanac.metrics._auc import share

Found = Mapping[str, Any]


def interval(figures: Any, digits: int = 3) -> str:
    value, low, high = figures
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def sections(result: Found) -> list[Section]:
    """The whole page."""
    rows = [
        [name, f"{m['parameters']:,}", f"{m['seconds']:.0f}", f"{m['bits_per_byte']:.3f}"]
        for name, m in result["models"].items()
    ]
    about = (
        "*english* read 11 MB of plain English without any sentence of CoLA; *labelled* the 6,920 sentences of SST-2's "
        "training part, each with its label before and after it. On a busy machine. Intervals are 95%."
    )
    head = ["model", "parameters", "seconds of training", "bits per byte, held out"]
    parts = (_formula, _perplexity, _score, _classify, _correct)
    return [Section("", [about], [table(head, rows)]), *(part(result) for part in parts)]


def _formula(result: Found) -> Section:
    found = result["formula"]
    return Section(
        "Log-likelihood: the formula as given",
        [
            f"Over {found['sentences']} sentences the score differs from the sum of log-softmax values, taken from the "
            f"whole logits in another way, by at most {found['largest difference']:.1e} nats (float32). Against "
            "lm-eval, in float64: within 1e-9, `tests/references/test_likelihood.py`.",
        ],
    )


def _perplexity(result: Found) -> Section:
    models = result["perplexity"]["models"]
    forms = ("perplexity", "word-perplexity", "byte-perplexity", "bits-per-byte")
    rows = [
        [name, str(m["vocabulary"]), str(m["tokens"]), *(f"{m[form]:.3f}" for form in forms)]
        for name, m in models.items()
    ]
    large, small = models["labelled"], models["labelled-512"]
    token = large["perplexity"] / small["perplexity"]
    byte = small["bits-per-byte"] / large["bits-per-byte"] - 1
    holds = "The claim holds: the two orders contradict each other. " if token > 1 < 1 + byte else ""
    return Section(
        "Perplexity: comparable only per byte",
        [
            f"The same {result['perplexity']['sentences']} sentences of SST-2's dev part.",
            f"{holds}Per token *labelled-512* looks {token:.1f} times as good as *labelled*, since its tokens say "
            f"less; per byte it needs {byte:+.0%} bits, having a smaller table and less training.",
        ],
        [table(["model", "vocabulary", "tokens", *forms], rows)],
    )


def _score(result: Found) -> Section:
    ways = ("sum", "per token", "per byte", "length alone")
    rows = [
        [
            f"{name}: {part['acceptable']} acceptable, {part['unacceptable']} not",
            f"{interval(part['natural above shuffled'])} of {part['pairs']}",
            *(interval(part["auc"][key]) for key in ways),
        ]
        for name, part in result["score"].items()
    ]
    lowest = min(part["natural above shuffled"][1] for part in result["score"].values())
    low = {key: min(part["auc"][key][1] for part in result["score"].values()) for key in ("sum", "per token")}
    verdicts = {
        key: "tells them apart, a little" if value > 0.5 else "does not tell them apart" for key, value in low.items()
    }
    head = ["CoLA part", "natural above its own words shuffled",
            *(f"AUC: {key}" for key in ("log-likelihood", *ways[1:]))]  # fmt: skip
    return Section(
        "Scoring: natural sentences score higher",
        [
            f"The claim holds for shuffled words: at least {lowest:.0%} of pairs. For CoLA's own judgements the plain "
            f"log-likelihood {verdicts['sum']}; per token it {verdicts['per token']}. CoLA's unacceptable sentences "
            "differ from acceptable ones in a word or two, which a model of this size hardly notices, and a sentence's "
            "length moves its log-likelihood more than its grammar does.",
        ],
        [table(head, rows)],
    )


def _classify(result: Found) -> Section:
    found = result["classify"]
    head = ["model", "way", "accuracy, by template", "standard deviation over templates"]
    rows = [
        [
            "labelled" if group == "trained" else "english",
            name,
            "; ".join(interval(entry["accuracy"]) for entry in way["templates"]),
            "" if way["spread"] is None else f"{way['spread']:.3f}",
        ]
        for group in ("trained", "untrained")
        for name, way in found[group].items()
    ]
    trained, untrained = found["trained"], found["untrained"]
    works = all(way["templates"][0]["accuracy"][1] > 0.5 for way in (trained["direct"], trained["channel"]))
    chance = all(e["accuracy"][1] < 0.5 < e["accuracy"][2] for w in untrained.values() for e in w["templates"])
    return Section(
        "Labelling: text scored with labels",
        [
            f"{found['rows']} sentences of SST-2's test part; guessing gives 0.5.",
            f"The claim {'holds' if works else 'does not hold both ways'} for a model that has read labelled text: it "
            "need not be told anything else. For a model of this size that never saw the task, labels by likelihood "
            f"are {'no better than guessing' if chance else 'weak'}, by either way, calibrated or not: what Min et al. "
            "report of the noisy channel is of models hundreds of times as large, and is not shown here.",
        ],
        [table(head, rows)],
    )


def _correct(result: Found) -> Section:
    found = result["correct"]
    parts = found["parts"]
    tuned = next(iter(found["margins"].values()))["clean sentences changed"][1]
    margins = [
        [
            margin,
            *(f"{row[key]:.3f}" for key in ("precision", "recall", "f0.5")),
            str(row["clean sentences changed"][0]),
        ]
        for margin, row in found["margins"].items()
    ]
    rows = []
    for name, part in parts.items():
        made, seen = part["made errors"], part["detection"]
        rows.append([
            name, str(made["pairs"]), *(f"{made[key]:.3f}" for key in ("precision", "recall", "f0.5")),
            interval(share(*part["clean sentences changed"])), interval(share(*part["unacceptable flagged"])),
            ", ".join(f"{seen[key]:.3f}" for key in ("precision", "recall", "f0.5")),
        ])  # fmt: skip
    kinds = [[kind, *(" of ".join(map(str, part["made errors"]["recall of kinds"].get(kind, [0, 0])))
                      for part in parts.values())] for kind in KINDS]  # fmt: skip
    above = all(share(*p["unacceptable flagged"])[1] > share(*p["clean sentences changed"])[2] for p in parts.values())
    detected = "detection: precision, recall, F0.5"
    return Section(
        "Correcting",
        [
            "Errors were made by rule in acceptable sentences, one each, of the kinds that the corrector knows, so "
            "recall is of errors for which it can propose a mend, and says nothing of others. A change is right where "
            "it alone restores the sentence. Known words: those of the training text seen three times. The margin was "
            f"chosen on {tuned} acceptable sentences of CoLA's training part: {found['margin']} nats.",
            "The claim (a model scores and replaces words to correct grammar) holds for errors of these kinds, within "
            "these figures. CoLA's unacceptable sentences are "
            f"{'flagged more often' if above else 'not clearly flagged more often'} than its acceptable ones: most of "
            "their faults are of syntax that no single word mends, so this is no judge of grammaticality.",
        ],
        [
            table(["margin", "precision", "recall", "F0.5", f"of {tuned} clean sentences changed"], margins),
            table(["CoLA part", "errors", "precision", "recall", "F0.5", "clean sentences changed",
                   "unacceptable flagged", detected], rows),
            table(["mended, by kind of error", *parts], kinds),
        ],
    )  # fmt: skip
