"""Qwen 3 with a mixture of experts in every layer. Yang et al. 2025, arXiv:2505.09388.

Gates are divided by their sum (`norm_topk_prob`), as in all released models. Experts as in Mixtral: a matrix each in
files of the hub, stacked in memory.
"""

from __future__ import annotations

from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.families._names import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, Only
from llmanac.models.families.llama import FFN, SIZES, TIED, UNDROPPED
from llmanac.models.families.mixtral import EXPERTS, STACKED
from llmanac.models.families.qwen2 import LENGTH
from llmanac.models.families.qwen3 import MIXED, NORMED
from llmanac.models.ffn.experts import Spec as Experts
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.lm.transformer import Spec
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions.rope import Spec as RoPE

FAMILY = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    spec=Spec(blocks=(PreNorm(mixer=MIXED, ffn=Experts(expert=Gated())),), position=RoPE(), norm=RMSNorm()),
    entries=(
        *SIZES,
        *EXPERTS,
        Key("num_experts", f"{FFN}.experts", default=128, aliases=("num_local_experts",)),
        Key("num_experts_per_tok", f"{FFN}.top_k", default=8),
        Key("moe_intermediate_size", f"{FFN}.expert.width", default=768),
        *NORMED,
        LENGTH,
        TIED,
        Rope(),
        Only("norm_topk_prob", (True,), absent=False),
        Only("decoder_sparse_step", (1,)),
        Only("mlp_only_layers", ([],)),
        Only("use_sliding_window", (False,)),
        Only("output_router_logits", (False, True)),
    ),
    names=(Names(table={"mlp.router": "mlp.gate"}), STACKED),
    writes=UNDROPPED,
    neutral=frozenset({"sliding_window", "max_window_layers", "intermediate_size"}),
)
