"""Losses. An objective makes batches of rows and says what a model loses on them, as a sum over units.

Only the trainer divides, by the units of all micro-batches (and ranks) together, so that how a step is cut into pieces
never changes its gradient.
"""

from llmanac.objectives._base import (
    AnswerRows,
    BaseObjective,
    NextToken,
    ObjectiveSpec,
    collate_packed,
    collate_ragged,
)
from llmanac.objectives._drawn import special_id
from llmanac.objectives._measured import MeasuredObjective, TextSource
from llmanac.objectives._preference import Preference, PreferenceSpec, compared

__all__ = [
    "AnswerRows", "BaseObjective", "MeasuredObjective", "NextToken", "ObjectiveSpec", "Preference", "PreferenceSpec",
    "TextSource", "collate_packed", "collate_ragged", "compared", "special_id",
]  # fmt: skip
