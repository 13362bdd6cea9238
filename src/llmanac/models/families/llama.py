"""Llama: RoPE, RMSNorm before each part, grouped-query attention, a gated feed-forward layer.

Its parameter names are our own. Read in both spellings: `rope_theta` with `rope_scaling`, and `rope_parameters` of
transformers 5; written in the newer one, with `rope_theta` as well for older readers.
"""

from __future__ import annotations

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.families import TABLES, Config, Source, need, parts_of
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.lm.transformer import Spec, resolved
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions.rope import Scaling
from llmanac.models.positions.rope import Spec as RoPE

MODEL_TYPE = "llama"
IGNORED = (".rotary_emb.inv_freq",)
ACTIVATIONS, FIELDS, WRITTEN = (TABLES["llama"][name] for name in ("activations", "fields", "written"))


def to_spec(config: Config) -> tuple[Spec, int]:
    """Their config.json -> (Spec, vocabulary size). Raises CheckpointError that names what cannot be honoured."""
    heads = config.number("num_attention_heads", int)
    mixer = Softmax(
        heads=heads,
        kv_heads=config.number("num_key_value_heads", int, heads),
        head_dim=None if config.get("head_dim") is None else config.number("head_dim", int),
        biases="all" if config.flag("attention_bias", False) else "none",
    )
    ffn = Gated(
        activation=config.choose("hidden_act", ACTIVATIONS, "silu"),  # type: ignore[arg-type]
        width=config.number("intermediate_size", int),
        biases="all" if config.flag("mlp_bias", False) else "none",
    )
    spec = Spec(
        dim=config.number("hidden_size", int),
        layers=config.number("num_hidden_layers", int),
        blocks=(PreNorm(mixer=mixer, ffn=ffn),),
        position=_read_rope(config),
        norm=RMSNorm(eps=config.number("rms_norm_eps", float, 1e-6)),
        max_length=config.number("max_position_embeddings", int, 2048),
        tied=config.flag("tie_word_embeddings", False),
    )
    return spec, config.number("vocab_size", int)


def _read_rope(config: Config) -> RoPE:
    """RoPE from `rope_parameters` (transformers 5), or from `rope_theta` and `rope_scaling` (before)."""
    new, old = config.get("rope_parameters", {}), config.get("rope_scaling", {})
    for key, table in (("rope_parameters", new), ("rope_scaling", old)):
        if not isinstance(table, dict):
            raise CheckpointError(f"{config.path}: {key} is {shown(table)}, expected a table")
    if new and old and not _same_rope(new, old):
        raise CheckpointError(
            f"{config.path}: rope_parameters ({shown(new)}) and rope_scaling ({shown(old)}) say different things; keep "
            "the one that the weights were trained with"
        )
    table = new or old
    where = f"{config.path}: {'rope_parameters' if new else 'rope_scaling'}"
    own = Config(table, where)
    theta = own.number("rope_theta", float, config.number("rope_theta", float, 10_000.0))
    for place in (own, config):  # transformers' Llama rotates all of each head whatever this says
        place.expect("partial_rotary_factor", 1.0)
    kind = own.get("rope_type", own.get("type", "default"))
    own.get("type")
    if kind not in ("default", "linear", "llama3"):
        raise CheckpointError(f"{where}: rope_type {shown(kind)} is not supported (known: default, linear, llama3)")
    scaling = None
    if kind == "linear":
        scaling = Scaling(type="linear", factor=own.number("factor", float))
    elif kind == "llama3":
        scaling = Scaling(
            type="llama3",
            factor=own.number("factor", float),
            low_frequency_factor=own.number("low_freq_factor", float),
            high_frequency_factor=own.number("high_freq_factor", float),
            original_length=own.number("original_max_position_embeddings", int),
        )
    own.get("original_max_position_embeddings")
    own.finish()
    return RoPE(theta=theta, scaling=scaling)


def _same_rope(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether both tables ask for one scaling; each may leave out what only the other's readers look for."""

    def scaling_of(table: dict[str, Any]) -> dict[str, Any]:
        rest = {k: v for k, v in table.items() if k not in ("type", "rope_type", "rope_theta", "partial_rotary_factor")}
        return {"rope_type": table.get("rope_type", table.get("type", "default")), **rest}

    return scaling_of(new) == scaling_of(old)


def to_config(spec: Spec, vocab_size: int) -> dict[str, Any]:
    """Our Spec -> their config.json. Raises Misfit that says what Llama has no form for."""
    spec = resolved(spec)
    mixer, ffn = parts_of(spec, "Llama", position=RoPE, norm=RMSNorm, ffn=Gated)
    position = spec.position
    assert isinstance(position, RoPE) and isinstance(spec.norm, RMSNorm)
    need(
        position.rotary_fraction == 1,
        f"rope rotates {position.rotary_fraction} of each head, Llama's rotates all of it",
    )
    need(spec.norm.offset == 0, "rmsnorm has an offset, Llama's has none")
    need(mixer.biases != "qkv", "q, k and v have biases and o has none; Llama has all four or none")
    need(ffn.activation in WRITTEN, f"activation {ffn.activation} is not one of Llama's")
    need(spec.dim % mixer.heads == 0, f"dim {spec.dim} is not a multiple of heads {mixer.heads}")
    scaling = position.scaling
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": position.theta}
    if scaling is not None:
        rope |= {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling is not None and scaling.type == "llama3":
        rope |= {
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_length,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": MODEL_TYPE,
        "vocab_size": vocab_size,
        "hidden_size": spec.dim,
        "intermediate_size": ffn.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": mixer.heads,
        "num_key_value_heads": mixer.kv_heads,
        "head_dim": mixer.head_dim,
        "hidden_act": WRITTEN[ffn.activation],
        "max_position_embeddings": spec.max_length,
        "rms_norm_eps": spec.norm.eps,
        "tie_word_embeddings": spec.tied,
        "rope_parameters": rope,
        "rope_theta": position.theta,
        "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"} if scaling else None,
        "attention_bias": mixer.biases == "all",
        "attention_dropout": 0.0,
        "mlp_bias": ffn.biases == "all",
    }


def source(name: str) -> Source:
    """Their names are ours."""
    return Source(name)
