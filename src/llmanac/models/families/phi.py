"""Phi 1, 1.5 and 2: both parts of a block read one LayerNorm, a part of each head is rotated, biases everywhere.

The head adds one too. Norms of queries and keys are not supported. Li et al. 2023, arXiv:2309.05463.
"""

from llmanac.models.families._config import Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import UNDROPPED, Family, Key, Only, stack
from llmanac.models.families.gpt2 import ACTIVATIONS
from llmanac.models.families.llama import FFN, LENGTH, SIZES, TIED, HeadSize

FAMILY = Family(
    architecture="PhiForCausalLM",
    spec=stack(
        mixer={"biases": "all"},
        ffn={"name": "mlp", "biases": "all"},
        block={"name": "parallel"},
        norm="layernorm",
        head={"name": "linear", "bias": "learned"},
    ),
    entries=(
        *SIZES[:-1],
        HeadSize(),
        Key("hidden_act", f"{FFN}.activation", ACTIVATIONS, default="gelu_new"),
        Key("intermediate_size", f"{FFN}.width"),
        LENGTH,
        Key("layer_norm_eps", "norm.eps", float, default=1e-5),
        TIED,
        Rope(partial=True, fraction=0.5),
        Only("qk_layernorm", (False,)),
    ),
    names=(
        Names(
            table={
                "model.norm": "model.final_layernorm",
                "self_attn.o_proj": "self_attn.dense",
                "mlp.up_proj": "mlp.fc1",
                "mlp.down_proj": "mlp.fc2",
            }
        ),
    ),
    writes={**UNDROPPED, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
)
