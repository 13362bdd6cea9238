"""`report.html` and `MODEL_CARD.md` of a run, from its `results.json` alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, select_autoescape

from llmanac.core import files
from llmanac.recipes.report_figures import bars_figure, loss_figure

TEMPLATES = Path(__file__).with_name("templates")
ASSISTANT = (
    "A demonstration of the whole pipeline on one small machine: text, tokenizer, pretraining, fine-tuning, retrieval "
    "and measurement, in minutes. It answers one question at a time about what the docstrings of Python say: it looks "
    "up passages, points at the line that answers, or finds it by the question's words, and quotes it with its source. "
    "It knows nothing by itself: what its language model guesses without a passage is worthless, as the table below "
    "shows."
)
PLAIN_MODEL = (
    "This is a small language model trained from nothing on the text named below. It continues text in that style; "
    "it was not made to answer questions, and what it says is not to be relied on."
)


@dataclass
class Section:
    """One part of the page; every part is optional but the title."""

    title: str
    paragraphs: list[str] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    caption: str = ""


def table(head: list[str], rows: list[list[Any]], ours: int | None = None) -> dict[str, Any]:
    """A table for a Section; `ours` is the row to set off."""
    return {"head": head, "rows": [{"cells": row, "ours": i == ours} for i, row in enumerate(rows)]}


def write_report(folder: Path, results: dict[str, Any]) -> Path:
    """Write `report.html` and `MODEL_CARD.md` into a run's folder; returns the report's path."""
    page = {
        "title": f"{results['name']}: report of a run",
        "subtitle": _subtitle(results),
        "what_it_is": ASSISTANT if "answers" in results else PLAIN_MODEL,
        "sections": [section for section in _sections(results) if section],
    }
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    path = files.write_text(folder / "report.html", environment.get_template("report.html").render(page))
    files.write_text(folder / "MODEL_CARD.md", model_card(results))
    return path


def _subtitle(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"Seed {results['seed']}, {_duration(sum(results['seconds'].values()))} of {results['budget']} on "
        f"{machine['cpu']}, {machine['threads']} threads; llmanac {results['version']}, torch {machine['torch']}."
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _sections(results: dict[str, Any]) -> list[Section | None]:
    return [
        _bars(results),
        _quality(results),
        _answers(results),
        _examples(results),
        _wrong(results),
        _curve(results),
        _data(results),
        _time(results),
        _completions(results),
        Section("Next", blocks=["\n".join(results["next"])]),
    ]


def _bars(results: dict[str, Any]) -> Section:
    scores = dict(sorted(results["bits_per_byte"].items(), key=lambda item: item[1]))
    figures = [bars_figure(scores, "bits per byte, held-out documents\n(lower is better)")]
    section = Section("In short", caption="Bits per byte of the language model beside its baselines.")
    if "answers" in results:
        ways = {name: score["f1"] for name, score in results["answers"]["scores"].items()}
        figures.append(bars_figure(ways, "answers about held-out modules, F1\n(higher is better)"))
        section.caption += (
            " F1 of the assistant's answers beside what the same model, or the same retrieval, gives alone."
        )
    section.figures = figures
    return section


def _quality(results: dict[str, Any]) -> Section:
    scores: dict[str, float] = results["bits_per_byte"]
    rows = sorted(scores.items(), key=lambda item: item[1])
    ours = next(i for i, (name, _) in enumerate(rows) if name == "this model")
    best = rows[0][0] == "this model"
    verdict = "below every baseline" if best else f"not below {rows[0][0]}"
    section = Section(
        "Bits per byte on held-out documents",
        [
            "How many bits the model needs for each byte of documents it never saw (lower is better); the others were "
            f"given the same training text. The model is {verdict}."
        ],
        [table(["", "bits per byte"], [[name, f"{value:.3f}"] for name, value in rows], ours)],
    )
    if "after fine-tuning" in results.get("base_kept", {}):
        kept = results["base_kept"]
        base, tuned = (f"{kept[name]:.3f}" for name in ("base", "after fine-tuning"))
        section.paragraphs.append(
            f"Fine-tuning keeps its own copy of the weights: text is continued by the base weights, which stay at "
            f"{base}; the copy that only answers is at {tuned}."
            if "answers" in results
            else f"The base weights are kept beside the fine-tuned ones: {base} and {tuned} bits per byte of text."
        )
    return section


def _answers(results: dict[str, Any]) -> Section | None:
    found = results.get("answers")
    if not found:
        return None
    head = ["held-out modules, question forms never seen in training", "F1", "exact", "questions"]
    rows = [[name, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for name, s in found["scores"].items()]
    by_sort = ", ".join(f"{sort} {share:.0%}" for sort, share in found["refused"].items())
    kinds = [[k, f"{s['f1']:.3f}", f"{s['exact']:.3f}", s["questions"]] for k, s in found["kinds"].items()]
    return Section(
        "Answers",
        [
            "Each question is about a function of a module that was held out whole; the passages shown to the model "
            "include near misses. F1 counts the words an answer shares with the documentation's own.",
            f"Questions the documentation cannot answer are refused {found['refused_unanswerable']:.0%} of the time; "
            f"answerable ones are refused {found['refused_answerable']:.0%}. By sort: {by_sort}.",
            WHICH,
            NEAR_MISSES,
        ],
        [table(head, rows, 0), table(["by kind, with retrieval", "F1", "exact", "questions"], kinds)],
    )


WHICH = (
    '"which" asks for a name by what it is for ("how do I copy a directory tree?") and wants the one function whose '
    "summary the question was made from; the others name their function, so that it is found at once."
)
NEAR_MISSES = (
    '"right passage among near misses" is retrieval helped where it missed, with its order taken away: the passages '
    "stand in any order. A question that names nothing then leaves the model nothing to go by but its reading, whereas "
    "a user's question comes with the best passage first; so this score can be below the one with retrieval."
)


def _examples(results: dict[str, Any]) -> Section | None:
    examples = results.get("answers", {}).get("examples")
    return Section("Some answers, with their sources", answers=examples) if examples else None


def _wrong(results: dict[str, Any]) -> Section | None:
    """Two answers that miss, and two refusals, as they came."""
    found = results.get("answers", {})
    shown = [
        {**example, "verdict": verdict}
        for key, verdict in (("misses", "not what was wanted"), ("refusals", "refused"))
        for example in found.get(key, ())
    ]
    words = "Misses of this evaluation, and refusals: of a question that it cannot answer, and of one that it could."
    return Section("Where it fails, and where it refuses", [words], answers=shown) if shown else None


def _by_kind(results: dict[str, Any]) -> list[dict[str, Any]]:
    found = results.get("row_losses")
    rows = [[kind, f"{row['loss']:.3f}", row["tokens"]] for kind, row in (found or {}).items()]
    return [table(["fine-tuned, by kind of row", "nats a token", "tokens"], rows)] if rows else []


def _curve(results: dict[str, Any]) -> Section:
    stages: list[tuple[str, dict[str, Any]]] = [(n, results[n]) for n in ("pretrain", "finetune") if n in results]
    rows = [
        [
            name,
            stage["steps"],
            f"{stage['tokens'] / 1e6:.2f} M",
            _duration(stage["seconds"]),
            f"{stage['tokens'] / stage['seconds']:,.0f}",
            f"{stage['loss']:.3f}",
        ]
        for name, stage in stages
    ]
    pretrain = results["pretrain"]
    words = [
        f"{results['model']['parameters'] / 1e6:.2f} M parameters. Size and steps that the recipe leaves open follow "
        "from the budget and the measured speed.",
        _speed(pretrain),
    ]
    return Section(
        "Training",
        words,
        [table(["", "steps", "tokens", "time", "tokens/s", "last loss"], rows), *_by_kind(results)],
        figures=[loss_figure(stages)],
        caption="Training loss, nats per token, smoothed; dots are held-out loss where it was measured.",
    )


def _speed(stage: dict[str, Any]) -> str:
    how = f"in {stage['dtype']}, attention form {stage['attention']}"
    if not stage["mfu"] or not stage["peak_flops"]:
        return f"Trained {how}."
    peak = f"{stage['peak_flops'] / 1e9:.0f} GFLOP/s"
    return (
        f"Trained {how}, at {stage['mfu']:.0%} of the {peak} that this machine's matrix products reach (counted FLOPs)."
    )


def _data(results: dict[str, Any]) -> Section:
    data = results["data"]
    rows = [
        ["documents", f"{data['train']['documents']:,}", f"{data['held_out']['documents']:,}"],
        ["bytes", f"{data['train']['bytes']:,}", f"{data['held_out']['bytes']:,}"],
        ["tokens", f"{results['tokens']['train']:,}", f"{results['tokens']['held_out']:,}"],
    ]
    licences = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in data["train"]["licenses"].items())
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in data["dropped"].items() if count) or "nothing"
    passed = [
        [s["name"], f"{s['documents_in']:,}", f"{s['documents_out']:,}", f"{s['bytes_in']:,}", f"{s['bytes_out']:,}"]
        for s in data.get("stages", ())
    ]
    heads = ["stage", "documents in", "out", "bytes in", "out"]
    related = data["held_out_by"].get("related_groups", 0)
    together = f"{related} groups share text with another and stay on its side of the split. " if related else ""
    return Section(
        "Text",
        [
            f"A vocabulary of {results['tokens']['vocabulary']:,} tokens takes "
            f"{results['tokens']['bytes_per_token']:.2f} bytes a token on held-out documents. Dropped: {dropped}.",
            f"{together}Licences: {licences}.",
        ],
        [table(["", "training", "held out"], rows), *([table(heads, passed)] if passed else [])],
    )


def _time(results: dict[str, Any]) -> Section:
    rows = [[name, _duration(value)] for name, value in results["seconds"].items()]
    return Section("Where the time went", tables=[table(["stage", "time"], rows)])


def _completions(results: dict[str, Any]) -> Section | None:
    found = results.get("completions")
    if not found:
        return None
    words = ["Greedy continuations by the base weights, unedited; a model of this size soon repeats itself."]
    return Section("Completions", words, blocks=[f"{c['prompt']}⟶{c['text']}" for c in found])


def model_card(results: dict[str, Any]) -> str:
    """The model card as Markdown with the metadata block that model hubs read."""
    data = results["data"]
    scores = "\n".join(f"| {k} | {v:.3f} |" for k, v in sorted(results["bits_per_byte"].items(), key=lambda i: i[1]))
    licences = "\n".join(f"- {k}: {v:,} bytes" for k, v in data["train"]["licenses"].items())
    answers = results.get("answers")
    measured = ""
    if answers:
        lines = "\n".join(f"| {k} | {s['f1']:.3f} | {s['exact']:.3f} |" for k, s in answers["scores"].items())
        measured = f"\n## Answers on held-out modules\n\n| | F1 | exact |\n|---|---|---|\n{lines}\n"
    return f"""---
library_name: llmanac
pipeline_tag: text-generation
---

# {results["name"]}

{ASSISTANT if answers else PLAIN_MODEL}

- Parameters: {results["model"]["parameters"]:,}
- Trained on {results["pretrain"]["tokens"]:,} tokens, seed {results["seed"]}
- llmanac {results["version"]}, checkpoint format {results["format_version"]}

## Training text

{data["train"]["documents"]:,} documents, {data["train"]["bytes"]:,} bytes; every input is named in `manifest.json`.

{licences}

## Bits per byte on {data["held_out"]["documents"]:,} held-out documents

| | bits per byte |
|---|---|
{scores}
{measured}
## Limits

Small, trained for minutes, and only on the text above. It repeats itself in free text.
"""
