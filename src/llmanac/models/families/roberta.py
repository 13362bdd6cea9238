"""RoBERTa: BERT's form; positions begin behind the id of the padding, and the head is named otherwise.

Liu et al. 2019, arXiv:1907.11692.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names, Table
from llmanac.models.families._labels import Labels
from llmanac.models.families._table import ConfigEntry, Data, Family
from llmanac.models.families.bert import FAMILY as BERT
from llmanac.models.families.bert import LAYER, SIZES, MaskedHeadNames, embeddings


class RobertaPositions(ConfigEntry):
    """`max_position_embeddings` rows, of which the first `pad_token_id + 1` are no positions."""

    def read(self, config: Config, data: Data) -> None:
        rows, padding = config.number("max_position_embeddings", int, 512), config.get("pad_token_id", 1)
        if type(padding) is not int or not 0 <= padding < rows - 1:
            raise CheckpointError(f"{config.path}: pad_token_id is {shown(padding)}, expected an id below {rows - 1}")
        data["position"] |= {"rows": rows, "offset": padding + 1}
        data["max_length"] = rows - padding - 1

    def write(self, data: Data) -> dict[str, Any]:
        position = data["position"]
        return {"max_position_embeddings": position.get("rows"), "pad_token_id": position.get("offset", 0) - 1}

    def fields(self) -> dict[str, str]:
        return {"position.rows": "max_position_embeddings"}


def head(kind: str) -> MaskedHeadNames:
    """The head of a class that is named so."""
    return MaskedHeadNames(
        f"{kind}ForMaskedLM", f"{kind}Model", lambda config, data: {"norm": dict(data["norm"])}, untied=True
    )


HEAD: Table = {"lm_head.norm": "lm_head.layer_norm", "lm_head.weight": "lm_head.decoder.weight"}
LABELS = Labels("classifier.out_proj", "classifier", "classifier.dense", "", "first", "tanh", "all")

FAMILY = Family(
    architecture="RobertaForMaskedLM",
    spec=BERT.spec,
    entries=(
        *SIZES,
        RobertaPositions(),
        head("Roberta"),
    ),
    names=(
        Names(
            layers="roberta.encoder.layer.*.",
            table={
                **embeddings("roberta"),
                **LAYER,
                **HEAD,
            },
        ),
    ),
    writes=BERT.writes,
    neutral=BERT.neutral,
    ignored=("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", "lm_head.decoder.bias"),
    prefix="roberta.",
    biases=("lm_head.bias", "lm_head.decoder.bias"),
    labels=LABELS,
)
