"""Scores of a corpus from sums of what each segment adds: the value, its bootstrap interval, texts to ids and back.

Most scores of generated text are a formula of sums: BLEU of matches and lengths, ROUGE of one F a segment. With the
summands kept, a resampled corpus costs a sum of rows instead of another pass over the texts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from llmanac.core.errors import DataError, shown
from llmanac.kernels.metrics.trials import count_drawn
from llmanac.metrics.statistics.intervals import wilson_interval

SEED = 12345  # sacrebleu's
SAMPLES = 1000
BLOCK = 1 << 22  # numbers that a step of resampling holds
WHOLE = 1 << 24  # up to here float32 holds every integer
Formula = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Measured:
    """A score of a corpus, with what every segment adds to it.

    Attributes:
        name: of the metric; signature: its choices, as a paper should report them.
        statistics: (S, K) float64, a row a segment.
        formula: (..., K) sums -> (...) scores.
    """

    name: str
    statistics: np.ndarray
    formula: Formula
    signature: str = ""

    @property
    def value(self) -> float:
        """The score of all segments together."""
        return float(self.formula(self.statistics.sum(0)[None])[0])

    @property
    def segments(self) -> np.ndarray:
        """(S,) the score of each segment by itself."""
        return self.formula(self.statistics)

    def interval(self, *, samples: int = SAMPLES, seed: int = SEED, confidence: float = 0.95) -> tuple[float, float]:
        """The bootstrap interval of the value over segments (percentiles; the same resamples as sacrebleu's)."""
        return percentiles(resampled_together((self,), samples, np.random.default_rng(seed))[0], confidence)


class Proportion(Measured):
    """The mean of zeros and ones. Its interval is Wilson's, which is not empty where all are equal."""

    def interval(self, *, samples: int = SAMPLES, seed: int = SEED, confidence: float = 0.95) -> tuple[float, float]:
        if confidence != 0.95:
            return super().interval(samples=samples, seed=seed, confidence=confidence)
        hits, total = self.statistics.sum(0)
        return wilson_interval(int(hits), int(total))[1:]


def mean_of(values: np.ndarray, name: str, signature: str = "") -> Measured:
    """A metric that is the mean of one number a segment, (S,)."""
    made = Proportion if np.isin(values, (0.0, 1.0)).all() else Measured
    return made(name, np.stack([values, np.ones(len(values))], axis=-1), _mean, signature)


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def percentiles(scores: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """The interval that leaves out equally many sorted scores at both ends."""
    ordered = np.sort(scores)
    out = int(len(ordered) * (1 - confidence) / 2 + 1e-9)
    return float(ordered[out]), float(ordered[len(ordered) - out - 1])


def resampled_together(
    several: Sequence[Measured], samples: int, generator: np.random.Generator
) -> tuple[np.ndarray, ...]:
    """(samples,) of each system: scores of corpora of as many segments, the same draws with replacement for all."""
    segments = len(several[0].statistics)
    statistics = np.concatenate([one.statistics for one in several], 1)
    sums = np.empty((samples, statistics.shape[1]))
    rows = max(1, BLOCK // segments)
    for start in range(0, samples, rows):
        drawn = generator.integers(0, segments, size=(min(rows, samples - start), segments))
        counts = np.zeros(drawn.shape)
        count_drawn(drawn, counts)
        np.matmul(counts, statistics, out=sums[start : start + rows])
    each = np.split(sums, np.cumsum([one.statistics.shape[1] for one in several])[:-1], axis=1)
    return tuple(_of_sums(one, total) for one, total in zip(several, each, strict=True))


def _of_sums(measured: Measured, sums: np.ndarray) -> np.ndarray:
    """Scores of sums; of counts in float32, as sacrebleu computes those of its resamples."""
    if sums.size and sums.max() < WHOLE and bool((measured.statistics == np.rint(measured.statistics)).all()):
        sums = sums.astype(np.float32)
    return measured.formula(sums)


def reference_lists(hypotheses: Sequence[str], references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """The references of each hypothesis as a list.

    Raises:
        DataError: no segment, other numbers of both, a hypothesis without a reference, or what is no text; it names
            the row, counted from 1.
    """
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise DataError("hypotheses, references: give lists of texts, not one text")
    if len(hypotheses) != len(references):
        raise DataError(f"{len(hypotheses)} hypotheses but {len(references)} rows of references; give a row for each")
    if not hypotheses:
        raise DataError("hypotheses: there is nothing to score")
    if set(map(type, hypotheses)) == set(map(type, references)) == {str}:  # the usual case, at once
        return [[str(given)] for given in references]
    out = []
    for row, (text, given) in enumerate(zip(hypotheses, references, strict=True), 1):
        found = [given] if isinstance(given, str) else list(given or ())
        for what, each in (("hypothesis", [text]), ("reference", found)):
            for one in each:
                if not isinstance(one, str):
                    raise DataError(f"row {row}: the {what} is {shown(one)}, expected text")
        if not found:
            raise DataError(f"row {row}: has no reference; give at least one, or leave the row out")
        out.append(found)
    return out
