"""OLMo 2: Llama's form with norms after each part in place of those before it; queries and keys normed over all heads.

OLMo Team 2025, arXiv:2501.00656.
"""

from llmanac.models.blocks.sandwich import Spec as Sandwich
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key
from llmanac.models.families.llama import BIASES, GATED, LENGTH, MIXER, SIZES, TIED, UNDROPPED
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.lm.transformer import Spec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions.rope import Spec as RoPE

MIXED = Softmax(qk_norm=RMSNorm(), qk_norm_over="all-heads")

FAMILY = Family(
    model_type="olmo2",
    architecture="Olmo2ForCausalLM",
    spec=Spec(blocks=(Sandwich(mixer=MIXED, ffn=Gated(), norms="after"),), position=RoPE(), norm=RMSNorm()),
    entries=(
        *SIZES,
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        LENGTH,
        Key("rms_norm_eps", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.qk_norm.eps",)),
        TIED,
        Rope(),
    ),
    writes=UNDROPPED,
)
