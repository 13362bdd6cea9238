"""T5's names of parameters: numbered sublayers, and products that are named otherwise where layers are gated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmanac.models.families._names import Names, Shape, Table, WeightSource


def _stack(theirs: str, inner: dict[str, str]) -> Table:
    """Our names of one stack and theirs; `inner` names the products of the feed-forward layers."""
    cross = theirs == "decoder"
    stack, last = ("model", 2) if cross else ("encoder", 1)
    ours, block = f"{stack}.layers.*.", f"{theirs}.block.*.layer."
    parts = {"self_attn": ("0.SelfAttention", "input_layernorm")}
    if cross:
        parts["encoder_attn"] = ("1.EncDecAttention", "encoder_layernorm")
    table: Table = {
        f"{stack}.position": f"{theirs}.block.0.layer.0.SelfAttention",
        f"{stack}.norm": f"{theirs}.final_layer_norm",
        f"{ours}post_attention_layernorm": f"{block}{last}.layer_norm",
    }
    for part, (name, norm) in parts.items():
        table |= {f"{ours}{part}.{letter}_proj": f"{block}{name}.{letter}" for letter in "qkvo"}
        table[f"{ours}{norm}"] = f"{block}{name[0]}.layer_norm"
    return table | {f"{ours}mlp.{own}": f"{block}{last}.DenseReluDense.{name}" for own, name in inner.items()}


def _layout(**inner: str) -> Names:
    return Names(table={"model.embed_tokens": "shared", **_stack("encoder", inner), **_stack("decoder", inner)})


class T5Names(Names):
    """Plain and gated layers, whose products are named differently."""

    plain = _layout(up_proj="wi", down_proj="wo")
    gated = _layout(gate_proj="wi_0", up_proj="wi_1", down_proj="wo")

    def place(self, shapes: Mapping[str, Shape], spec: Any = None) -> dict[str, WeightSource]:
        gated = any(".gate_proj." in name for name in shapes)
        return (self.gated if gated else self.plain).place(shapes)
