"""What the families of images share: the tables of their encoders."""

from llmanac.models.families._config import Names, Table
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Key
from llmanac.models.families.bert import LAYER as BERT_TEXT
from llmanac.models.families.bert import embeddings

MIXER, FFN = "blocks.*.mixer", "blocks.*.ffn"
QUICK = {**ACTIVATIONS, "quick_gelu": "quick-gelu"}


def sizes(eps: float, activation: str, image: int = 224, patch: int = 16, dim: int = 768) -> tuple[ConfigEntry, ...]:
    """The keys of an image encoder with transformers' defaults of a family."""
    return (
        Key("hidden_size", "dim", default=dim),
        Key("num_hidden_layers", "layers", default=12),
        Key("num_attention_heads", f"{MIXER}.heads", default=12),
        Key("intermediate_size", f"{FFN}.width", default=4 * dim),
        Key("hidden_act", f"{FFN}.activation", QUICK, default=activation),
        Key("image_size", "image", default=image),
        Key("patch_size", "patch", default=patch),
        Key("num_channels", "channels", default=3),
        Key("layer_norm_eps", "norm.eps", float, default=eps),
    )


LAYER: Table = {
    "self_attn.o_proj": "self_attn.out_proj",
    "input_layernorm": "layer_norm1",
    "post_attention_layernorm": "layer_norm2",
    "mlp.up_proj": "mlp.fc1",
    "mlp.down_proj": "mlp.fc2",
}
HEAD = "model.pool.attn."
POOL: Table = {
    "model.pool.probe.weight": "head.probe",
    (f"{HEAD}q_proj.weight", f"{HEAD}k_proj.weight", f"{HEAD}v_proj.weight"): "head.attention.in_proj_weight",
    (f"{HEAD}q_proj.bias", f"{HEAD}k_proj.bias", f"{HEAD}v_proj.bias"): "head.attention.in_proj_bias",
    f"{HEAD}o_proj": "head.attention.out_proj",
    "model.pool.norm": "head.layernorm",
    "model.pool.mlp.up_proj": "head.mlp.fc1",
    "model.pool.mlp.down_proj": "head.mlp.fc2",
}
CLIP_VISION = Names(
    layers="encoder.layers.*.",
    table={
        "model.patches": "embeddings.patch_embedding",
        "model.class_token.weight": "embeddings.class_embedding",
        "model.position.embeddings": "embeddings.position_embedding",
        "model.embed_norm": "pre_layrnorm",
        "model.norm": "post_layernorm",
        **POOL,
        **LAYER,
    },
)
CLIP_TEXT = Names(
    layers="encoder.layers.*.",
    table={
        "model.embed_tokens": "embeddings.token_embedding",
        "model.position.embeddings": "embeddings.position_embedding",
        "model.norm": "final_layer_norm",
        **LAYER,
    },
)
BERT = Names(
    layers="encoder.layer.*.",
    table={**{ours: theirs.removeprefix("bert.") for ours, theirs in embeddings("bert").items()}, **BERT_TEXT},
)
BERT_LAYER: Table = {
    "self_attn.q_proj": "attention.attention.query",
    "self_attn.k_proj": "attention.attention.key",
    "self_attn.v_proj": "attention.attention.value",
    "self_attn.o_proj": "attention.output.dense",
    "input_layernorm": "layernorm_before",
    "post_attention_layernorm": "layernorm_after",
    "mlp.up_proj": "intermediate.dense",
    "mlp.down_proj": "output.dense",
}


VOCABULARY = Key("vocab_size", "vocab_size")
TOKENS = frozenset({"bos_token_id", "eos_token_id", "pad_token_id"})


def text_sizes(eps: float, activation: str, dim: int, length: int) -> tuple[ConfigEntry, ...]:
    """The keys of CLIP's and SigLIP's text encoders, with their defaults."""
    return (
        Key("hidden_size", "dim", default=dim),
        Key("num_hidden_layers", "layers", default=12),
        Key("num_attention_heads", f"{MIXER}.heads", default=dim // 64),
        Key("intermediate_size", f"{FFN}.width", default=4 * dim),
        Key("hidden_act", f"{FFN}.activation", QUICK, default=activation),
        Key("max_position_embeddings", "position.rows", default=length, paths=("max_length",)),
        Key("layer_norm_eps", "norm.eps", float, default=eps),
    )
