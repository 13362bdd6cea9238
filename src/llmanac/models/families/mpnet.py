"""MPNet: BERT's form with learned positions and buckets of distances. Song et al. 2020, arXiv:2004.09297.

Positions begin behind row 1 of their table whatever `pad_token_id` says, and the buckets are always 32.
"""

from dataclasses import replace
from typing import Any

from llmanac.core.errors import CheckpointError
from llmanac.core.spec import make_method
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ConfigEntry, Data, Only, at
from llmanac.models.families.bert import LAYER, SIZES, embeddings
from llmanac.models.families.roberta import FAMILY as ROBERTA
from llmanac.models.families.roberta import HEAD, head

FIRST = 2  # the row of position 0
POSITION = "model.position"
BUCKETS = {"name": "t5", "directions": "both", "absolute": "learned"}


class MPNetPositions(ConfigEntry):
    """`max_position_embeddings` rows, of which the first two are no positions."""

    def read(self, config: Config, data: Data) -> None:
        rows = config.number("max_position_embeddings", int, 512)
        if rows <= FIRST:
            raise CheckpointError(f"{config.path}: max_position_embeddings is {rows}, expected more than {FIRST}")
        data["position"]["absolute"] |= {"rows": rows, "offset": FIRST}
        data["max_length"] = rows - FIRST

    def write(self, data: Data) -> dict[str, Any]:
        return {"max_position_embeddings": at(data, "position.absolute.rows")}

    def fields(self) -> dict[str, str]:
        return {"position.absolute.rows": "max_position_embeddings"}


FAMILY = replace(
    ROBERTA,
    architecture="MPNetForMaskedLM",
    spec=replace(ROBERTA.spec, position=make_method("position", BUCKETS)),
    entries=(
        *(entry for entry in SIZES if not entry.fields().keys() & {"token_types"}),
        MPNetPositions(),
        Only("relative_attention_num_buckets", (32,)),
        head("MPNet"),
    ),
    names=(
        Names(
            layers="mpnet.encoder.layer.*.",
            table={
                **{ours: theirs for ours, theirs in embeddings("mpnet").items() if ours != "token_types"},
                f"{POSITION}.absolute.embeddings": "mpnet.embeddings.position_embeddings",
                f"{POSITION}.relative_attention_bias": "mpnet.encoder.relative_attention_bias",
                **LAYER,
                "self_attn.q_proj": "attention.attn.q",
                "self_attn.k_proj": "attention.attn.k",
                "self_attn.v_proj": "attention.attn.v",
                "self_attn.o_proj": "attention.attn.o",
                "post_attention_layernorm": "attention.LayerNorm",
                **HEAD,
            },
        ),
    ),
    prefix="mpnet.",
)
