"""Nemotron 3 and 4: LayerNorm with weights stored as their distance from 1, squared ReLU, half of each head rotated.

Parmar et al. 2024, arXiv:2402.16819.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, Family, Key, stack
from llmanac.models.families.llama import BIASES, FFN, MIXER, SIZES, TIED

FAMILY = Family(
    architecture="NemotronForCausalLM",
    spec=stack(ffn={"name": "mlp"}, norm={"name": "layernorm", "offset": 1.0}),
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
)
