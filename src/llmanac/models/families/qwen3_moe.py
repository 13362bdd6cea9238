"""Qwen 3 with a mixture of experts. Yang et al. 2025, arXiv:2505.09388.

Released models have experts in every layer, and gates that are divided by their sum (`norm_topk_prob`). Dense layers
are those of `mlp_only_layers`, and all but each `decoder_sparse_step`-th. Experts as in Mixtral: a matrix each in files
of the hub, stacked in memory.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._rope import Rope
from llmanac.models.families._table import Data, Family, Key, Layered, Only, stack
from llmanac.models.families.llama import FFN, SIZES, TIED
from llmanac.models.families.mixtral import EXPERTS, STACKED
from llmanac.models.families.qwen2 import LENGTH
from llmanac.models.families.qwen3 import MIXED, NORMED

# of a layer with experts
SPARSE: tuple[Key, ...] = (
    *EXPERTS,
    Key("num_experts", f"{FFN}.experts", default=128, aliases=("num_local_experts",)),
    Key("num_experts_per_tok", f"{FFN}.top_k", default=8),
    Key("moe_intermediate_size", f"{FFN}.expert.width", default=768),
    Key("norm_topk_prob", f"{FFN}.gates", {True: "share", False: "score"}, default=False),
)


def dense_layers(sparse_keys: tuple[Key, ...], default: int) -> Layered:
    """Layers with and without experts; `default` is the width of those without where the config does not say."""

    def read(config: Config, data: Data, layers: int) -> list[Any]:
        sparse, listed = data["blocks"][0]["ffn"], config.get("mlp_only_layers", [])
        every = config.number("decoder_sparse_step", int, 1)
        if not isinstance(listed, list) or any(type(i) is not int or not 0 <= i < layers for i in listed):
            raise CheckpointError(f"{config.path}: mlp_only_layers is {shown(listed)}, expected numbers of layers")
        kinds = [(i + 1) % every == 0 and i not in listed for i in range(layers)]
        if all(kinds):
            return [sparse] * layers
        width = config.number("intermediate_size", int, default)
        dense = {"name": "gated", "activation": sparse["expert"].get("activation", "silu"), "width": width}
        return [sparse if kind else dense for kind in kinds]

    def written(ffns: list[Any]) -> dict[str, Any]:
        dense = [i for i, ffn in enumerate(ffns) if ffn["name"] != "experts"]
        found: Data = {"decoder_sparse_step": 1, "mlp_only_layers": dense}
        if dense:
            found["intermediate_size"] = ffns[dense[0]].get("width")
        own = next((ffn for ffn in ffns if ffn["name"] == "experts"), {"expert": ffns[0]})
        for key in sparse_keys:  # of the first layer that has them, which need not be the model's first
            found |= key.write({"blocks": [{"ffn": own}]})
        return found

    return Layered("mlp_only_layers", "ffn", read, written)


FAMILY = Family(
    architecture="Qwen3MoeForCausalLM",
    spec=stack(mixer=MIXED, ffn={"name": "experts", "expert": "gated"}),
    entries=(
        *SIZES,
        *SPARSE,
        *NORMED,
        LENGTH,
        TIED,
        Rope(),
        dense_layers(SPARSE, 6144),
        Only("use_sliding_window", (False,)),
        Only("output_router_logits", (False, True)),
    ),
    names=(Names(table={"mlp.router": "mlp.gate"}), STACKED),
    neutral=frozenset({"sliding_window", "max_window_layers", "intermediate_size"}),
)
