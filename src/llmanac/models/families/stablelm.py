"""StableLM: Llama's form with LayerNorm and a part of each head rotated; in some models biases of q, k and v.

`use_parallel_residual` is the block of GPT-J with a gated layer. Norms of queries and keys (`qk_layernorm`, the 12B
model), stored head by head, are not supported. Bellagente et al. 2024, arXiv:2402.17834.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import UNDROPPED, Family, Key, Only, stack
from llmanac.models.families.gpt_neox import Residual
from llmanac.models.families.llama import GATED, MIXER, SIZES, TIED, HeadSize

FAMILY = Family(
    architecture="StableLmForCausalLM",
    spec=stack(block={"name": "parallel"}, norm="layernorm"),
    entries=(
        *SIZES[:-1],
        HeadSize(),
        *GATED,
        Key("use_qkv_bias", f"{MIXER}.biases", {False: "none", True: "qkv"}, default=False),
        Key("max_position_embeddings", "max_length", default=4096),
        Key("layer_norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        Rope(partial=True, fraction=0.25),
        Residual("use_parallel_residual", False),
        Only("qk_layernorm", (False,)),
    ),
    writes={**UNDROPPED, "hidden_dropout": 0.0},
)
