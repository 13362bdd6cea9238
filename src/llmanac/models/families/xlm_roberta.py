"""XLM-RoBERTa: RoBERTa of a hundred languages, by another name. Conneau et al. 2020, arXiv:1911.02116."""

from dataclasses import replace

from llmanac.models.families.bert import SIZES
from llmanac.models.families.roberta import FAMILY as ROBERTA
from llmanac.models.families.roberta import RobertaPositions, head

FAMILY = replace(
    ROBERTA,
    architecture="XLMRobertaForMaskedLM",
    entries=(
        *SIZES,
        RobertaPositions(),
        head("XLMRoberta"),
    ),
)
