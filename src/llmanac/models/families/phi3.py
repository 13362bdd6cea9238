"""Phi-3 and Phi-4-mini: Llama's form; q, k and v are one matrix, gate and up another.

A part of each head may be rotated; the models of 128k tokens have the `longrope` scaling. Abdin et al. 2024,
arXiv:2404.14219.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import UNDROPPED, Family, Key, Only
from llmanac.models.families.llama import FAMILY as LLAMA
from llmanac.models.families.llama import GATED, MIXER, SIZES, TIED

FAMILY = Family(
    architecture="Phi3ForCausalLM",
    spec=LLAMA.spec,
    entries=(
        *SIZES,
        *GATED,
        Key("sliding_window", f"{MIXER}.window", default=None, unset=None),
        Key("max_position_embeddings", "max_length", default=4096),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        Only("full_attn_mod", (None, 1)),
        Only("interpolate_factor", (None, 1)),
        Rope(partial=True, kinds=("longrope",), trained=4096),
    ),
    names=(
        Names(
            table={
                ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"): "self_attn.qkv_proj",
                ("mlp.gate_proj", "mlp.up_proj"): "mlp.gate_up_proj",
            }
        ),
    ),
    writes={**UNDROPPED, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
)
