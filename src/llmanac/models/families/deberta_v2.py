"""DeBERTa of version 3 (`deberta-v2` in transformers): BERT's form with disentangled positions.

Read are models whose layers share their matrices with the positions (`share_att_key`), which compare both ways, without
absolute positions and convolution. Without an architecture a model is read as its hidden states, and so are the files
of the pretraining. He et al. 2021, arXiv:2111.09543.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.core.spec import make_method
from llmanac.models.families._config import Config, Names
from llmanac.models.families._labels import Labels
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Data, Equal, Family, Fixed, Key, Only
from llmanac.models.families.bert import FAMILY as BERT
from llmanac.models.families.bert import HEAD, LAYER, MIXER, SIZES, embeddings, masked_head

OTHER = ("type_vocab_size", "position_embedding_type", "layer_norm_eps")  # of BERT's keys
BOTH = (["p2c", "c2p"], ["c2p", "p2c"], "p2c|c2p", "c2p|p2c")


class Distances(ConfigEntry):
    """`position_buckets` and `max_relative_positions`, both -1 where they are not set; and types of tokens, or none."""

    def read(self, config: Config, data: Data) -> None:
        for key, field in (("position_buckets", "buckets"), ("max_relative_positions", "max_distance")):
            value = config.get(key, -1)
            if type(value) is not int:
                raise CheckpointError(f"{config.path}: {key} is {shown(value)}, expected a whole number")
            if value > 0:
                data["position"][field] = config.number(key, int)
        data["position"].setdefault("max_distance", data["max_length"])
        data["position"]["norm"] = dict(data["norm"])
        types = config.get("type_vocab_size", 0)
        data["token_types"] = 0 if types == 0 and type(types) is int else config.number("type_vocab_size", int)

    def write(self, data: Data) -> dict[str, Any]:
        position = data["position"]
        return {
            "position_buckets": position.get("buckets") or -1,
            "max_relative_positions": position.get("max_distance") or -1,
            "type_vocab_size": data["token_types"],
        }

    def fields(self) -> dict[str, str]:
        return {"position.buckets": "position_buckets", "token_types": "type_vocab_size"}


def _pooler(config: Config, data: Data) -> Data:
    return {"activation": config.choose("pooler_hidden_act", {**ACTIVATIONS, "tanh": "tanh"}, "gelu")}


def _pooler_written(head: Data) -> dict[str, Any]:
    named = {ours: theirs for theirs, ours in reversed([*ACTIVATIONS.items(), ("tanh", "tanh")])}
    return {"pooler_hidden_act": named[head["activation"]]} if head.get("activation") else {}


FAMILY = Family(
    architecture="DebertaV2ForMaskedLM",
    spec=make_method("lm", {"name": "encoder", "norm": {"name": "layernorm", "eps": 1e-7}, "position": "disentangled"}),
    entries=(
        *(entry for entry in SIZES if entry.name not in OTHER),
        Key("layer_norm_eps", "norm.eps", float, default=1e-7),
        Key("max_position_embeddings", "max_length", default=512),
        Distances(),
        Fixed(f"{MIXER}.score.scale", lambda data: (3 * data["dim"] / data["blocks"][0]["mixer"]["heads"]) ** -0.5),
        Only("relative_attention", (True,), absent=False),
        Only("share_att_key", (True,), absent=False),
        Only("pos_att_type", BOTH, absent=[]),
        Only("norm_rel_ebd", ("layer_norm",), absent="none"),
        Only("position_biased_input", (False,), absent=True),
        Only("conv_kernel_size", (0,)),
        Only("legacy", (True,)),
        Equal("pooler_hidden_size", "dim"),
        Equal("embedding_size", "dim"),
        masked_head("DebertaV2"),
    ),
    names=(
        Names(
            layers="deberta.encoder.layer.*.",
            table={
                **{ours: theirs for ours, theirs in embeddings("deberta").items() if "position" not in str(ours)},
                "model.position.rel_embeddings": "deberta.encoder.rel_embeddings",
                "model.position.norm": "deberta.encoder.LayerNorm",
                **LAYER,
                "self_attn.q_proj": "attention.self.query_proj",
                "self_attn.k_proj": "attention.self.key_proj",
                "self_attn.v_proj": "attention.self.value_proj",
                **HEAD,
            },
        ),
    ),
    writes=BERT.writes,
    neutral=BERT.neutral | {"pooler_dropout", "cls_dropout"},
    ignored=(
        "embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", "cls.predictions.decoder.bias",
        *(f"{part}.{own}" for part in ("lm_predictions.lm_head", "mask_predictions") for own in (
            "bias", "dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias", "classifier.weight",
            "classifier.bias",
        )),
    ),
    prefix="deberta.",
    biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    labels=Labels(
        "classifier", "classifier", "pooler.dense", "", "first", "gelu", "all", _pooler, _pooler_written
    ),
)  # fmt: skip
