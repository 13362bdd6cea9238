"""OLMoE: OLMo's form with norms before each part and experts in every layer; queries and keys normed over all heads.

Experts as in Qwen 3's: gates that need not sum to one. Muennighoff et al. 2024, arXiv:2409.02060.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, Only, stack
from llmanac.models.families.llama import BIASES, FFN, LENGTH, MIXER, SIZES, TIED
from llmanac.models.families.mixtral import EXPERTS, STACKED
from llmanac.models.families.olmo2 import MIXED

FAMILY = Family(
    architecture="OlmoeForCausalLM",
    spec=stack(mixer=MIXED, ffn={"name": "experts", "expert": "gated"}),
    entries=(
        *SIZES[:-1],
        EXPERTS[0],
        Key("router_aux_loss_coef", f"{FFN}.balance", float, default=0.01),
        Key("num_experts", f"{FFN}.experts", default=64, aliases=("num_local_experts",)),
        Key("num_experts_per_tok", f"{FFN}.top_k", default=8),
        Key("intermediate_size", f"{FFN}.expert.width"),
        Key("norm_topk_prob", f"{FFN}.gates", {True: "share", False: "score"}, default=False),
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.qk_norm.eps",)),
        LENGTH,
        TIED,
        Rope(),
        Only("clip_qkv", (None,)),  # it would clip after the norms
        Only("output_router_logits", (False, True)),
    ),
    names=(Names(table={"mlp.router": "mlp.gate"}), STACKED),
)
