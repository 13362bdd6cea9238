"""OLMo 2: Llama's form with norms after each part in place of those before it; queries and keys normed over all heads.

OLMo Team 2025, arXiv:2501.00656.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, stack
from llmanac.models.families.llama import BIASES, GATED, LENGTH, MIXER, SIZES, TIED

MIXED = {"qk_norm": "rmsnorm", "qk_norm_over": "all-heads"}

FAMILY = Family(
    architecture="Olmo2ForCausalLM",
    spec=stack(mixer=MIXED, block={"name": "sandwich", "norms": "after"}),
    entries=(
        *SIZES,
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        LENGTH,
        Key("rms_norm_eps", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.qk_norm.eps",)),
        TIED,
        Rope(),
    ),
)
