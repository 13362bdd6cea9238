"""OLMo 1: Llama's form with LayerNorm that has no parameters; in some models q, k and v are clipped.

Groeneveld et al. 2024, arXiv:2402.00838.
"""

from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key
from llmanac.models.families.llama import BIASES, GATED, LENGTH, MIXER, SIZES, TIED, UNDROPPED
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.lm.transformer import Spec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions.rope import Spec as RoPE

FAMILY = Family(
    model_type="olmo",
    architecture="OlmoForCausalLM",
    spec=Spec(
        blocks=(PreNorm(mixer=Softmax(), ffn=Gated()),), position=RoPE(), norm=LayerNorm(weight="none", bias="none")
    ),
    entries=(
        *SIZES[:-1],
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("clip_qkv", f"{MIXER}.clip", float, default=None, unset=None),
        LENGTH,
        TIED,
        Rope(),
    ),
    writes=UNDROPPED,
)
