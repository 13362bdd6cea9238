"""GLM-4.5 and 4.6: Llama's form, half of each head rotated, and DeepSeek-V3's experts after first dense layers.

Weights of multi-token prediction are not read. GLM-4.5 Team 2025, arXiv:2508.06471.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, Only, stack
from llmanac.models.families.cohere import NormedHeads
from llmanac.models.families.deepseek_v3 import FIXED, NEUTRAL, OWN, Stack
from llmanac.models.families.llama import MIXER, SIZES, TIED
from llmanac.models.families.mixtral import STACKED
from llmanac.models.norms.rmsnorm import Spec as RMSNorm

DEFAULTS = {
    "n_routed_experts": 128, "num_experts_per_tok": 8, "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
    "moe_intermediate_size": 1408, "first_k_dense_replace": 1, "intermediate_size": 10944,
}  # fmt: skip

FAMILY = Family(
    architecture="Glm4MoeForCausalLM",
    spec=stack(),
    entries=(
        *SIZES,
        Key("attention_bias", f"{MIXER}.biases", {False: "none", True: "qkv"}, default=False),
        Key("max_position_embeddings", "max_length", default=131072),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5),
        NormedHeads(RMSNorm(), "head"),
        TIED,
        Rope(partial=True, fraction=0.5),
        Stack(DEFAULTS),
        *(Only(name, values) for name, values in FIXED.items()),
    ),
    names=(Names(table=OWN), Names(table={**OWN, **STACKED.table})),
    neutral=frozenset(NEUTRAL.split()),
    further="num_nextn_predict_layers",
)
