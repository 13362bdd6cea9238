"""Llama 2 and 3: RoPE, RMSNorm before each part, grouped-query attention, a gated feed-forward layer.

Its parameter names are our own. Touvron et al. 2023, arXiv:2302.13971.
"""

from llmanac.models.families._config import Config
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Data, Family, Key, at, stack

BIASES = {False: "none", True: "all"}
MIXER, FFN = "blocks.*.mixer", "blocks.*.ffn"


class HeadSize(ConfigEntry):
    """`head_dim` says again what follows from the width."""

    def read(self, config: Config, data: Data) -> None:
        config.expect("head_dim", data["dim"] // at(data, f"{MIXER}.heads"))


# what the families after Llama share with it
HEADS: tuple[ConfigEntry, ...] = (
    Key("num_attention_heads", f"{MIXER}.heads"),
    Key("num_key_value_heads", f"{MIXER}.kv_heads", default=None),
    Key("head_dim", f"{MIXER}.head_dim", default=None),
)
SIZES: tuple[ConfigEntry, ...] = (
    Key("vocab_size", "vocab_size"),
    Key("hidden_size", "dim"),
    Key("num_hidden_layers", "layers"),
    *HEADS,
)
GATED: tuple[ConfigEntry, ...] = (
    Key("hidden_act", f"{FFN}.activation", ACTIVATIONS, default="silu"),
    Key("intermediate_size", f"{FFN}.width"),
)
LENGTH = Key("max_position_embeddings", "max_length", default=2048)
EPS = Key("rms_norm_eps", "norm.eps", float, default=1e-6)
TIED = Key("tie_word_embeddings", "tied", bool, default=False)

FAMILY = Family(
    architecture="LlamaForCausalLM",
    spec=stack(),
    entries=(
        *SIZES,
        *GATED,
        Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
        Key("mlp_bias", f"{FFN}.biases", BIASES, default=False),
        LENGTH,
        EPS,
        TIED,
        Rope(),
    ),
)
