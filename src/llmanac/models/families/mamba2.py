"""Mamba 2: blocks of one selective state space with a decay a head, no positions, no feed-forward layer.

Dao & Gu 2024, arXiv:2405.21060. The context has no limit; `max_position_embeddings` is as in Mamba 1.
"""

from typing import Any

from llmanac.core.errors import CheckpointError
from llmanac.models.families._config import Config
from llmanac.models.families._table import ConfigEntry, Data, Family, Key, Only, stack, with_defaults
from llmanac.models.families.llama import SIZES, TIED
from llmanac.models.families.mamba import FAMILY as MAMBA
from llmanac.models.families.mamba import MIXER, NEUTRAL, SHARED

ENDLESS = {"__float__": "Infinity"}  # as transformers 5 writes it


class Heads(ConfigEntry):
    """`num_heads`, which with the other sizes must give `expand` times the width."""

    def read(self, config: Config, data: Data) -> None:
        mixer, heads = data["blocks"][0]["mixer"], config.number("num_heads", int, 128)
        inner, size = data["dim"] * mixer["expand"], mixer["head_dim"]
        if heads * size != inner:
            raise CheckpointError(
                f"{config.path}: num_heads is {heads:,}, but expand x hidden_size / head_dim is {inner:,} / {size:,}"
            )

    def write(self, data: Data) -> dict[str, Any]:
        mixer = data["blocks"][0].get("mixer", {})
        return {"num_heads": data["dim"] * mixer.get("expand", 2) // mixer.get("head_dim", 1)}


FAMILY = Family(
    architecture="Mamba2ForCausalLM",
    spec=stack(mixer={"name": "mamba2"}, ffn={"name": "none"}, position="none"),
    entries=(
        *with_defaults(SIZES[:3], vocab_size=32768, hidden_size=4096, num_hidden_layers=64),
        Key("state_size", f"{MIXER}.states", default=128),
        Key("n_groups", f"{MIXER}.groups", default=8),
        Key("head_dim", f"{MIXER}.head_dim", default=64),
        Key("layer_norm_epsilon", "norm.eps", float, default=1e-5, paths=(f"{MIXER}.eps",)),
        TIED,
        *SHARED,
        Heads(),
        Only("time_step_limit", ([0.0, ENDLESS], [0.0, float("inf")])),
    ),
    names=MAMBA.names,
    writes={"residual_in_fp32": False},
    # the size of chunks changes no value, and transformers norms after the gate whatever `norm_before_gate` says
    neutral=frozenset({*NEUTRAL.split(), "time_step_rank", "chunk_size", "norm_before_gate"}),
    ignored=(),
)
