"""BERT: an encoder of post-norm blocks, learned positions, types of tokens, and a head for masked tokens.

`architectures` tells whether there is a head: BertForMaskedLM and BertForPreTraining, else hidden states alone
(BertModel, as in MiniLM and other sentence encoders). The pooler and the next-sentence layer are left out. Files of
before 2019 name the parameters of norms gamma and beta. Devlin et al. 2019, arXiv:1810.04805.

Whether an encoder's checkpoint has a head for masked tokens, which only `architectures` tells.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from llmanac.models.families._config import Config, Names, Table
from llmanac.models.families._labels import Labels
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Data, Family, Key, Only
from llmanac.models.lm.encoder import Spec
from llmanac.models.norms.layernorm import Spec as LayerNorm


@dataclass(frozen=True)
class MaskedHeadNames(ConfigEntry):
    """The head, where `architectures` names a model that has one; read after all that its fields follow from.

    Attributes:
        masked, bare: the architectures that are written; read: `(config, data) -> the head's fields`; written: their
        keys of a head's fields; untied: whether the head may have a matrix of its own.
        named: endings of the architectures that have the head.
    """

    masked: str
    bare: str
    read_head: Callable[[Config, Data], Data]
    written: Callable[[Data], dict[str, Any]] = lambda head: {}
    untied: bool = False
    named: tuple[str, ...] = ("ForMaskedLM", "ForPreTraining")

    def read(self, config: Config, data: Data) -> None:
        named = config.get("architectures")
        named = [str(name) for name in named] if isinstance(named, list) else []
        head = {"name": "masked", **self.read_head(config, data)}
        tied = config.flag("tie_word_embeddings", True)
        if not tied and not self.untied:
            config.expect("tie_word_embeddings", True)
        if any(name.endswith(self.named) for name in named):
            data |= {"head": head, "tied": tied}
        else:
            data["tied"] = False

    def write(self, data: Data) -> dict[str, Any]:
        head = data.get("head")
        if head is None or head["name"] != "masked":
            return {"architectures": [self.bare], "tie_word_embeddings": True}
        return {"architectures": [self.masked], "tie_word_embeddings": data["tied"], **self.written(head)}

    def fields(self) -> dict[str, str]:
        return {"tied": "tie_word_embeddings"}


def masked_head(kind: str, *, untied: bool = False) -> MaskedHeadNames:
    """BERT's head of a class that is named so: a layer with the model's activation and norm."""
    return MaskedHeadNames(
        f"{kind}ForMaskedLM",
        f"{kind}Model",
        lambda config, data: {"activation": data["blocks"][0]["ffn"]["activation"], "norm": dict(data["norm"])},
        untied=untied,
    )


FFN, MIXER = "blocks.*.ffn", "blocks.*.mixer"
NEUTRAL = """
hidden_dropout_prob attention_probs_dropout_prob classifier_dropout directionality pooler_fc_size
pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type gradient_checkpointing
"""


SIZES: tuple[Any, ...] = (
    Key("vocab_size", "vocab_size", default=30522),
    Key("hidden_size", "dim", default=768),
    Key("num_hidden_layers", "layers", default=12),
    Key("num_attention_heads", f"{MIXER}.heads", default=12),
    Key("intermediate_size", f"{FFN}.width", default=3072),
    Key("hidden_act", f"{FFN}.activation", ACTIVATIONS, default="gelu"),
    Key("type_vocab_size", "token_types", default=2),
    Key("layer_norm_eps", "norm.eps", float, default=1e-12),
    Only("position_embedding_type", (None, "absolute")),
    Only("is_decoder", (False,)),
    Only("add_cross_attention", (False,)),
)
LAYER: Table = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.o_proj": "attention.output.dense",
    "post_attention_layernorm": "attention.output.LayerNorm",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
    "post_feedforward_layernorm": "output.LayerNorm",
}


def embeddings(prefix: str) -> Table:
    """Their names of what comes before the layers."""
    named = {
        "model.embed_tokens": "word_embeddings",
        "model.position.embeddings": "position_embeddings",
        "token_types": "token_type_embeddings",
        "embed_norm": "LayerNorm",
    }
    return {ours: f"{prefix}.embeddings.{theirs}" for ours, theirs in named.items()}


HEAD: Table = {
    "lm_head.dense": "cls.predictions.transform.dense",
    "lm_head.norm": "cls.predictions.transform.LayerNorm",
    "lm_head.bias": "cls.predictions.bias",
    "lm_head.weight": "cls.predictions.decoder.weight",
}
TODAY = Names(layers="bert.encoder.layer.*.", table={**embeddings("bert"), **LAYER, **HEAD})
OLDER: Table = {
    f"{ours}.{new}": f"{theirs}.{old}"
    for ours, theirs in TODAY.table.items() if theirs.endswith("LayerNorm")
    for new, old in (("weight", "gamma"), ("bias", "beta"))
}  # fmt: skip
OLD = replace(TODAY, table=OLDER | dict(TODAY.table))  # the more specific lines come first

LABELS = Labels("classifier", "classifier", "bert.pooler.dense", "", "first", "tanh", "all")

FAMILY = Family(
    architecture="BertForMaskedLM",
    spec=Spec(norm=LayerNorm(eps=1e-12)),
    entries=(
        *SIZES,
        Key("max_position_embeddings", "position.rows", default=512, paths=("max_length",)),
        masked_head("Bert", untied=True),
    ),
    names=(TODAY, OLD),
    writes={"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    neutral=frozenset(NEUTRAL.split()),
    ignored=(
        "embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias", "cls.seq_relationship.weight",
        "cls.seq_relationship.bias", "cls.predictions.decoder.bias",
    ),
    prefix="bert.",
    biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    labels=LABELS,
)  # fmt: skip
