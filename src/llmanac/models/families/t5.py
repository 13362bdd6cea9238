"""T5: an encoder-decoder with RMSNorm, unscaled attention, and buckets of distances that all layers of a stack share.

The first version has ReLU layers and a tied head whose input is scaled by D^-0.5; version 1.1 has gated GELU layers and
a head of its own. Released models were trained to begin answers with the padding (`decoder_start_token_id`).
Raffel et al. 2019, arXiv:1910.10683; Shazeer 2020 for the gates.

T5's names of parameters: numbered sublayers, and products that are named otherwise where layers are gated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names, Shape, Table, WeightSource
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Only, at, put, stack


def _stack(theirs: str, inner: dict[str, str]) -> Table:
    """Our names of one stack and theirs; `inner` names the products of the feed-forward layers."""
    cross = theirs == "decoder"
    stack, last = ("model", 2) if cross else ("encoder", 1)
    ours, block = f"{stack}.layers.*.", f"{theirs}.block.*.layer."
    parts = {"self_attn": ("0.SelfAttention", "input_layernorm")}
    if cross:
        parts["encoder_attn"] = ("1.EncDecAttention", "encoder_layernorm")
    table: Table = {
        f"{stack}.position": f"{theirs}.block.0.layer.0.SelfAttention",
        f"{stack}.norm": f"{theirs}.final_layer_norm",
        f"{ours}post_attention_layernorm": f"{block}{last}.layer_norm",
    }
    for part, (name, norm) in parts.items():
        table |= {f"{ours}{part}.{letter}_proj": f"{block}{name}.{letter}" for letter in "qkvo"}
        table[f"{ours}{norm}"] = f"{block}{name[0]}.layer_norm"
    return table | {f"{ours}mlp.{own}": f"{block}{last}.DenseReluDense.{name}" for own, name in inner.items()}


def _layout(**inner: str) -> Names:
    return Names(table={"model.embed_tokens": "shared", **_stack("encoder", inner), **_stack("decoder", inner)})


class T5Names(Names):
    """Plain and gated layers, whose products are named differently."""

    plain = _layout(up_proj="wi", down_proj="wo")
    gated = _layout(gate_proj="wi_0", up_proj="wi_1", down_proj="wo")

    def place(self, shapes: Mapping[str, Shape], spec: Any = None) -> dict[str, WeightSource]:
        gated = any(".gate_proj." in name for name in shapes)
        return (self.gated if gated else self.plain).place(shapes)


SCORED = {"score": "dot"}
FFN = ("blocks.*.ffn", "encoder.*.ffn")
MIXER = ("blocks.*.mixer", "encoder.*.mixer", "blocks.*.cross")
PROJECTIONS = {  # ours by theirs
    "relu": ("mlp", "relu"),
    "gated-gelu": ("gated", "gelu-tanh"),
    "gated-silu": ("gated", "silu"),
    "gated-relu": ("gated", "relu"),
    "gelu": ("mlp", "gelu"),
    "gelu_new": ("mlp", "gelu-tanh"),
    "silu": ("mlp", "silu"),
}


@dataclass(frozen=True)
class T5Projection(ConfigEntry):
    """`feed_forward_proj`: plain or gated layers, and their function; transformers obeys two keys that say it again."""

    absent: str = "relu"

    def read(self, config: Config, data: Data) -> None:
        kind, activation = config.choose("feed_forward_proj", PROJECTIONS, self.absent)
        theirs = config.get("feed_forward_proj", self.absent)
        config.expect("dense_act_fn", "gelu_new" if theirs == "gated-gelu" else theirs.removeprefix("gated-"))
        config.expect("is_gated_act", kind == "gated")
        for path in FFN:
            put(data, path, {"name": kind, "activation": activation})

    def write(self, data: Data) -> dict[str, Any]:
        own = (at(data, f"{FFN[0]}.name"), at(data, f"{FFN[0]}.activation"))
        return {"feed_forward_proj": next((theirs for theirs, ours in PROJECTIONS.items() if ours == own), None)}


class T5Output(ConfigEntry):
    """Whether the head is the embedding, and whether what it reads is scaled, which goes together in T5's files."""

    def read(self, config: Config, data: Data) -> None:
        data["tied"] = config.flag("tie_word_embeddings", True)
        if config.flag("scale_decoder_outputs", data["tied"]):
            put(data, "head.scale", float(data["dim"] ** -0.5))

    def write(self, data: Data) -> dict[str, Any]:
        return {"tie_word_embeddings": data["tied"], "scale_decoder_outputs": at(data, "head.scale") is not None}

    def fields(self) -> dict[str, str]:
        return {"tied": "tie_word_embeddings"}


@dataclass(frozen=True)
class T5Start(ConfigEntry):
    """`decoder_start_token_id`; where the config does not say, `absent`, or the padding without one."""

    absent: int | None = None

    def read(self, config: Config, data: Data) -> None:
        absent = config.get("pad_token_id", 0) if self.absent is None else self.absent
        start = config.get("decoder_start_token_id", absent)
        if type(start) is not int or start < 0:
            raise CheckpointError(f"{config.path}: decoder_start_token_id is {shown(start)}, expected a token's id")
        data["start_id"] = start

    def write(self, data: Data) -> dict[str, Any]:
        return {"decoder_start_token_id": data["start_id"]}


class DecoderLayers(Key):
    """`num_decoder_layers`, by default those of the encoder."""

    def read(self, config: Config, data: Data) -> None:
        data["layers"] = config.number(self.name, int, data["encoder_layers"])


FAMILY = Family(
    architecture="T5ForConditionalGeneration",
    spec=stack(
        SCORED, {"name": "mlp"}, {"cross": {"name": "cross", **SCORED}}, "t5", kind="encoder-decoder",
        encoder=[{"name": "pre-norm", "mixer": {"name": "softmax", **SCORED}, "ffn": "mlp"}],
    ),
    entries=(
        Key("vocab_size", "vocab_size", default=32128),
        Key("d_model", "dim", default=512),
        Key("num_layers", "encoder_layers", default=6),
        DecoderLayers("num_decoder_layers", "layers"),
        Key("num_heads", f"{MIXER[0]}.heads", default=8, paths=tuple(f"{path}.heads" for path in MIXER[1:])),
        Key("d_kv", f"{MIXER[0]}.head_dim", default=64, paths=tuple(f"{path}.head_dim" for path in MIXER[1:])),
        T5Projection(),
        Key("d_ff", f"{FFN[0]}.width", default=2048, paths=(f"{FFN[1]}.width",)),
        Key("relative_attention_num_buckets", "position.buckets", default=32),
        Key("relative_attention_max_distance", "position.max_distance", default=128),
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-6),
        Key("n_positions", "max_length", default=512),
        T5Output(),
        T5Start(),
        Only("is_encoder_decoder", (True,)),
        Only("is_decoder", (False,)),
    ),
    names=(T5Names(),),
    labels=None,
    writes={"dropout_rate": 0.0},
    neutral=frozenset({"dropout_rate", "initializer_factor", "classifier_dropout"}),
    ignored=(
        "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight",
    ),
)  # fmt: skip
