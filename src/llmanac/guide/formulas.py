"""What the parts of a model cost, by formula from its Spec: parameters, FLOPs of a token, bytes of decoding state.

Symbols: D width, V vocabulary, H query heads, K key heads, d their size, W window, F inner width, E experts, k of
them a token, s keys that a query sees, n tokens held, b bytes of a number. A product of (1, m) and (m, n) is 2 m n
FLOPs; norms, activations and lookups are not counted. A part without a formula of its own is built without memory and
counted.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from llmanac.core.errors import SpecError
from llmanac.models.lm.transformer import build_position
from llmanac.models.mixers.mamba2 import CHUNK
from llmanac.models.mixers.softmax import RING

Stack = Literal["decoder", "encoder"]
COUNTED = "counted"


@dataclass(frozen=True)
class ModelPart:
    """One sort of part.

    Attributes:
        name, where: what it is, and the values of its symbols.
        parameters, formula: how many numbers it has, and the formula that gives them.
        flops: of one token that sees s keys; flops_formula: as text, empty for none.
        state: bytes of one row with n tokens of b bytes; state_formula: as text, empty for none.
        active: parameters that one token reads.
        count: how often the model has it; stack: in which of its stacks.
        experts: (all, of a token) where it has some; each has `expert` parameters.
        window: tokens of the state that a step reads at most, where they are fewer than it may hold.
    """

    name: str
    parameters: int
    formula: str
    where: str = ""
    flops: Callable[[float], float] = lambda s: 0.0
    flops_formula: str = ""
    state: Callable[[int, int], int] = lambda n, b: 0
    state_formula: str = ""
    count: int = 1
    stack: Stack = "decoder"
    experts: tuple[int, int] | None = None
    expert: int = 0
    window: int | None = None

    def read_state(self, tokens: int, size: int) -> int:
        """Bytes of the state that a step after `tokens` tokens reads: no more than there are, nor than it sees."""
        full = self.state(self.window or tokens, size)
        return full if self.window is None else min(full, full * tokens // self.window)

    @property
    def active(self) -> int:
        if self.experts is None:
            return self.parameters
        return self.parameters - self.expert * (self.experts[0] - self.experts[1])


@dataclass(frozen=True)
class Costs:
    """A model as its parts.

    Attributes:
        kind: decoder, encoder (reads whole texts) or encoder-decoder.
        table: parameters of tables of which a token reads one row (embeddings that no head shares).
    """

    kind: Literal["decoder", "encoder", "encoder-decoder"]
    parts: tuple[ModelPart, ...]
    vocab_size: int
    table: int

    @property
    def parameters(self) -> int:
        return sum(p.count * p.parameters for p in self.parts)

    @property
    def active(self) -> int:
        """Parameters that one token reads, tables of embeddings left out."""
        return sum(p.count * p.active for p in self.parts) - self.table

    def forward_flops(self, keys: float, stack: Stack = "decoder") -> float:
        """Matrix-product FLOPs of one token where a query sees `keys` keys on average."""
        return sum(p.count * p.flops(keys) for p in self.parts if p.stack == stack)

    def flops_per_token(self, length: int) -> float:
        """FLOPs of training on one token of a row of `length`: 3 times forward (a token and its backward pass)."""
        keys = length if self.kind == "encoder" else (length + 1) / 2
        return 3 * (self.forward_flops(keys) + self.forward_flops(length, "encoder"))

    def prompt_flops(self, length: int) -> float:
        """FLOPs of reading a prompt of `length` tokens; the head is used for the last one alone."""
        if self.kind == "encoder-decoder":
            return length * self.forward_flops(length, "encoder") + self.forward_flops(1)
        keys = length if self.kind == "encoder" else (length + 1) / 2
        head = sum(p.flops(keys) for p in self.parts if p.name == "head")
        return length * (self.forward_flops(keys) - head) + head

    def state_bytes(self, tokens: int, size: int) -> int:
        """Bytes that decoding remembers of one row with `tokens` tokens (an encoder-decoder's source has as many).

        0 for an encoder.
        """
        if self.kind == "encoder":
            return 0
        return sum(p.count * p.state(tokens, size) for p in self.parts if p.stack == "decoder")

    def read_state(self, tokens: int, size: int) -> int:
        """Bytes of one row's state that a step after `tokens` tokens has to read."""
        return sum(p.count * p.read_state(tokens, size) for p in self.parts if p.stack == "decoder")

    def read_parameters(self, tokens: int) -> float:
        """Parameters that a step over `tokens` tokens reads: all experts that some token is expected to choose."""
        total = -float(self.table)
        for part in self.parts:
            unread = 0.0
            if part.experts is not None:
                every, few = part.experts
                unread = part.expert * every * (1 - few / every) ** tokens
            total += part.count * (part.parameters - unread)
        return total


def costs(spec: Any, vocab_size: int) -> Costs:
    """The parts of a language model. Raises SpecError for a model that is counted from text (an n-gram model)."""
    if not spec.blocks:
        raise SpecError(f"model: {spec.name} has no blocks; formulas are for other models")
    kind: Any = {"encoder": "encoder", "encoder-decoder": "encoder-decoder"}.get(spec.name, "decoder")
    dim, width = spec.dim, spec.embedding_dim or spec.dim
    parts = [ModelPart("embedding", vocab_size * width, "V D", f"V={vocab_size} D={width}")]
    position = _meta(lambda: build_position(spec.position, spec.blocks, dim, spec.max_length, width=width))
    parts += _whole("positions", position)
    norms = {"final norm": spec.norm, "embedding norm": getattr(spec, "embedding_norm", None)}
    if kind == "encoder":
        parts += [ModelPart("token types", spec.token_types * width, "types D")] if spec.token_types else []
        norms["embedding norm"] = spec.norm if spec.embedding_norm == "model" else None
    if kind != "decoder" and spec.final_norm == "none":
        norms["final norm"] = None
    sizes = {"embedding norm": width, "final norm": dim}
    normed = [ModelPart(name, _norm(norm, sizes[name]), _norm_text(norm, "D")) for name, norm in norms.items() if norm]
    parts += normed
    if spec.embedding_dim:
        size, text = (width + 1) * dim, f"D={dim} E={width}"
        parts.append(ModelPart("embedding map", size, "E D + D", text, lambda s: 2.0 * width * dim, "2 E D"))
    parts += _stack(spec.blocks, spec.layers, spec, position, "decoder")
    if kind == "encoder-decoder":
        other = _meta(lambda: build_position(spec.position, spec.encoder, dim, spec.max_length, encoder=True))
        parts += [replace(p, stack="encoder") for p in _whole("encoder positions", other)]
        parts += _stack(spec.encoder, spec.encoder_layers, spec, other, "encoder")
        parts += [replace(part, name=f"encoder {part.name}", stack="encoder") for part in normed]
    if spec.head is not None:
        parts.append(_head(spec, vocab_size))
    tables = vocab_size * width * (not spec.tied) + _size(position) * (spec.position.name.startswith("learned"))
    return Costs(kind, tuple(parts), vocab_size, tables)


def _head(spec: Any, vocab_size: int) -> ModelPart:
    width = spec.embedding_dim or spec.dim
    built = _meta(lambda: spec.head.build(dim=spec.dim, vocab_size=vocab_size, width=width))
    shared = vocab_size * width if spec.tied else 0
    plain = spec.head.name == "linear"
    formula = "0 (tied to the embedding)" if spec.tied and plain else "V D" if plain else COUNTED
    state = _counted_state(built)
    return ModelPart(
        "head", _size(built) - shared, formula, flops=lambda s: float(built.flops(s)),
        flops_formula="2 V D" if plain else COUNTED, state=state, state_formula=COUNTED if state(16, 2) else "",
    )  # fmt: skip


def _stack(blocks: Sequence[Any], layers: int, spec: Any, position: Any, stack: Stack) -> list[ModelPart]:
    """The parts of a pattern of blocks that repeats to `layers`; equal blocks are one."""
    pattern = [block.resolved(spec.dim) for block in blocks]
    times: dict[Any, int] = {}
    for at, block in enumerate(pattern):
        times[block] = times.get(block, 0) + layers // len(pattern) + (at < layers % len(pattern))
    found = []
    for block, count in times.items():
        ffn = block.ffn
        small = block if ffn.experts is None else replace(block, ffn=_one_expert(ffn))
        built = _meta(partial(small.build, dim=spec.dim, norm=spec.norm, max_length=spec.max_length))
        own = mixer(block.mixer, spec.dim)
        acting = built.position or position
        if built.attends and acting is not None and acting.flops(1.0):
            own = _with_position(own, acting)
        inside = [m for m in (built.self_attn, built.encoder_attn, built.mlp) if m is not None]
        rest = _size(built) - sum(map(_size, inside))
        new = [own, feed_forward(ffn, spec.dim)]
        new.append(None if built.encoder_attn is None else _cross(block.cross, built.encoder_attn, spec.dim))
        new.append(ModelPart("norms", rest, COUNTED) if rest else None)
        found += [replace(part, count=count, stack=stack) for part in new if part is not None]
    return found


def _with_position(part: ModelPart, position: Any) -> ModelPart:
    """An attention with what its positions add to each query."""
    return replace(
        part,
        flops=lambda s: part.flops(s) + float(position.flops(s)),
        flops_formula=f"{part.flops_formula} + positions",
    )


def mixer(spec: Any, dim: int) -> ModelPart:
    """What a mixer costs."""
    known = {"softmax": _softmax, "latent": _latent, "mamba": _mamba, "mamba2": _mamba2}
    made = known[spec.name](spec.resolved(dim), dim) if spec.name in known else None
    if made is not None:
        return made
    built = _meta(lambda: spec.build(dim=dim))
    state = _counted_state(built)
    return ModelPart(
        f"mixer {spec.name}", _size(built), COUNTED, flops=lambda s: float(built.flops(s)), flops_formula=COUNTED,
        state=state, state_formula=COUNTED,
    )  # fmt: skip


def _softmax(spec: Any, dim: int) -> ModelPart | None:
    if spec.score.name != "scaled-dot":
        return None
    h, k, d, w = spec.heads, spec.kv_heads, spec.head_dim, spec.window
    matrices = 2 * dim * h * d + 2 * dim * k * d
    formula, extra = "2 D H d + 2 D K d", 0
    if spec.biases in ("qkv", "all"):
        formula, extra = f"{formula} + H d + 2 K d", extra + h * d + 2 * k * d
    if spec.biases in ("output", "all"):
        formula, extra = f"{formula} + D", extra + dim
    if spec.qk_norm is not None:
        sizes = (d, d) if spec.qk_norm_over == "head" else (h * d, k * d)
        formula, extra = f"{formula} + norms of q and k", extra + sum(_norm(spec.qk_norm, n) for n in sizes)
    if getattr(spec.score, "sinks", "none") == "learned":
        formula, extra = f"{formula} + H", extra + h
    ring = w is not None and w <= RING
    return ModelPart(
        "attention" if w is None else "attention, window",
        matrices + extra,
        formula,
        f"H={h} K={k} d={d}" + (f" W={w}" if w else ""),
        lambda s: 2.0 * matrices + 4.0 * h * d * (s if w is None else min(s, w)),
        "2 (2 D H d + 2 D K d) + 4 H d " + ("s" if w is None else "min(s, W)"),
        lambda n, b: 2 * k * d * w * b + 8 * w if ring else 2 * k * d * n * b,
        "2 K d W b + 8 W" if ring else "2 K d n b",
        window=w,
    )


def _latent(spec: Any, dim: int) -> ModelPart:
    h, d, r, e, c, q = spec.heads, spec.head_dim, spec.rotary_dim, spec.value_dim, spec.latent, spec.query_latent
    asked = dim * h * (d + r) if q is None else dim * q + q * h * (d + r)
    matrices = asked + dim * (c + r) + c * h * (d + e) + h * e * dim
    query = "D H (d + r)" if q is None else "D q + q H (d + r)"
    text = f"{query} + D (c + r) + c H (d + e) + H e D"
    extra = _norm(spec.norm, c) + (_norm(spec.norm, q) if q else 0) + (c + r + dim + (q or 0)) * (spec.biases != "none")
    return ModelPart(
        "latent attention",
        matrices + extra,
        f"{text} + norms of latents" + " and biases" * (spec.biases == "latent"),
        f"H={h} d={d} r={r} e={e} c={c}" + (f" q={q}" if q else ""),
        lambda s: 2.0 * matrices + 2.0 * h * (d + r + e) * s,
        f"2 ({text}) + 2 H (d + r + e) s",
        lambda n, b: (c + r) * n * b,
        "(c + r) n b",
    )


def _mamba(spec: Any, dim: int) -> ModelPart:
    e, n, w, r = spec.expand * dim, spec.states, spec.kernel, spec.rank
    matrices = 3 * dim * e + e * w + e * (r + 2 * n) + r * e
    text = "3 D I + I w + I (r + 2 N) + r I"
    return ModelPart(
        "mamba",
        matrices + (2 * e + dim) * (spec.biases == "all") + 3 * e + e * n,
        f"{text} + 3 I + I N" + " + 2 I + D" * (spec.biases == "all"),
        f"I={e} N={n} w={w} r={r}",
        lambda s: 2.0 * matrices,
        f"2 ({text})",
        lambda tokens, b: e * (w - 1) * b + 4 * e * n,
        "I (w - 1) b + 4 I N",
    )


def _mamba2(spec: Any, dim: int) -> ModelPart:
    e, n, w, g = spec.expand * dim, spec.states, spec.kernel, spec.groups
    h, c = e // spec.head_dim, e + 2 * g * n
    matrices = dim * (e + c + h) + c * w + e * dim
    text = "D (I + C + h) + C w + I D"
    return ModelPart(
        "mamba-2",
        matrices + (e + c + h + dim) * (spec.biases == "all") + c + 3 * h + e,
        f"{text} + C + 3 h + I" + " + I + C + h + D" * (spec.biases == "all"),
        f"I={e} N={n} w={w} h={h} C=I+2GN={c}",
        lambda s: 2.0 * (matrices + min(s, CHUNK) * (g * n + e) + 2 * e * n),
        f"2 ({text}) + 2 min(s, {CHUNK}) (G N + I) + 4 I N",
        lambda tokens, b: c * (w - 1) * b + 4 * e * n,
        "C (w - 1) b + 4 I N",
    )


def _cross(spec: Any, built: nn.Module, dim: int) -> ModelPart:
    full: Any = spec.resolved(dim)
    k, d = full.kv_heads, full.head_dim
    module: Any = built
    return ModelPart(
        "cross-attention",
        _size(built),
        COUNTED,
        f"K={k} d={d}",
        lambda s: float(module.flops(s)),
        COUNTED,
        lambda n, b: 2 * k * d * n * b + n,
        "2 K d n b + n",
    )


def feed_forward(spec: Any, dim: int) -> ModelPart | None:
    """What a feed-forward layer costs; None where there is none."""
    if spec is None or spec.name == "none":
        return None
    if spec.name == "experts":
        one, shared = feed_forward(spec.expert, dim), feed_forward(spec.shared, dim)
        assert one is not None
        e, k, biased, gate = spec.experts, spec.top_k, spec.router_bias != "none", dim * (spec.shared_gate != "none")
        more = 0 if shared is None else shared.parameters + gate
        work = 0.0 if shared is None else shared.flops(0) + 2.0 * gate
        return ModelPart(
            "experts",
            e * one.parameters + more + dim * e + e * biased,
            f"E ({one.formula}) + D E" + " + E" * biased + (f" + shared ({shared.formula})" if shared else ""),
            f"E={e} k={k} {one.where}" + (f" shared {shared.where}" if shared else ""),
            lambda s: k * one.flops(s) + work + 2.0 * dim * e,
            f"k ({one.flops_formula}) + 2 D E" + (f" + {shared.flops_formula} (shared)" if shared else ""),
            experts=(e, k),
            expert=one.parameters,
        )
    if spec.name not in ("gated", "mlp"):
        built: Any = _meta(lambda: spec.build(dim=dim))
        return ModelPart(f"ffn {spec.name}", _size(built), COUNTED, "", lambda s: float(built.flops()), COUNTED)
    width, gated = spec.resolved(dim).width, spec.name == "gated"
    matrices = (3 if gated else 2) * dim * width
    biases = (2 if gated else 1) * width + dim if spec.biases == "all" else 0
    text = ("3 D F" if gated else "2 D F") + ((" + 2 F + D" if gated else " + F + D") if biases else "")
    where = f"F={width}"
    flops = "6 D F" if gated else "4 D F"
    return ModelPart("feed-forward", matrices + biases, text, where, lambda s: 2.0 * matrices, flops)


def _one_expert(ffn: Any) -> Any:
    return replace(ffn, experts=1, top_k=1, groups=1, top_groups=1)


def _whole(name: str, module: Any) -> list[ModelPart]:
    size = 0 if module is None else _size(module)
    return [ModelPart(name, size, COUNTED)] if size else []


def _counted_state(module: Any) -> Callable[[int, int], int]:
    """Bytes of the state that a module starts, with room for n tokens of b bytes."""

    def state(tokens: int, size: int) -> int:
        dtype = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}[size]
        made = module.start(1, dtype=dtype, device=torch.device("meta"))
        if made is None:
            return 0
        made.reserve(tokens)
        return int(made.nbytes)

    return state


def _norm(spec: Any, size: int) -> int:
    return _size(_meta(lambda: spec.build(dim=size)))


def _norm_text(spec: Any, symbol: str) -> str:
    return f"{_norm(spec, 1)} {symbol}"


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _meta(build: Callable[[], Any]) -> Any:
    """A module without memory. Raises SpecError for sizes that no tensor can have."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, OverflowError, TypeError) as error:
        raise SpecError(f"model: its sizes ask for larger tensors than can be ({error})") from None
