"""ELECTRA: BERT's form with embeddings of a width of their own. Clark et al. 2020, arXiv:2003.10555.

The generator (ElectraForMaskedLM) has a head for masked tokens. The discriminator, which is what is published most, is
read as its hidden states; its head, which tells replaced tokens, is left out.
"""

from typing import Any

from llmanac.models.families._config import Config, Names
from llmanac.models.families._labels import Labels
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, with_defaults
from llmanac.models.families.bert import FAMILY as BERT
from llmanac.models.families.bert import LAYER, SIZES, MaskedHeadNames, embeddings


class EmbeddingWidth(ConfigEntry):
    """`embedding_size`; embeddings as wide as the model are not mapped."""

    def read(self, config: Config, data: Data) -> None:
        width = config.number("embedding_size", int, 128)
        if width != data["dim"]:
            data["embedding_dim"] = width

    def write(self, data: Data) -> dict[str, Any]:
        return {"embedding_size": data.get("embedding_dim") or data["dim"]}

    def fields(self) -> dict[str, str]:
        return {"embedding_dim": "embedding_size"}


FAMILY = Family(
    architecture="ElectraForMaskedLM",
    spec=BERT.spec,
    entries=(
        *with_defaults(SIZES, hidden_size=256, num_attention_heads=4, intermediate_size=1024),
        EmbeddingWidth(),
        Key("max_position_embeddings", "position.rows", default=512, paths=("max_length",)),
        MaskedHeadNames(
            "ElectraForMaskedLM",
            "ElectraModel",
            lambda config, data: {"norm": dict(data["norm"])},
            untied=True,
            named=("ForMaskedLM",),
        ),
    ),
    names=(
        Names(
            layers="electra.encoder.layer.*.",
            table={
                **embeddings("electra"),
                **LAYER,
                "embed_proj": "electra.embeddings_project",
                "lm_head.dense": "generator_predictions.dense",
                "lm_head.norm": "generator_predictions.LayerNorm",
                "lm_head": "generator_lm_head",
            },
        ),
    ),
    writes=BERT.writes,
    neutral=BERT.neutral | {"summary_last_dropout"},
    ignored=(
        "embeddings.position_ids", "discriminator_predictions.dense.weight", "discriminator_predictions.dense.bias",
        "discriminator_predictions.dense_prediction.weight", "discriminator_predictions.dense_prediction.bias",
    ),
    prefix="electra.",
    labels=Labels("classifier.out_proj", "classifier", "classifier.dense", "", "first", "gelu", "all"),
)  # fmt: skip
