"""Qwen 1.5 MoE and Qwen2-57B-A14B: Qwen 2 with experts, and one that sees every token through a gate of its own.

Layers with experts are given as in Qwen 3. Qwen Team 2024, arXiv:2407.10671.
"""

from dataclasses import replace

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, Only, stack
from llmanac.models.families.llama import EPS, FFN, MIXER, SIZES, TIED
from llmanac.models.families.mixtral import EXPERTS, STACKED
from llmanac.models.families.qwen2 import LENGTH
from llmanac.models.families.qwen3_moe import dense_layers

SPARSE: tuple[Key, ...] = (
    replace(EXPERTS[0], paths=(f"{FFN}.shared.activation",)),
    EXPERTS[1],
    Key("num_experts", f"{FFN}.experts", default=60),
    Key("num_experts_per_tok", f"{FFN}.top_k", default=4),
    Key("moe_intermediate_size", f"{FFN}.expert.width", default=1408),
    Key("shared_expert_intermediate_size", f"{FFN}.shared.width", default=5632),
    Key("norm_topk_prob", f"{FFN}.gates", {True: "share", False: "score"}, default=False),
)
OWN: dict[str | tuple[str, ...], str] = {
    "mlp.router": "mlp.gate",
    "mlp.shared_gate": "mlp.shared_expert_gate",
    "mlp.shared": "mlp.shared_expert",
}

FAMILY = Family(
    architecture="Qwen2MoeForCausalLM",
    spec=stack(ffn={"name": "experts", "expert": "gated", "shared": "gated", "shared_gate": "sigmoid"}),
    entries=(
        *SIZES[:-1],
        *SPARSE,
        Key("qkv_bias", f"{MIXER}.biases", {False: "none", True: "qkv"}, default=True),
        LENGTH,
        EPS,
        TIED,
        Rope(),
        dense_layers(SPARSE, 5632),
        Only("use_sliding_window", (False,)),
        Only("output_router_logits", (False, True)),
    ),
    names=(Names(table=OWN), Names(table={**OWN, **STACKED.table})),
    neutral=frozenset({"sliding_window", "max_window_layers", "intermediate_size"}),
)
