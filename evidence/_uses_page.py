"""The tables of the study of uses, and what its words name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmanac.core.pages import Section, table
from llmanac.evaluate.correct import KINDS
from llmanac.metrics.statistics.intervals import wilson_interval

Found = Mapping[str, Any]


def interval(figures: Any, digits: int = 3) -> str:
    value, low, high = figures
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def sections(result: Found) -> list[Section]:
    """The tables."""
    models = [
        [name, f"{m['parameters']:,}", f"{m['seconds']:.0f}", f"{m['bits_per_byte']:.3f}"]
        for name, m in result["models"].items()
    ]
    forms = ("perplexity", "word-perplexity", "byte-perplexity", "bits-per-byte")
    asked, found = result["perplexity"], result["classify"]
    perplexity = [
        [name, str(m["vocabulary"]), str(m["tokens"]), *(f"{m[form]:.3f}" for form in forms)]
        for name, m in asked["models"].items()
    ]
    ways = ("sum", "per token", "per byte", "length alone")
    scores = [
        [
            f"{name}: {part['acceptable']} acceptable, {part['unacceptable']} not",
            f"{interval(part['natural above shuffled'])} of {part['pairs']}",
            *(interval(part["auc"][key]) for key in ways),
        ]
        for name, part in result["score"].items()
    ]
    labels = [
        [
            "labelled" if group == "trained" else "english", name,
            "; ".join(interval(entry["accuracy"]) for entry in way["templates"]),
            "" if way["spread"] is None else f"{way['spread']:.3f}",
        ]
        for group in ("trained", "untrained") for name, way in found[group].items()
    ]  # fmt: skip
    shuffled = [
        "CoLA part",
        "natural above its own words shuffled",
        "AUC: log-likelihood",
        *(f"AUC: {w}" for w in ways[1:]),
    ]
    guessing = f"{found['rows']} sentences of SST-2's test part; guessing gives 0.5."
    same = f"The same {asked['sentences']} sentences of SST-2's dev part."
    by_template = ["model", "way", "accuracy, by template", "standard deviation over templates"]
    trained = ["model", "parameters", "seconds of training", "bits per byte, held out"]
    return [
        Section("Models", [], [table(trained, models)]),
        Section("Perplexity", [same], [table(["model", "vocabulary", "tokens", *forms], perplexity)]),
        Section("Scoring", [], [table(shuffled, scores)]),
        Section("Labelling", [guessing], [table(by_template, labels)]),
        Section("Correcting", [], corrections(result["correct"])),
    ]


def corrections(found: Found) -> list[dict[str, Any]]:
    parts, rates = found["parts"], ("precision", "recall", "f0.5")
    margins = [
        [margin, *(f"{row[key]:.3f}" for key in rates), " of ".join(map(str, row["clean sentences changed"]))]
        for margin, row in found["margins"].items()
    ]
    rows = [
        [
            name, str(part["made errors"]["pairs"]), *(f"{part['made errors'][key]:.3f}" for key in rates),
            interval(wilson_interval(*part["clean sentences changed"])),
            interval(wilson_interval(*part["unacceptable flagged"])),
            ", ".join(f"{part['detection'][key]:.3f}" for key in rates),
        ]
        for name, part in parts.items()
    ]  # fmt: skip
    kinds = [[kind, *(" of ".join(map(str, part["made errors"]["recall of kinds"].get(kind, [0, 0])))
                      for part in parts.values())] for kind in KINDS]  # fmt: skip
    head = ["CoLA part", "errors", "precision", "recall", "F0.5", "clean sentences changed", "unacceptable flagged",
            "detection: precision, recall, F0.5"]  # fmt: skip
    return [
        table(["margin", "precision", "recall", "F0.5", "clean sentences changed"], margins),
        table(head, rows),
        table(["corrected, by kind of error", *parts], kinds),
    ]


def facts(result: Found) -> dict[str, Any]:
    models, correct = result["perplexity"]["models"], result["correct"]
    large, small = models["labelled"], models["labelled-512"]
    token, byte = large["perplexity"] / small["perplexity"], small["bits-per-byte"] / large["bits-per-byte"] - 1
    return {
        "formula": result["formula"], "token": token, "byte": byte, "margin": correct["margin"],
        "tuned": next(iter(correct["margins"].values()))["clean sentences changed"][1],
    }  # fmt: skip
