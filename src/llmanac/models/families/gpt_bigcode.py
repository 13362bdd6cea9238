"""StarCoder and SantaCoder: GPT-2's form with one head of keys and values, or one for each head, and linear maps.

Without `multi_query` the rows of q, k and v are fused head by head. Li et al. 2023, arXiv:2305.06161.
"""

from typing import Any

from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import ACTIVATIONS, ConfigEntry, Data, Family, Key, Only, at, put
from llmanac.models.families.gpt2 import FAMILY as GPT2
from llmanac.models.families.llama import MIXER


class MultiQuery(ConfigEntry):
    """`multi_query`: one head of keys and values."""

    def read(self, config: Config, data: Data) -> None:
        one = config.flag("multi_query", True)
        if one:
            put(data, f"{MIXER}.kv_heads", 1)
        config.expect("num_key_value_heads", 1 if one else at(data, f"{MIXER}.heads"))

    def write(self, data: Data) -> dict[str, Any]:
        return {"multi_query": at(data, f"{MIXER}.kv_heads") == 1}

    def fields(self) -> dict[str, str]:
        return {f"{MIXER}.kv_heads": "multi_query"}


[LAYOUT] = GPT2.names
# attention is computed by the same formula whatever the two last say
PRECISION = frozenset({"attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "inference_runner"})

FAMILY = Family(
    architecture="GPTBigCodeForCausalLM",
    spec=GPT2.spec,
    entries=(
        *(
            entry
            for entry in GPT2.entries
            if "blocks.*.ffn.activation" not in entry.fields() and not isinstance(entry, Only)
        ),
        Key("activation_function", "blocks.*.ffn.activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
        MultiQuery(),
        Only("scale_attn_weights", (True,)),
        Only("add_cross_attention", (False,)),
    ),
    names=(Names(layers=LAYOUT.layers, table=LAYOUT.table, interleaved=frozenset({"attn.c_attn"})),),
    writes=GPT2.writes,
    neutral=PRECISION,
    ignored=GPT2.ignored,
    prefix=GPT2.prefix,
)
