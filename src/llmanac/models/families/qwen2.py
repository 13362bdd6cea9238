"""Qwen 2 and 2.5: Llama's form with biases of queries, keys and values, and a window in some layers.

Yang et al. 2024, arXiv:2407.10671.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Family, Key, stack
from llmanac.models.families._windows import WINDOWS
from llmanac.models.families.llama import EPS, GATED, SIZES, TIED

LENGTH = Key("max_position_embeddings", "max_length", default=32768)

FAMILY = Family(
    architecture="Qwen2ForCausalLM",
    spec=stack(mixer={"biases": "qkv"}),
    entries=(*SIZES, *GATED, LENGTH, EPS, TIED, Rope(), WINDOWS),
)
