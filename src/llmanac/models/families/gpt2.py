"""GPT-2: learned positions, LayerNorm before each part, multi-head attention and a GELU layer, biases everywhere.

Its matrices are stored (inputs, outputs), q, k and v in one. Files of the hub leave out the `transformer.` prefix and
hold each layer's causal mask; both are read.
"""

from __future__ import annotations

from typing import Any

from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.families import TABLES, Config, Source, need, parts_of
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.lm.transformer import Spec, resolved
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions.learned import Spec as Learned

MODEL_TYPE = "gpt2"
IGNORED = (".attn.bias", ".attn.masked_bias")
PREFIX = "transformer."  # of every name but the head's; hub files may lack it
ACTIVATIONS, FIELDS, WRITTEN = (TABLES["gpt2"][name] for name in ("activations", "fields", "written"))
TOP, LAYER = TABLES["gpt2"]["top"], TABLES["gpt2"]["layer"]  # names of parameters outside and in the layers


def to_spec(config: Config) -> tuple[Spec, int]:
    """Their config.json -> (Spec, vocabulary size). Raises CheckpointError that names what cannot be honoured."""
    config.expect("scale_attn_weights", True)
    config.expect("scale_attn_by_inverse_layer_idx", False)
    config.expect("add_cross_attention", False)
    config.expect("reorder_and_upcast_attn", False, True)  # the order of two multiplications
    dim = config.number("n_embd", int, 768)
    width = 4 * dim if config.get("n_inner") is None else config.number("n_inner", int)
    activation = config.choose("activation_function", ACTIVATIONS, "gelu_new")
    block = PreNorm(
        mixer=Softmax(heads=config.number("n_head", int, 12), biases="all"),
        ffn=MLP(activation=activation, width=width, biases="all"),  # type: ignore[arg-type]
    )
    rows = config.number("n_positions", int, 1024)
    spec = Spec(
        dim=dim,
        layers=config.number("n_layer", int, 12),
        blocks=(block,),
        position=Learned(rows=rows),
        norm=LayerNorm(eps=config.number("layer_norm_epsilon", float, 1e-5)),
        max_length=rows,
        tied=config.flag("tie_word_embeddings", True),
    )
    return spec, config.number("vocab_size", int, 50257)


def to_config(spec: Spec, vocab_size: int) -> dict[str, Any]:
    """Our Spec -> their config.json. Raises Misfit that says what GPT-2 has no form for."""
    spec = resolved(spec)
    mixer, ffn = parts_of(spec, "GPT-2", position=Learned, norm=LayerNorm, ffn=MLP)
    position = spec.position
    assert isinstance(position, Learned) and isinstance(spec.norm, LayerNorm)
    need(mixer.kv_heads == mixer.heads, "heads share keys and values, GPT-2's do not")
    need(mixer.heads * (mixer.head_dim or 0) == spec.dim, "head_dim is not dim / heads")
    need(mixer.biases == "all" and ffn.biases == "all", "GPT-2 has biases in every product (biases = all)")
    need(ffn.activation in WRITTEN, f"activation {ffn.activation} is not one of GPT-2's")
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": MODEL_TYPE,
        "vocab_size": vocab_size,
        "n_embd": spec.dim,
        "n_inner": ffn.width,
        "n_layer": spec.layers,
        "n_head": mixer.heads,
        "n_positions": position.rows,
        "activation_function": WRITTEN[ffn.activation],
        "layer_norm_epsilon": spec.norm.eps,
        "tie_word_embeddings": spec.tied,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
    }


def source(name: str) -> Source:
    """The location of our parameter in their file."""
    if name in TOP:
        return Source(TOP[name])
    _, _, index, rest = name.split(".", 3)
    module, _, leaf = rest.rpartition(".")
    theirs, part, parts = LAYER[module]
    matrix = leaf == "weight" and not module.endswith("layernorm")
    return Source(f"{PREFIX}h.{index}.{theirs}.{leaf}", transposed=matrix, part=part, parts=parts)
