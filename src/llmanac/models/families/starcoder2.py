"""StarCoder 2: Llama's form with LayerNorm, a plain GELU layer and biases everywhere; a window in some models.

Lozhkov et al. 2024, arXiv:2402.19173.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, UNDROPPED, Family, Key, stack
from llmanac.models.families.llama import BIASES, FFN, MIXER, SIZES

FAMILY = Family(
    architecture="Starcoder2ForCausalLM",
    spec=stack(ffn={"name": "mlp"}, norm="layernorm"),
    entries=(
        *SIZES,
        Key("hidden_act", f"{FFN}.activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
        Key("intermediate_size", f"{FFN}.width"),
        Key("use_bias", f"{MIXER}.biases", BIASES, default=True, paths=(f"{FFN}.biases",)),
        Key("sliding_window", f"{MIXER}.window", default=None, unset=None),
        Key("max_position_embeddings", "max_length", default=4096),
        Key("norm_epsilon", "norm.eps", float, default=1e-5),
        Key("tie_word_embeddings", "tied", bool, default=True),
        Rope(),
    ),
    names=(Names(table={"mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}),),
    writes={**UNDROPPED, "residual_dropout": 0.0, "embedding_dropout": 0.0},
    neutral=frozenset({"residual_dropout", "embedding_dropout"}),
)
