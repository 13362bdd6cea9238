"""BART: a post-norm encoder-decoder with learned positions, normed embeddings and a bias of the logits.

What Marian, Pegasus and mBART share with it is `bart_like`: they differ in where norms stand and in their positions.
Lewis et al. 2020, arXiv:1910.13461.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmanac.models.families._config import Config, Names, Shape, Table, WeightSource
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Data, Family, Key, Only, stack
from llmanac.models.families.opt import OFFSET, OPTPositions
from llmanac.models.families.t5 import FFN, T5Start

AFTER = (
    "post_attention_layernorm",
    "post_encoder_layernorm",
    "post_feedforward_layernorm",
)  # norms in a post-norm block
BEFORE = ("input_layernorm", "encoder_layernorm", "post_attention_layernorm")  # and in a pre-norm one
NEUTRAL = """
dropout activation_dropout classifier_dropout classif_dropout encoder_layerdrop decoder_layerdrop init_std
add_bias_logits extra_pos_embeddings gradient_checkpointing
"""


class LogitsBias(Names):
    """`final_logits_bias`, which is stored as one row."""

    def place(self, shapes: Mapping[str, Shape], spec: Any = None) -> dict[str, WeightSource]:
        found = super().place(shapes, spec)
        bias = found["lm_head.bias"]
        return {**found, "lm_head.bias": replace(bias, shape=(1, *bias.shape), expert=0)}


def _layout(norms: tuple[str, ...]) -> Names:
    table: Table = {"model.embed_tokens": "model.shared", "lm_head.bias": "final_logits_bias"}
    for ours, theirs in (("model", "model.decoder"), ("encoder", "model.encoder")):
        table |= {
            f"{ours}.position.embeddings": f"{theirs}.embed_positions",
            f"{ours}.embed_norm": f"{theirs}.layernorm_embedding",
            f"{ours}.norm": f"{theirs}.layer_norm",
        }
        parts = {"self_attn.o_proj": "self_attn.out_proj", "encoder_attn.o_proj": "encoder_attn.out_proj"}
        parts |= dict(zip(norms, ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"), strict=True))
        parts |= {"mlp.up_proj": "fc1", "mlp.down_proj": "fc2"}
        parts |= {f"{part}.{x}_proj": f"{part}.{x}_proj" for part in ("self_attn", "encoder_attn") for x in "qkv"}
        table |= {f"{ours}.layers.*.{own}": f"{theirs}.layers.*.{name}" for own, name in parts.items()}
    return LogitsBias(table=table)


class ScaledEmbedding(ConfigEntry):
    """`scale_embedding`: whether token embeddings are multiplied by the root of the width."""

    def read(self, config: Config, data: Data) -> None:
        if config.flag("scale_embedding", False):
            data["embedding_scale"] = float(data["dim"] ** 0.5)

    def write(self, data: Data) -> dict[str, Any]:
        return {"scale_embedding": data.get("embedding_scale") is not None}

    def fields(self) -> dict[str, str]:
        return {"embedding_scale": "scale_embedding"}


def bart_like(architecture: str, *, before: bool, normed: bool, start: int, fixed: bool = False) -> Family:
    """A family of BART's form.

    Args:
        before: whether norms precede the parts; normed: whether embeddings have one; fixed: positions are sines.
        start: `decoder_start_token_id` where the config does not say.
    """
    name, mixer = "pre-norm" if before else "post-norm", {"name": "softmax", "biases": "all"}
    ffn = {"name": "mlp", "activation": "gelu", "biases": "all"}
    learned = {"name": "learned", "rows": 1 + OFFSET, "offset": OFFSET}
    flags = {
        "normalize_before": before, "normalize_embedding": normed, "add_final_layer_norm": before,
        "static_position_embeddings": fixed,
    }  # fmt: skip
    return Family(
        architecture=architecture,
        spec=stack(
            mixer, ffn, {"name": name, "cross": {"name": "cross", "biases": "all"}}, kind="encoder-decoder",
            encoder=[{"name": name, "mixer": mixer, "ffn": ffn}],
            position={"name": "sinusoidal", "order": "halves"} if fixed else learned,
            norm="layernorm", embedding_norm="layernorm" if normed else None,
            final_norm="model" if before else "none", head={"name": "linear", "bias": "learned"},
        ),
        entries=(
            Key("vocab_size", "vocab_size", default=50265),
            Key("d_model", "dim", default=1024),
            Key("encoder_layers", "encoder_layers", default=12),
            Key("decoder_layers", "layers", default=12),
            Key("encoder_attention_heads", "encoder.*.mixer.heads", default=16),
            Key("decoder_attention_heads", "blocks.*.mixer.heads", default=16, paths=("blocks.*.cross.heads",)),
            Key("encoder_ffn_dim", f"{FFN[1]}.width", default=4096),
            Key("decoder_ffn_dim", f"{FFN[0]}.width", default=4096),
            Key("activation_function", f"{FFN[0]}.activation", ACTIVATIONS, "gelu", paths=(f"{FFN[1]}.activation",)),
            Key("max_position_embeddings", "max_length", default=1024) if fixed else OPTPositions(1024),
            Only("scale_embedding", (True,), absent=False) if fixed else ScaledEmbedding(),
            Key("tie_word_embeddings", "tied", {True: True}, True),  # else each stack has embeddings of its own
            T5Start(start),
            Only("is_encoder_decoder", (True,)),
            *(Only(flag, (None, value)) for flag, value in flags.items()),
        ),
        names=(_layout(BEFORE if before else AFTER),),
        labels=None,
        writes={"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0},
        neutral=frozenset(NEUTRAL.split()),
        ignored=(
            "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "encoder.version", "decoder.version",
            *(("embed_positions.weight",) if fixed else ()),
        ),
    )  # fmt: skip


FAMILY = bart_like("BartForConditionalGeneration", before=False, normed=True, start=2)
