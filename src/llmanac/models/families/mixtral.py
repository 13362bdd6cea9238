"""Mixtral: Mistral's form with a mixture of gated experts. Jiang et al. 2024, arXiv:2401.04088.

Files of the hub have a matrix for each expert; in memory transformers stacks them, gate and up in one. Both are read.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, Family, Key, Only, stack
from llmanac.models.families.llama import FFN, MIXER, SIZES, TIED

HUB = Names(
    table={
        "mlp.router": "block_sparse_moe.gate",
        "mlp.experts.*.gate_proj": "block_sparse_moe.experts.*.w1",
        "mlp.experts.*.up_proj": "block_sparse_moe.experts.*.w3",
        "mlp.experts.*.down_proj": "block_sparse_moe.experts.*.w2",
    }
)
STACKED = Names(
    table={
        "mlp.router": "mlp.gate",
        ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"): "mlp.experts.gate_up_proj",
        "mlp.experts.*.down_proj.weight": "mlp.experts.down_proj",
    }
)
EXPERTS: tuple[Key, ...] = (
    Key("hidden_act", f"{FFN}.expert.activation", ACTIVATIONS, default="silu"),
    Key("router_aux_loss_coef", f"{FFN}.balance", float, default=0.001),
)

FAMILY = Family(
    architecture="MixtralForCausalLM",
    spec=stack(ffn={"name": "experts", "expert": "gated"}),
    entries=(
        *SIZES,
        *EXPERTS,
        Key("num_local_experts", f"{FFN}.experts", default=8),
        Key("num_experts_per_tok", f"{FFN}.top_k", default=2),
        Key("intermediate_size", f"{FFN}.expert.width"),
        Key("sliding_window", f"{MIXER}.window", default=None, unset=None),
        Key("max_position_embeddings", "max_length", default=4096 * 32),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        Rope(theta=1e6),
        Only("output_router_logits", (False, True)),
    ),
    names=(HUB, STACKED),
    neutral=frozenset({"router_jitter_noise"}),
)
