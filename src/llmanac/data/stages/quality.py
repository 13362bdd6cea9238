"""The quality classifier as a stage: every document gets a score, and one below the threshold is dropped.

    score(x) = sigmoid(w . f(x) + b),    f(x) = hashed word 1-2-grams and character n-grams of x

`llmanac quality train` makes the model from texts that are wanted and texts that are not (`data/quality_model.py`).
After the classifier of GPT-3's data (Brown et al. 2020, appendix A); the threshold is a plain one, so that a document's
fate depends on nothing else.
"""

from dataclasses import dataclass, replace
from typing import Any

from llmanac.core.errors import SpecError
from llmanac.core.ranges import FRACTION, within
from llmanac.data.documents import Document
from llmanac.data.quality_model import load_quality
from llmanac.data.stages import Dropped, Stage, StageSpec

CARD = {
    "title": "Trainable quality classifier",
    "paper": "Brown et al. 2020, Language Models are Few-Shot Learners, appendix A",
    "reference": "precision and recall on held-out texts whose kind is known",
    "aliases": {},
    "test": "tests/references/test_quality.py",
}


@dataclass(frozen=True, kw_only=True)
class Spec(StageSpec):
    """Which model, and how good is good enough.

    Attributes:
        model: the folder that `llmanac quality train` wrote.
        min_score: lowest score that stays, 0 to 1; at 0 every document stays and only has its score written down.
    """

    model: str = ""
    min_score: float = 0.5

    ranges = within(FRACTION, "min_score")

    def build(self, **dims: Any) -> Stage:
        if not self.model:
            raise SpecError("model: no model is named; make one with llmanac quality train, and give its folder")
        return Quality(self)


class Quality(Stage):
    """Writes `meta["quality"]`, and drops as `low_quality` what is below the threshold."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.model = spec, load_quality(spec.model)

    def one(self, document: Document) -> Document | Dropped:
        score = self.model.score(document.text)
        found = replace(document, meta={**document.meta, "quality": round(score, 4)})
        return Dropped(found, "low_quality", f"{score:.4f}") if score < self.spec.min_score else found
