"""Qwen 2 and 2.5: Llama's form with biases of queries, keys and values, and a window in some layers.

Yang et al. 2024, arXiv:2407.10671.
"""

from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key
from llmanac.models.families._windows import WINDOWS
from llmanac.models.families.llama import EPS, GATED, SIZES, TIED, UNDROPPED
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.lm.transformer import Spec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.rmsnorm import Spec as RMSNorm
from llmanac.models.positions.rope import Spec as RoPE

LENGTH = Key("max_position_embeddings", "max_length", default=32768)

FAMILY = Family(
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    spec=Spec(blocks=(PreNorm(mixer=Softmax(biases="qkv"), ffn=Gated()),), position=RoPE(), norm=RMSNorm()),
    entries=(*SIZES, *GATED, LENGTH, EPS, TIED, Rope(), WINDOWS),
    writes=UNDROPPED,
)
