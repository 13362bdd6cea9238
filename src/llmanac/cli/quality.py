"""`llmanac quality`: train a classifier of text quality, and score texts with it."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmanac.cli.options import Column, Include, LineAsJson, Seed, group

if TYPE_CHECKING:
    from llmanac.data.quality_train import Point

quality_app = group("Train and use a classifier of text quality.")
SHOWN = (0.1, 0.3, 0.5, 0.7, 0.9)  # thresholds in the printed table


@quality_app.command("train")
def train_command(
    positive: list[str], negative: list[str], folder: Path = Path("quality"), text: Column = "text", bits: int = 18,
    longest: int = 4, epochs: int = 5, held_out: float = 0.2, seed: Seed = 0, include: Include = None,
) -> Any:  # fmt: skip
    """Train a classifier and measure precision and recall on held-out texts.

    Args:
        positive (--positive): Files or folders of wanted texts; repeatable.
        negative (--negative): Files or folders of unwanted texts; repeatable.
        folder: Output folder of the model.
        bits: The model has 2^bits weights.
        longest: Longest character n-gram; 0 for words only.
        epochs (from 1):
        held_out: Fraction of the texts to measure on.
    """
    from llmanac.data import quality_train

    done = quality_train.train(
        positive, negative, folder, text=text, bits=bits, longest=longest, epochs=epochs, held_out=held_out, seed=seed,
        include=include or (),
    )  # fmt: skip
    report(done.points, max(done.points, key=lambda point: point.f1), done.auc, done.count)
    print(f"\nWritten: {done.picture}")
    given = shlex.join([str(folder), *negative])
    print(f'Next: llmanac quality score {given}, or in a recipe: name = "quality", model = "{folder}"')
    return {"folder": folder, "auc": done.auc, "texts": done.count, "points": done.points}


def report(points: Sequence[Point], best: Point, area: float, count: int) -> None:
    """Print the table of thresholds."""
    from llmanac.data.quality_train import at_threshold

    print(f"AUC {area:.4f} on {count} texts held out\n")
    print("min_score  precision  recall  kept")
    for threshold in SHOWN:
        point = at_threshold(points, threshold)
        precision = "undefined" if math.isnan(point.precision) else f"{point.precision:.3f}"
        print(f"{threshold:9.2f}  {precision:>9}  {point.recall:6.3f}  {point.kept:4.0%}")
    print(f"{best.threshold:9.2f}  {best.precision:9.3f}  {best.recall:6.3f}  {best.kept:4.0%}  (best F1)")


@quality_app.command("score")
def score_command(
    model: Path, files: list[str], text: Column = "text", as_json: LineAsJson = False, include: Include = None,
) -> None:  # fmt: skip
    """Score texts from 0 to 1: the probability that a text is a wanted one.

    Args:
        model: The folder of a trained classifier.
        files: Files or folders of texts.
    """
    from llmanac.data.quality_model import load_quality
    from llmanac.data.quality_train import read

    judge = load_quality(model)
    documents = read(files, text, "FILES", include or ())
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
    print(f"\n{len(scores)} texts, mean score {mean:.4f}; {kept:.0%} score 0.5 or more.")
    print(f'Next: in a recipe: name = "quality", model = "{model}", min_score = 0.5')
