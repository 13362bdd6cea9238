"""Nemotron 3 and 4: LayerNorm with weights stored as their distance from 1, squared ReLU, half of each head rotated.

Parmar et al. 2024, arXiv:2402.16819.
"""

from llmanac.models.blocks.pre_norm import Spec as PreNorm
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, Family, Key
from llmanac.models.families.llama import BIASES, FFN, MIXER, SIZES, TIED, UNDROPPED
from llmanac.models.ffn.mlp import Spec as MLP
from llmanac.models.lm.transformer import Spec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.norms.layernorm import Spec as LayerNorm
from llmanac.models.positions.rope import Spec as RoPE

FAMILY = Family(
    model_type="nemotron",
    architecture="NemotronForCausalLM",
    spec=Spec(blocks=(PreNorm(mixer=Softmax(), ffn=MLP()),), position=RoPE(), norm=LayerNorm(offset=1.0)),
    entries=(
        *SIZES,
        Key("hidden_act", f"{FFN}.activation", {"relu2": "relu-squared", **ACTIVATIONS}, default="relu2"),
        Key("intermediate_size", f"{FFN}.width"),
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("mlp_bias", f"{FFN}.biases", BIASES, default=False),
        Key("max_position_embeddings", "max_length", default=4096),
        Key("norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        Rope(partial=True, fraction=0.5),
    ),
    writes=UNDROPPED,
)
