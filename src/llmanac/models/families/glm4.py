"""GLM-4: norms before and after each part, half of each head rotated in neighbouring pairs, biases of q, k and v.

Gate and up are one matrix. GLM-4 Team 2024, arXiv:2406.12793; the 0414 models, whose form this is, in 2025.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, stack
from llmanac.models.families.llama import GATED, MIXER, SIZES, TIED

FAMILY = Family(
    architecture="Glm4ForCausalLM",
    spec=stack(block={"name": "sandwich"}, position={"name": "rope", "layout": "pairs"}),
    entries=(
        *SIZES[:-2],
        Key("num_key_value_heads", f"{MIXER}.kv_heads", default=2),
        Key("head_dim", f"{MIXER}.head_dim", default=128),
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", {False: "none", True: "qkv"}, default=True),
        Key("max_position_embeddings", "max_length", default=131072),
        Key("rms_norm_eps", "norm.eps", float, default=1.5625e-7),
        TIED,
        Rope(partial=True, fraction=0.5),
    ),
    names=(
        Names(
            table={
                "post_attention_layernorm": "post_self_attn_layernorm",
                "pre_feedforward_layernorm": "post_attention_layernorm",
                "post_feedforward_layernorm": "post_mlp_layernorm",
                ("mlp.gate_proj", "mlp.up_proj"): "mlp.gate_up_proj",
            }
        ),
    ),
)
