"""Mamba 1: blocks of one selective state space, no positions, no feed-forward layer, a tied head.

Gu & Dao 2023, arXiv:2312.00752. The context has no limit; `max_position_embeddings`, which transformers does not read,
holds the length that the model was trained at.
"""

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Only, stack, with_defaults
from llmanac.models.families.llama import BIASES, SIZES

MIXER = "blocks.*.mixer"
# how parameters are initialised, which kernels compute, and sizes of the first files that follow from others
NEUTRAL = """
time_step_scale time_step_min time_step_max time_step_floor time_step_init_scheme
rescale_prenorm_residual use_mambapy use_associative_scan fused_add_norm ssm_cfg d_inner d_model n_layer
pad_vocab_size_multiple residual_in_fp32
"""


class Inner(ConfigEntry):
    """`intermediate_size`, which must be `expand` times the width."""

    def read(self, config: Config, data: Data) -> None:
        width, inner = data["dim"] * data["blocks"][0]["mixer"]["expand"], config.get("intermediate_size")
        if inner is not None and inner != width:
            raise CheckpointError(
                f"{config.path}: intermediate_size is {shown(inner)}, but expand x hidden_size is {width:,}"
            )

    def write(self, data: Data) -> dict[str, int]:
        mixer = data["blocks"][0].get("mixer", {})
        return {"intermediate_size": data["dim"] * mixer.get("expand", 2)}


# what Mamba 2 shares with it
SHARED: tuple[ConfigEntry, ...] = (
    Key("expand", f"{MIXER}.expand", default=2),
    Key("conv_kernel", f"{MIXER}.kernel", default=4),
    Key("max_position_embeddings", "max_length", default=2048),
    Inner(),
    Only("hidden_act", ("silu", "swish")),
    Key("use_bias", f"{MIXER}.biases", BIASES, default=False),
    Only("use_conv_bias", (True,)),
    Only("rms_norm", (None, True)),
)

FAMILY = Family(
    architecture="MambaForCausalLM",
    spec=stack(mixer={"name": "mamba"}, ffn={"name": "none"}, position="none"),
    entries=(
        *with_defaults(SIZES[:3], vocab_size=50280, hidden_size=768, num_hidden_layers=32),
        Key("state_size", f"{MIXER}.states", default=16),
        Key("time_step_rank", f"{MIXER}.rank", default=None, unset="auto"),
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-5),
        Key("tie_word_embeddings", "tied", bool, default=True),
        *SHARED,
    ),
    names=(
        Names(
            layers="backbone.layers.*.",
            table={
                "model.embed_tokens": "backbone.embeddings",
                "model.norm": "backbone.norm_f",
                "input_layernorm": "norm",
                "self_attn": "mixer",
            },
        ),
    ),
    writes={"residual_in_fp32": False},
    neutral=frozenset(NEUTRAL.split()),
    ignored=(),
)
