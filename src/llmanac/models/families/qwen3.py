"""Qwen 3: Llama's form with normed queries and keys, and a window in some layers.

Yang et al. 2025, arXiv:2505.09388.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ConfigEntry, Family, Key, stack
from llmanac.models.families._windows import WINDOWS
from llmanac.models.families.llama import BIASES, GATED, MIXER, SIZES, TIED
from llmanac.models.families.qwen2 import LENGTH

MIXED = {"qk_norm": "rmsnorm"}
# in config.json an absent head_dim is 128, whatever the width
SIZED: tuple[ConfigEntry, ...] = (*SIZES[:-1], Key("head_dim", f"{MIXER}.head_dim", default=128, unset=None))
NORMED: tuple[ConfigEntry, ...] = (
    Key("attention_bias", f"{MIXER}.biases", BIASES, default=False),
    Key("rms_norm_eps", "norm.eps", float, default=1e-6, paths=(f"{MIXER}.qk_norm.eps",)),
)

FAMILY = Family(
    architecture="Qwen3ForCausalLM",
    spec=stack(mixer=MIXED),
    entries=(*SIZED, *GATED, *NORMED, LENGTH, TIED, Rope(), WINDOWS),
)
