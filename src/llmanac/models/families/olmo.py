"""OLMo 1: Llama's form with LayerNorm that has no parameters; in some models q, k and v are clipped.

Groeneveld et al. 2024, arXiv:2402.00838.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, stack
from llmanac.models.families.llama import BIASES, GATED, LENGTH, MIXER, SIZES, TIED

FAMILY = Family(
    architecture="OlmoForCausalLM",
    spec=stack(norm={"name": "layernorm", "weight": "none", "bias": "none"}),
    entries=(
        *SIZES[:-1],
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("clip_qkv", f"{MIXER}.clip", float, default=None, unset=None),
        LENGTH,
        TIED,
        Rope(),
    ),
)
