"""Granite 3 MoE: Granite's form with a mixture of experts, whose matrices are stacked. IBM Granite Team 2024."""

from llmanac.models.families._config import Names
from llmanac.models.families._table import Family, Key, Only, stack
from llmanac.models.families.granite import SHARED
from llmanac.models.families.llama import FFN
from llmanac.models.families.mixtral import EXPERTS

MOE = "block_sparse_moe"

FAMILY = Family(
    architecture="GraniteMoeForCausalLM",
    spec=stack(ffn={"name": "experts", "expert": "gated"}),
    entries=(
        *SHARED,
        *EXPERTS,
        Key("num_local_experts", f"{FFN}.experts", default=8),
        Key("num_experts_per_tok", f"{FFN}.top_k", default=2),
        Key("intermediate_size", f"{FFN}.expert.width"),
        Only("output_router_logits", (False, True)),
    ),
    names=(
        Names(
            table={
                "mlp.router": f"{MOE}.router.layer",
                ("mlp.experts.*.gate_proj", "mlp.experts.*.up_proj"): f"{MOE}.input_linear",
                "mlp.experts.*.down_proj": f"{MOE}.output_linear",
            }
        ),
        Names(  # of transformers' state in memory
            table={
                "mlp.router": f"{MOE}.router",
                ("mlp.experts.*.gate_proj.weight", "mlp.experts.*.up_proj.weight"): f"{MOE}.experts.gate_up_proj",
                "mlp.experts.*.down_proj.weight": f"{MOE}.experts.down_proj",
            }
        ),
    ),
)
