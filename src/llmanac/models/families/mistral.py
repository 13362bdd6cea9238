"""Mistral: Llama's form with a sliding window in all layers. Jiang et al. 2023, arXiv:2310.06825."""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key
from llmanac.models.families.llama import EPS, GATED, LENGTH, MIXER, SIZES, TIED
from llmanac.models.families.llama import FAMILY as LLAMA

WINDOW = Key("sliding_window", f"{MIXER}.window", default=4096, unset=None)

FAMILY = Family(
    architecture="MistralForCausalLM",
    spec=LLAMA.spec,
    entries=(*SIZES, *GATED, WINDOW, LENGTH, EPS, TIED, Rope()),
)
