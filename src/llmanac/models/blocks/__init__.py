"""Blocks: a mixer, a feed-forward layer, and the placement of norms and residual connections."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from llmanac.core.errors import SpecError, shown
from llmanac.core.spec import Spec, make_method
from llmanac.models.ffn import FFNSpec
from llmanac.models.ffn.gated import Spec as Gated
from llmanac.models.forward import Context
from llmanac.models.mixers import MixerSpec
from llmanac.models.mixers.softmax import Spec as Softmax
from llmanac.models.positions import PositionSpec
from llmanac.models.state import LayerState
from llmanac.models.state.cross import CompositeState

SHORT = {"window": "sliding-window", "full": "multi-head", "attention": "multi-head"}  # in a pattern's text
MOST = 1024  # blocks of a pattern


@dataclass(frozen=True, kw_only=True)
class BlockSpec(Spec):
    """`build(dim=, norm=, max_length=) -> Block`.

    mixer: between tokens; ffn: within a token; position: a position method of this block's own, in place of the model's
    rotation and bias. Some also have `cross`: attention to a source sequence, after the mixer, or None.
    """

    kind = "block"

    mixer: MixerSpec = field(default_factory=Softmax)
    ffn: FFNSpec = field(default_factory=Gated)
    position: PositionSpec | None = None
    cross = cast("MixerSpec | None", None)  # a field of some

    @classmethod
    def from_text(cls, text: str, path: str) -> list[BlockSpec]:
        """`"sliding-window*3 multi-head"` as four pre-norm blocks: words `MIXER`, `MIXER*COUNT`, `MIXER+FFN*COUNT`.

        Without `+FFN` a block has the usual feed-forward layer, or none if its mixer mixes channels too (mamba).
        `window`, `full` and `attention` are short for sliding-window and multi-head. Raises SpecError at `path`.
        """
        found: list[BlockSpec] = []
        for word in text.split():
            parts, star, count = word.partition("*")
            mixer, plus, ffn = parts.partition("+")
            times = int(count[:9]) if count.isdecimal() else 0 if star else 1
            if not mixer or (plus and not ffn) or times < 1:
                raise SpecError(f"{path}: {shown(word)} is not MIXER, MIXER*COUNT or MIXER+FFN*COUNT (window*3 full)")
            own = make_method("mixer", SHORT.get(mixer, mixer), path)
            last = {"ffn": ffn} if ffn else {"ffn": "none"} if own.mixes_channels else {}
            if len(found) + times > MOST:
                raise SpecError(f"{path}: {shown(word)} makes more than {MOST} blocks; a pattern repeats by itself")
            found += [make_method("block", {"name": "pre-norm", "mixer": own, **last}, path)] * times
        return found

    @property
    def mixers(self) -> tuple[MixerSpec, ...]:
        """The mixers that read the tokens themselves, in order."""
        return (self.mixer,)

    @property
    def needs(self) -> frozenset[str]:
        """What its blocks need besides the tokens: `source` for cross-attention."""
        return frozenset() if self.cross is None else frozenset({"source"})

    @property
    def shares_position(self) -> bool:
        """Whether its blocks use the model's position module."""
        return self.position is None

    def resolved(self, dim: int) -> BlockSpec:
        """The same block with every size that was left open filled in, for a model of width `dim`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        sized: dict[str, Any] = {k: p.resolved(dim) for k, p in parts.items() if isinstance(p, (MixerSpec, FFNSpec))}
        return replace(self, **sized)

    def build(self, *args: Any, **dims: Any) -> Any:
        """dim: width of the model; norm: the model's NormSpec; max_length: the context it is built for."""
        raise NotImplementedError


class Block(nn.Module):
    """A block of one mixer, an optional cross-attention and an optional feed-forward layer; subclasses place the norms.

    Attributes:
        self_attn, encoder_attn, mlp: the parts; the last two may be None.
        attends: whether the mixer compares queries with keys.
        position: a position method of the block's own, or None for the model's.
        supports: see `Mixer.supports`.
    """

    def __init__(self, spec: Any, dim: int, max_length: int) -> None:
        super().__init__()
        self.self_attn = spec.mixer.build(dim=dim)
        self.encoder_attn = None if spec.cross is None else spec.cross.build(dim=dim)
        self.mlp = spec.ffn.build(dim=dim)
        self.attends = spec.mixer.head_shape(dim) is not None and spec.mixer.scores
        self.position: Any = None
        if spec.position is not None:
            if not self.attends and spec.position.needs_heads:
                raise SpecError(f"position: {spec.position.name} acts on attention scores; {spec.mixer.name} has none")
            heads, head_dim = spec.mixer.head_shape(dim) or (1, dim)
            self.position = spec.position.build(dim=dim, heads=heads, head_dim=head_dim, max_length=max_length)
        self.supports: frozenset[str] = self.self_attn.supports
        if spec.cross is not None:  # a packed row would need a packed source
            self.supports = (self.supports - {"packed"}) | {"source"}

    def order(self, *names: str) -> None:
        """List the parts in the order that they are computed, which is that of parameters in sums over all of them."""
        for name in names:
            self._modules[name] = self._modules.pop(name, None)

    def start(self, batch: int, *, dtype: torch.dtype, device: torch.device) -> LayerState:
        """An empty state for `batch` rows."""
        own: LayerState = self.self_attn.start(batch, dtype=dtype, device=device)
        if self.encoder_attn is None:
            return own
        return CompositeState(own=own, source=self.encoder_attn.start(batch, dtype=dtype, device=device))

    def states(self, state: Any) -> tuple[Any, Any]:
        """The states of the mixer and of cross-attention in what `start` gave."""
        return (state["own"], state["source"]) if isinstance(state, CompositeState) else (state, None)

    def placed(self, x: Tensor, context: Context) -> Context:
        """The context with the block's own positions where it has some."""
        return context if self.position is None else context.at(self.position, x.dtype)

    def forward(self, x: Tensor, context: Context, state: Any = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        raise NotImplementedError

    def flops(self, keys: float, position: Any = None) -> float:
        """Matrix-product FLOPs of one token, forward, where a query sees `keys` keys on average.

        position: the model's, for what it adds to attention; a block's own comes before it.
        """
        parts = [self.self_attn, self.encoder_attn]
        total = sum(p.flops(keys) for p in parts if p is not None) + (
            0.0 if self.mlp is None else float(self.mlp.flops())
        )
        acting = self.position or position
        return total if acting is None or not self.attends else total + acting.flops(keys)
