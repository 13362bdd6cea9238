"""What `llmanac quality` does: train a classifier on two heaps of texts, measure it on some of them, score others."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError
from llmanac.core.files import write_bytes, write_json
from llmanac.core.outputs import check_own_folder
from llmanac.core.progress import progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.curve import Point, auc, precision_recall
from llmanac.data.documents import Document
from llmanac.data.quality_model import SETTINGS, WEIGHTS, Features, QualityModel, load_quality, train_quality
from llmanac.data.split import fraction
from llmanac.data.texts import documents, files_of

CURVE, PICTURE = "curve.json", "curve.svg"
OWN = (SETTINGS, WEIGHTS, CURVE, PICTURE)  # what a model's folder has, the file that it is known by first
SHOWN = (0.1, 0.3, 0.5, 0.7, 0.9)


def read(paths: Sequence[str], text: str, flag: str, include: Sequence[str] = ()) -> list[Document]:
    """Every document of some files. Raises DataError that names the flag when there is none."""
    with progress(f"read {flag}", unit="texts") as bar:
        out = []
        for document in documents(files_of(paths, column=text, include=include), CommandProblems(column="--text")):
            out.append(document)
            bar.advance()
    return out


def train_command(
    positive: Sequence[str], negative: Sequence[str], folder: Path, *, text: str, bits: int, longest: int, epochs: int,
    held_out: float, seed: int, include: Sequence[str] = (),
) -> None:  # fmt: skip
    """Train, measure, save, and print what came of it."""
    if not 0 < held_out <= 0.5:
        raise DataError(f"--held-out: {held_out} is not a share above 0 and at most 0.5")
    check_own_folder(folder, "--folder", OWN, [*positive, *negative], what="a quality model")
    settings = Features(bits=bits, longest=longest)
    train: dict[int, list[str]] = {0: [], 1: []}
    test: dict[int, list[str]] = {0: [], 1: []}
    for label, paths, flag in ((1, positive, "--positive"), (0, negative, "--negative")):
        documents = read(paths, text, flag, include)
        for document in documents:
            side = test if fraction(document.group, seed) < held_out else train
            side[label].append(document.text)
        if not train[label] or not test[label]:
            raise DataError(f"{flag}: {len(documents)} texts are too few to train on some and measure on others")
    model = train_quality(train[1], train[0], settings, epochs=epochs, seed=seed)
    labels = [1] * len(test[1]) + [0] * len(test[0])
    scores = [model.score(one) for one in (*test[1], *test[0])]
    points, area = precision_recall(labels, scores), auc(labels, scores)
    best = max(points, key=lambda point: point.f1)
    model.about |= {"held_out": {"positive": len(test[1]), "negative": len(test[0]), "auc": round(area, 6)}}
    model.save(folder)
    save_curve(folder, {"classifier": points}, area)
    report(points, best, area, len(labels))
    print(f"\nWritten: {folder / PICTURE}")
    files = shlex.join([str(folder), *negative])
    print(f'Next: llmanac quality score {files}, or in a recipe: name = "quality", model = "{folder}"')


def at_threshold(points: Sequence[Point], threshold: float) -> Point:
    """What keeping every text that scores at least `threshold` gives."""
    above = [point for point in points if point.threshold >= threshold]
    return above[-1] if above else Point(threshold, math.nan, 0.0, 0.0)


def report(points: Sequence[Point], best: Point, area: float, count: int) -> None:
    """Print the table of thresholds."""
    print(f"AUC {area:.4f} on {count} texts held out\n")
    print("min_score  precision  recall  kept")
    for threshold in SHOWN:
        point = at_threshold(points, threshold)
        precision = "undefined" if math.isnan(point.precision) else f"{point.precision:.3f}"
        print(f"{threshold:9.2f}  {precision:>9}  {point.recall:6.3f}  {point.kept:4.0%}")
    print(f"{best.threshold:9.2f}  {best.precision:9.3f}  {best.recall:6.3f}  {best.kept:4.0%}  (best F1)")


def save_curve(folder: Path, curves: dict[str, Sequence[Point]], area: float, single: dict[str, Point] | None = None
               ) -> None:  # fmt: skip
    """Write precision against recall as JSON and as a picture; `single` are methods that have one point only."""
    data: dict[str, Any] = {"auc": area, "curves": {}, "single": {}}
    for name, points in curves.items():
        step = max(1, len(points) // 200)
        chosen = [*points[::step], points[-1]]
        data["curves"][name] = [[round(v, 6) for v in (p.threshold, p.precision, p.recall)] for p in chosen]
    for name, point in (single or {}).items():
        data["single"][name] = [round(point.precision, 6), round(point.recall, 6)]
    write_json(folder / CURVE, data)
    write_bytes(folder / PICTURE, draw(curves, single or {}))


def draw(curves: dict[str, Sequence[Point]], single: dict[str, Point]) -> bytes:
    """Precision against recall, as SVG."""
    import io

    import matplotlib

    matplotlib.use("svg", force=False)
    matplotlib.rcParams["svg.hashsalt"] = "llmanac"  # the same curve gives the same bytes
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        axes.plot([p.recall for p in points], [p.precision for p in points], label=name)
    for (name, point), mark in zip(single.items(), "os^Dv<>PX*", strict=False):
        axes.plot([point.recall], [point.precision], mark, label=name)
    axes.set(xlabel="recall: share of the wanted texts that stay", ylabel="precision: how much of the rest is wanted",
             xlim=(0, 1.01), ylim=(0, 1.01))  # fmt: skip
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def score_command(model: Path, files: Sequence[str], *, text: str, as_json: bool, include: Sequence[str] = ()) -> None:
    """Score texts and print them, from the lowest score up, or as JSON in the order they were read."""
    judge: QualityModel = load_quality(model)
    documents = read(files, text, "FILES", include)
    scores = [judge.score(document.text) for document in documents]
    if as_json:
        for document, score in zip(documents, scores, strict=True):
            print(json.dumps({"id": document.id, "score": round(score, 6)}, ensure_ascii=False))
        return
    ranked = sorted(zip(scores, documents, strict=True), key=lambda pair: (pair[0], pair[1].id))
    shown = ranked if len(ranked) <= 20 else [*ranked[:10], *ranked[-10:]]
    print("score   text")
    for at, (score, document) in enumerate(shown):
        if at == 10 and len(ranked) > 20:
            print(f"        ({len(ranked) - 20} more)")
        first = " ".join(document.text[:200].split())[:60]
        print(f"{score:.4f}  {document.id}: {first}")
    mean = sum(scores) / len(scores)
    kept = sum(score >= 0.5 for score in scores) / len(scores)
    print(f"\n{len(scores)} texts, mean score {mean:.4f}; {kept:.0%} score 0.5 and more.")
    print(f'Next: in a recipe: name = "quality", model = "{model}", min_score = 0.5')
