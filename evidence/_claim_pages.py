"""What the study of classifiers shows, by row: its tables and curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from evidence._classified import between, percent, spread
from llmanac.core.pages import Chart, Line, Section, line_chart, nice_number, table
from llmanac.lab.stats import mean

Found = Mapping[str, Any]
BAGS = ("bow", "cbow", "deep-cbow")
ACCURACY = ("", "accuracy", "95% over seeds")


def claims(found: Found) -> list[Section]:
    """A section a row, and below it what was measured."""
    rows = [[name, percent(own["accuracy"]), between(own["interval_over_texts"])]
            for name, own in found["table"].items()]  # fmt: skip
    out = [Section("SST-2", [], [table(("", "test accuracy", "95% over texts"), rows)])]
    for title, parts in CLAIMS.items():
        out += [Section(title), *(replace(one, title=f"# {one.title}") for one in parts(found))]
    return out


def _accuracies(values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    return table(ACCURACY, [[name, percent(mean(own)), spread(own)] for name, own in values.items()])


def _curve(found: Found, *names: str) -> Section:
    values = {name: {float(size): own for size, own in found["table"][name]["curve"].items()} for name in names}
    sizes = sorted({int(size) for points in values.values() for size in points})
    rows = [[name, *(percent(mean(points[size])) for size in sizes)] for name, points in values.items()]
    return Section(
        "Accuracy over training rows",
        [],
        [table(["rows", *(f"{size:,}" for size in sizes)], rows)],
        [_lines(values, "Every dot is one seed: another sample of the rows, another start.")],
    )


def _lines(values: Mapping[str, Mapping[float, Sequence[float]]], caption: str) -> Chart:
    lines = [Line.of_replicates(name, own) for name, own in values.items()]
    return line_chart(lines, "training rows", "accuracy", caption, log="x")


def _slices(found: Found, *names: str) -> Section:
    slices = list(found["table"][names[0]]["slices"])
    rows = []
    for name in names:
        parts = found["table"][name]["slices"]
        rows.append([name, *(f"{mean(parts[s]['plain']):.0%} → {mean(parts[s]['changed']):.0%}" for s in slices)])
    return Section("Plain sentences → changed ones", [], [table(["accuracy", *slices], rows)])


def _rare(found: Found, *names: str) -> Section:
    times = sorted({t for name in names for t in found["table"][name]["extra"]["rare"][0]}, key=int)
    rows = []
    for name in names:
        own = found["table"][name]["extra"]["rare"]
        rows.append([name, *(percent(mean([one[t]["right"] for one in own])) for t in times)])
    words = found["table"][names[0]]["extra"]["rare"][0]
    heads = ["right label", *(f"{t}× ({words[t]['words']} words)" for t in times)]
    return Section(
        "Words of clear sentiment that are rare in training",
        ["Each word as a text of its own, by its number of training sentences; the rulebook gives the true label."],
        [table(heads, rows)],
    )


def _cbow(found: Found) -> list[Section]:
    cbow, one_hot = found["table"]["cbow"], found["one_hot_similarity"]
    own = {key: mean([one[key] for one in cbow["extra"]["similarity"]]) for key in one_hot}
    nearest = [[word, ", ".join(f"{w} {c:.2f}" for w, c in near)] for word, near in found["nearest"].items()]
    rows = [
        [name, *(f"{one[key]:.2f}" for key in ("alike", "unlike", "opposed")),
         *(percent(one[key]) for key in ("ranked_right", "against_opposed"))]
        for name, one in (("one-hot", one_hot), ("cbow", own))
    ]  # fmt: skip
    words = f"{own['words']:.0f} words in eight groups; mean cosines, and how often an alike pair is the closer one."
    head = ["", "alike", "unlike", "opposed", "alike over unlike", "alike over opposed"]
    return [
        Section("A list of similar words", [words], [table(head, rows)]),
        Section("Nearest words", ["Seed 0."], [table(["word", "nearest (cosine)"], nearest)]),
        _curve(found, "bow", "cbow"),
    ]


def _deep(found: Found) -> list[Section]:
    said = '"i love X", "i don\'t love X", "i hate X", "i don\'t hate X"; objects held out.'
    first = Section("An exclusive or", [said], [_accuracies(found["exclusive_or"])])
    return [first, _slices(found, *BAGS), _curve(found, "cbow", "deep-cbow")]


def _prompting(found: Found) -> list[Section]:
    lm = found["language_model"]
    rows = [[name, percent(one["accuracy"]), percent(one["second_label"])] for name, one in found["prompts"].items()]
    said = (
        f"A language model of {nice_number(lm['parameters'])} parameters that has read only {lm['read']}. Test "
        "accuracy, and how often the second label is given; the more frequent label is right on "
        f"{percent(found['data']['chance'])}."
    )
    return [Section("Ways to compare", [said], [table(["compared by", "accuracy", "second label"], rows)])]


def _fine_tuning(found: Found) -> list[Section]:
    best = max(BAGS, key=lambda name: found["table"][name]["accuracy"])
    return [Section("1,000 rows", [], [_accuracies(found["pairs"])]), _curve(found, best, "fine-tuning")]


def _embedding(found: Found) -> list[Section]:
    probes, one_hot = found["probes"], found["one_hot"]
    sizes = sorted({int(size) for points in probes.values() for size in points})
    values = {name: {float(size): own for size, own in points.items()} for name, points in probes.items()}
    rows = [[name, *(f"{percent(mean(points[str(s)]))} ({spread(points[str(s)])})" for s in sizes)]
            for name, points in probes.items()]  # fmt: skip
    chart = _lines(values, "Linear probes. A dot a seed.")
    said = (
        "Test accuracy of logistic regression on fixed features (95% over seeds). The largest cosine of one-hot "
        f"vectors of {one_hot['words']:.0f} different words is {one_hot['largest_cosine']:g}."
    )
    return [Section("Linear probes", [said], [table(["rows", *(f"{s:,}" for s in sizes)], rows)], [chart])]


def _bce(found: Found) -> list[Section]:
    said = (
        "Over {grid:,} scores from -120 to 120 and three targets, the loss differs from torch's by at most "
        "{largest_difference:.1e} and its slope from sigmoid(z) - y by at most {slope_difference:.1e}. Written out "
        "directly in float32 the formula stops being finite at |z| = {formula_breaks_at:.1f}."
    )
    return [Section("Against torch", [said.format(**found["bce"])])]


def _cross_entropy(found: Found) -> list[Section]:
    names = ("scores", "fused", "plain", "torch")
    cells = [
        [f"{row['classes']:,}", *(f"{row[key] / 1e6:,.0f} MB" for key in names), f"{row['torch'] / row['fused']:.1f}×"]
        for row in found["bytes"]
    ]
    heads = ["classes", "the scores alone", "fused", "our plain form", "torch", "torch over fused"]
    return [Section("Peak bytes", ["2,048 rows, float32, forward and backward."], [table(heads, cells)])]


CLAIMS: dict[str, Callable[[Found], list[Section]]] = {
    "Rules": lambda found: [_slices(found, *found["table"])],
    "Bag of words": lambda found: [_curve(found, "bow"), _rare(found, "bow", "cbow")],
    "Continuous bag of words": _cbow, "Deep continuous bag of words": _deep, "Prompting": _prompting,
    "Fine-tuning": _fine_tuning, "Embedding lookup": _embedding, "Binary cross-entropy": _bce,
    "Cross-entropy": _cross_entropy,
}  # fmt: skip
