"""ERNIE 4.5 (dense): Llama's form, rotated in neighbouring pairs. Baidu 2025."""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, stack, with_defaults
from llmanac.models.families.llama import BIASES, FFN, GATED, MIXER, SIZES

FAMILY = Family(
    architecture="Ernie4_5ForCausalLM",
    spec=stack(position={"name": "rope", "layout": "pairs"}),
    entries=(
        *with_defaults(SIZES, num_key_value_heads=2, head_dim=128),
        *GATED,
        Key("use_bias", f"{MIXER}.biases", BIASES, default=False, paths=(f"{FFN}.biases",)),
        Key("max_position_embeddings", "max_length", default=131072),
        Key("rms_norm_eps", "norm.eps", float, default=1e-5),
        Key("tie_word_embeddings", "tied", bool, default=True),
        Rope(theta=5e5),
    ),
)
