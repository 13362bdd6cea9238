"""Falcon 7B's form: both parts of a block read one LayerNorm, one head of keys and values, or one for each head.

The rows of q, k and v are one matrix. ALiBi and the `new_decoder_architecture` of the larger models are not supported.
Almazrouei et al. 2023, arXiv:2311.16867.
"""

from llmanac.models.families._rope import Rope
from llmanac.models.families._table import ACTIVATIONS, UNDROPPED, Family, Key, Only, stack, with_defaults
from llmanac.models.families.bloom import FAMILY as BLOOM
from llmanac.models.families.gpt_bigcode import MultiQuery
from llmanac.models.families.gpt_neox import Residual
from llmanac.models.families.llama import BIASES, FFN, LENGTH, MIXER, SIZES

FAMILY = Family(
    architecture="FalconForCausalLM",
    spec=stack(ffn={"name": "mlp"}, block={"name": "parallel"}, norm="layernorm"),
    entries=(
        *with_defaults(SIZES[:4], vocab_size=65024, hidden_size=4544, num_hidden_layers=32, num_attention_heads=71),
        MultiQuery(),
        Key("ffn_hidden_size", f"{FFN}.width", default=None),
        Key("activation", f"{FFN}.activation", ACTIVATIONS, default="gelu"),
        Key("bias", f"{MIXER}.biases", BIASES, default=False, paths=(f"{FFN}.biases",)),
        LENGTH,
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-5),
        Key("tie_word_embeddings", "tied", bool, default=True),
        Rope(),
        Residual("parallel_attn", True),
        Only("alibi", (False,)),
        Only("new_decoder_architecture", (False,)),
        Only("apply_residual_connection_post_layernorm", (None, False)),
        Only("num_ln_in_parallel_attn", (None, 1)),
    ),
    names=BLOOM.names,
    writes={**UNDROPPED, "hidden_dropout": 0.0},
    neutral=frozenset({"num_kv_heads"}),  # of the larger models
    prefix="transformer.",
)
