"""GPT-Neo: GPT-2's form, in which every second layer has a window; scores are not scaled, q, k and v have no biases.

Black et al. 2021.
"""

from typing import Any

from llmanac.core.errors import CheckpointError, shown
from llmanac.models.families._config import Config, Names
from llmanac.models.families._table import Data, Family, Key, Layered, stack
from llmanac.models.families.gpt2 import FURTHER, NAMES
from llmanac.models.families.llama import FFN, MIXER

GLOBAL, LOCAL = "global", "local"


def _read(config: Config, data: Data, layers: int) -> list[Any]:
    """Windows from groups of kinds, each with how often it is repeated."""
    groups, window = config.get("attention_types", [[[GLOBAL, LOCAL], 12]]), config.number("window_size", int, 256)
    kinds: list[Any] = []
    for group in groups if isinstance(groups, list) else [None]:
        names, times = group if isinstance(group, list) and len(group) == 2 else (None, 0)
        if not isinstance(names, list) or set(map(str, names)) - {GLOBAL, LOCAL} or type(times) is not int:
            raise CheckpointError(
                f"{config.path}: attention_types is {shown(groups)}, expected lists of {GLOBAL}, {LOCAL}"
            )
        kinds += names * min(max(times, 0), layers + 1)
        if len(kinds) > layers:
            break
    if len(kinds) == layers:  # which follows from the other
        config.expect("attention_layers", kinds)
    return [window if kind == LOCAL else None for kind in kinds]


def _written(windows: list[Any]) -> dict[str, Any]:
    kinds = [GLOBAL if window is None else LOCAL for window in windows]
    window = next((size for size in windows if size is not None), 256)
    return {"attention_types": [[kinds, 1]], "attention_layers": kinds, "window_size": window}


FAMILY = Family(
    architecture="GPTNeoForCausalLM",
    spec=stack(
        mixer={"biases": "output", "score": {"name": "scaled-dot", "scale": 1.0}},
        ffn={"name": "mlp", "biases": "all"},
        position="learned",
        norm="layernorm",
    ),
    entries=(
        Key("vocab_size", "vocab_size", default=50257),
        Key("hidden_size", "dim", default=2048),
        Key("num_layers", "layers", default=24, aliases=("num_hidden_layers",)),
        Key("num_heads", f"{MIXER}.heads", default=16, aliases=("num_attention_heads",)),
        Key("intermediate_size", f"{FFN}.width", default=None),
        Key("max_position_embeddings", "position.rows", default=2048, paths=("max_length",)),
        *FURTHER,
        Layered("attention_types", "mixer.window", _read, _written),
    ),
    names=(
        Names(
            layers="transformer.h.*.",
            table={**NAMES, "self_attn.o_proj": "attn.attention.out_proj", "self_attn": "attn.attention"},
        ),
    ),
    writes={"attention_dropout": 0.0, "embed_dropout": 0.0, "resid_dropout": 0.0},
    neutral=frozenset({"embed_dropout", "resid_dropout", "classifier_dropout"}),
    ignored=(".attention.bias", ".attention.masked_bias"),
    prefix="transformer.",
)
