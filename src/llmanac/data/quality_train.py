"""Train a classifier of text quality on two sets of texts and evaluate it on held-out ones.

How well scores tell two kinds apart: precision against recall, and the area under the ROC curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llmanac.core.errors import DataError
from llmanac.core.files import write_json, write_text
from llmanac.core.outputs import check_own_folder
from llmanac.core.pages import Chart, Line, line_chart
from llmanac.core.progress import progress
from llmanac.data.command_problems import CommandProblems
from llmanac.data.documents import Document
from llmanac.data.quality_model import SETTINGS, WEIGHTS, Features, train_quality
from llmanac.data.split import fraction
from llmanac.data.texts import documents, files_of
from llmanac.metrics.statistics.auc import area


@dataclass(frozen=True)
class Point:
    """What keeping the texts from `threshold` on gives: fractions from 0 to 1, NaN for the precision of nothing."""

    threshold: float
    precision: float
    recall: float
    kept: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both > 0 else 0.0  # NaN is not above 0


def precision_recall(labels: Sequence[int], scores: Sequence[float]) -> list[Point]:
    """One point for every distinct score, from the highest threshold down.

    Args:
        labels: 1 for a text that is wanted, 0 for one that is not.

    Raises:
        ValueError: labels and scores differ in number, or no text is wanted.
    """
    wanted, score = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    if len(wanted) != len(score) or not wanted.sum():
        raise ValueError(f"{len(wanted)} labels ({wanted.sum()} of them wanted) for {len(score)} scores")
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    hits = np.cumsum(wanted[order])
    last = np.flatnonzero(np.append(np.diff(ranked) != 0, True))
    return [
        Point(float(ranked[i]), float(hits[i] / (i + 1)), float(hits[i] / hits[-1]), (int(i) + 1) / len(ranked))
        for i in last
    ]


def auc(labels: Sequence[int], scores: Sequence[float]) -> float:
    """How likely a wanted text scores above an unwanted one; an equal score counts half (Mann and Whitney's U).

    Raises:
        DataError: one of the two kinds is missing.
    """
    wanted, score = np.asarray(labels, np.int64), np.asarray(scores, np.float64)
    return area(score[wanted == 1], score[wanted == 0])


def at_threshold(points: Sequence[Point], threshold: float) -> Point:
    """What keeping every text that scores at least `threshold` gives."""
    above = [point for point in points if point.threshold >= threshold]
    return above[-1] if above else Point(threshold, math.nan, 0.0, 0.0)


CURVE, PICTURE = "curve.json", "curve.svg"
OWN = (SETTINGS, WEIGHTS, CURVE, PICTURE)  # what a model's folder has, the file that it is known by first


@dataclass(frozen=True)
class Trained:
    """The evaluation of a model on held-out texts.

    Attributes:
        points: precision and recall by threshold. auc: the area under the ROC curve. count: the texts.
        picture: the drawing of precision against recall.
    """

    points: list[Point]
    auc: float
    count: int
    picture: Path


def read(paths: Sequence[str], text: str, flag: str, include: Sequence[str] = ()) -> list[Document]:
    """Every document of some files. Raises DataError that names the flag when there is none."""
    with progress(f"read {flag}", unit="texts") as bar:
        out = []
        for document in documents(files_of(paths, column=text, include=include), CommandProblems(column="--text")):
            out.append(document)
            bar.advance()
    return out


def train(
    positive: Sequence[str], negative: Sequence[str], folder: Path, *, text: str = "text", bits: int = 18,
    longest: int = 4, epochs: int = 5, held_out: float = 0.2, seed: int = 0, include: Sequence[str] = (),
) -> Trained:  # fmt: skip
    """Train on some of the texts, measure on the others, save.

    Args:
        positive, negative: files or folders of texts that are wanted, and that are not. text: their column, in tables.
        bits, longest: see `Features`.
        held_out: fraction of the texts to measure on.
        include: patterns that files of folders must match, all of them if nothing is said.

    Raises:
        DataError: texts that cannot be read, or are too few; a folder that holds something else.
    """
    if not 0 < held_out <= 0.5:
        raise DataError(f"--held-out: {held_out} is not a share above 0 and at most 0.5")
    check_own_folder(folder, "--folder", OWN, [*positive, *negative], what="a quality model")
    settings = Features(bits=bits, longest=longest)
    train_texts: dict[int, list[str]] = {0: [], 1: []}
    test_texts: dict[int, list[str]] = {0: [], 1: []}
    for label, paths, flag in ((1, positive, "--positive"), (0, negative, "--negative")):
        documents = read(paths, text, flag, include)
        for document in documents:
            side = test_texts if fraction(document.group, seed) < held_out else train_texts
            side[label].append(document.text)
        if not train_texts[label] or not test_texts[label]:
            raise DataError(f"{flag}: {len(documents)} texts are too few to train on some and measure on others")
    model = train_quality(train_texts[1], train_texts[0], settings, epochs=epochs, seed=seed)
    labels = [1] * len(test_texts[1]) + [0] * len(test_texts[0])
    scores = [model.score(one) for one in (*test_texts[1], *test_texts[0])]
    points, area = precision_recall(labels, scores), auc(labels, scores)
    model.about |= {"held_out": {"positive": len(test_texts[1]), "negative": len(test_texts[0]), "auc": round(area, 6)}}
    model.save(folder)
    save_curve(folder, points, area)
    return Trained(points, area, len(labels), folder / PICTURE)


def save_curve(folder: Path, points: Sequence[Point], area: float) -> None:
    """Write precision against recall as JSON and as a picture."""
    chosen = [*points[:: max(1, len(points) // 200)], points[-1]]
    rounded = [[round(v, 6) for v in (p.threshold, p.precision, p.recall)] for p in chosen]
    write_json(folder / CURVE, {"auc": area, "curves": {"classifier": rounded}, "single": {}})
    write_text(folder / PICTURE, draw(points).svg)


def draw(points: Sequence[Point]) -> Chart:
    """Precision against recall."""
    line = Line("classifier", [(p.recall, p.precision) for p in points])
    labels = ("recall: fraction of the wanted texts that stay", "precision: fraction of the rest wanted")
    return line_chart([line], *labels, "Precision against recall of the classifier on held-out texts.")
