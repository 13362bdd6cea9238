"""A Transformer as the compiled forward pass reads it: which models fit, their matrices by address, their vectors.

float32, bfloat16 and float16 matrices are read where torch or a GGUF file keeps them; packed ones are put in another
order (`kernels/infer/kinds.py`), and memory of a GGUF file is given back. Norms, biases and tables of positions are
small and copied. `sync` does all of it again after the weights have changed.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import RequestError
from llmanac.generate.prefix_cache import weights_stamp
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.kernels.infer.kinds import PACKED
from llmanac.models._layers import Linear, Product
from llmanac.models._quantized import Quantized, dense
from llmanac.models.blocks.pre_norm import PreNorm
from llmanac.models.blocks.sandwich import Sandwich
from llmanac.models.ffn.experts import Experts
from llmanac.models.ffn.gated import GatedMLP
from llmanac.models.heads.linear import LinearHead
from llmanac.models.lm.transformer import Transformer
from llmanac.models.mixers.softmax import SoftmaxAttention
from llmanac.models.norms.rmsnorm import RMSNorm
from llmanac.models.positions import Position
from llmanac.models.positions.rope import Rotary
from llmanac.models.scores.scaled_dot import ScaledDot
from llmanac.models.state import DecodingState
from llmanac.models.state.kv import kv_cache

BLOCK = 128  # tokens of a block of keys and values: shorter ones cost more misses, longer ones share fewer prefixes
PART = 16  # rows of a matrix that a kernel takes at once
GROUP = 32  # inputs that share a scale
LINES = 256  # tokens of one pass: enough to use each weight often, few enough for the caches
KEYS = {"float32": torch.float32, "float16": torch.float16, "q8_0": torch.int8}
HALVES = ("F16", "BF16")  # of files, whose inputs stay as they are
QUANTIZED = ("q8_0", "q4_0", "q4_1")
POSITIONS = 1024  # that the tables are first made for


KNOWN = {  # fields of Specs that it knows the meaning of
    "dim", "layers", "blocks", "position", "norm", "head", "max_length", "tied", "embedding_scale", "mixer", "ffn",
    "heads", "head_dim", "kv_heads", "window", "score", "qk_norm", "biases", "activation", "width", "eps", "offset",
    "softcap", "theta", "rotary_fraction", "scaling", "experts", "top_k", "expert", "balance", "gates",
}  # fmt: skip


SCALED = ("scaled-dot", "experts")  # whose `scale` it knows, unlike that of a head


def _parts(block: Any) -> list[Any]:
    found = [block.mixer, block.ffn, getattr(block.mixer, "score", None), getattr(block.mixer, "qk_norm", None)]
    found.append(getattr(block.ffn, "expert", None))
    return [part for part in (*found, block.position) if part is not None]


def _mlps(layer: Any) -> list[Any]:
    """The gated layers of a block: its experts, or the only one."""
    return list(layer.mlp.experts) if type(layer.mlp) is Experts else [layer.mlp]


def _outline(layer: Any) -> tuple[Any, ...]:
    """What all layers must share."""
    own, mlps = layer.self_attn, _mlps(layer)
    ffn = {(mlp.activation, mlp.up_proj.out_features) for mlp in mlps}
    return own.heads, own.kv_heads, own.head_dim, own.q_norm is None, type(layer.mlp), len(mlps), frozenset(ffn)


def refusal(model: Any) -> str | None:
    """Why the native runner cannot run a model; None where it can."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    if type(model) is not Transformer:
        return f"it runs Transformers, not {type(model).__name__}"
    if model.device.type != "cpu":
        return f"it runs on the CPU, and the model is on {model.device}"
    kinds = {p.dtype for p in model.parameters()} | {model.dtype}
    wrong = kinds - {torch.float32, torch.bfloat16}
    if wrong:
        return f"it computes in float32, and the model has {', '.join(sorted(map(str, wrong)))}"
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return "the model has forward hooks"
    if any(not getattr(m.change, "served", False) for m in model.modules() if isinstance(m, Product) and m.change):
        return "the model has adapters; merge them first"
    if any(isinstance(m, Product) and m.through is not None for m in model.modules()):
        return "the model is trained through a quantizer's rounding"
    layers = model.model.layers
    parts: list[Any] = [(type(model.lm_head), LinearHead), (type(model.model.norm), RMSNorm)]
    for layer in layers:
        attention, mlps = layer.self_attn, _mlps(layer)
        parts += [(type(layer), (PreNorm, Sandwich)), (type(attention), SoftmaxAttention)]
        parts += [(type(mlp), GatedMLP) for mlp in mlps]
        if layer.encoder_attn is not None:
            return "the model reads a source sequence"
        if type(attention) is SoftmaxAttention and all(type(mlp) is GatedMLP for mlp in mlps):
            inner = [p for mlp in mlps for p in (mlp.gate_proj, mlp.up_proj, mlp.down_proj)]
            if type(layer.mlp) is Experts and any(product.bias is not None for product in inner):
                return "its experts have biases"
            products = [getattr(attention, f"{n}_proj") for n in "qkvo"] + inner
            parts += [(type(product), Linear) for product in products] + [(type(attention.score), ScaledDot)]
            parts += [(type(norm), RMSNorm) for norm in (attention.q_norm, attention.k_norm) if norm is not None]
        position = layer.position or model.model.position
        if position.by_length or type(position) not in (Rotary, Position):
            return f"positions of the kind {type(position).__name__} that depend on more than a token's place"
    for made, known in parts:
        if made not in (known if isinstance(known, tuple) else (known,)):
            names = known if isinstance(known, tuple) else (known,)
            return f"it knows {' and '.join(k.__name__ for k in names)}, not {made.__name__}"
    spec = model.spec
    for part in (spec, spec.head, spec.position, spec.norm, *spec.blocks, *(p for b in spec.blocks for p in _parts(b))):
        for field in fields(part):
            known = field.name in KNOWN or (field.name == "scale" and part.name in SCALED)
            if not known and getattr(part, field.name) != field.default:
                return f"{field.name} is set"
    if len({type(layer) for layer in layers}) > 1:
        return "its blocks place their norms in different ways"
    if len(set(map(_outline, layers))) > 1:
        return "its layers have different shapes"
    return None


class NativeModel:
    """A model's matrices and vectors for the compiled forward pass, and the threads that run it.

    Schedulers of several threads may use it: `lock` is held while it computes or reads weights.

    Args:
        model: one that `refusal` has nothing against.
        weights: "own" reads the model's own numbers, dense or the blocks of a GGUF file; q8_0, q4_0 or q4_1 quantizes
            its matrices (the head included, the embedding not) where their inputs come in groups of 32.
        threads: as many as torch uses by default.
        form: of the vector code: vnni, avx2 or plain; by default the best one here.
        block_tokens: of the blocks that rows are kept in and prefixes are found by: 16 times a power of two.
        keys: float32, float16 or q8_0 (in the plain form float32 alone), what keys and values are kept in; by default
            float16 where weights are packed and the form has it.

    Raises:
        RequestError: a model that it cannot run, or a choice that is not one of these.
    """

    def __init__(
        self,
        model: Any,
        *,
        weights: str = "own",
        threads: int | None = None,
        form: str | None = None,
        block_tokens: int = BLOCK,
        keys: str | None = None,
    ) -> None:
        from llmanac.kernels.infer._machine import forms

        if weights not in ("own", *QUANTIZED):
            raise RequestError(f"weights: {weights!r} is not one of own, {', '.join(QUANTIZED)}")
        _check(model)
        pages = block_tokens // PART
        if block_tokens % PART or pages < 1 or pages & (pages - 1):
            raise RequestError(f"block_tokens: {block_tokens} is not 16 times a power of two")
        self.model, self.weights, self.block_tokens = model, weights, block_tokens
        self.threads = threads or torch.get_num_threads()
        self.form = form or forms()[0]
        coded = weights != "own" or any(
            isinstance(p, Quantized) and p.form.name not in HALVES for p in model.parameters()
        )
        kinds = list(KEYS)[: None if self.form != "plain" else 1]
        if keys is not None and keys not in kinds:
            raise RequestError(f"runner: keys in {keys!r} are not kept by this machine's code, only {', '.join(kinds)}")
        self.keys = keys or kinds[min(int(coded), len(kinds) - 1)]
        attention = model.model.layers[0].self_attn
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim
        self.padded = _filled(self.head_dim, GROUP if self.keys == "q8_0" else PART)
        self.width = self.padded + self.padded // 16 * (self.keys == "q8_0")  # a scale of 2 bytes for 32 codes
        self._pool = ThreadPoolExecutor(self.threads - 1, "llmanac-native") if self.threads > 1 else None
        self._longest = 0
        self.lock = threading.RLock()
        self.sync()

    def start(self) -> DecodingState:
        """What a token's keys and values take, all layers in one store, for a pool of blocks."""
        heads = len(self.model.model.layers) * self.kv_heads
        return DecodingState([kv_cache(1, heads, self.width, dtype=KEYS[self.keys], device=torch.device("cpu"))], 1)

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices: what is read for one token."""
        return sum(kept.nbytes for _, kept in self._held)

    def changed(self) -> bool:
        """Whether the model's parameters were written to, or moved, since they were last read."""
        return weights_stamp(self.model) != self._stamp

    def sync(self) -> None:
        """Read the model's weights (again). Raises RequestError where it cannot run the model any more."""
        with self.lock:
            _check(self.model)
            self._sync()

    def _sync(self) -> None:
        from llmanac.kernels.infer._lines import ACTIVATIONS
        from llmanac.kernels.infer.attend import attention
        from llmanac.kernels.infer.blocks import Store
        from llmanac.kernels.infer.forward import Plan

        self._store = Store()
        self._held: list[Any] = []  # what the addresses below point into
        self._known: dict[int, list[int]] = {}  # a tied matrix is packed once
        model, layers = self.model, self.model.model.layers
        head = self._matrix(model.lm_head.weight)  # first: the largest is in memory twice while it is put in order
        first = layers[0]
        sandwich = isinstance(first, Sandwich)
        mixed = type(first.mlp) is Experts
        matrices, norms, qk_norms = [], [], []
        routers, experts = [], []
        biases: list[list[Any]] = [[], [], [], []]
        for layer in layers:
            own, mlp = layer.self_attn, _mlps(layer)[0]
            if mixed:
                routers.append([*self._matrix(layer.mlp.router.weight), 0])
                experts.append([self._lines(each) for each in layer.mlp.experts])
            groups = [[own.q_proj, own.k_proj, own.v_proj], [own.o_proj], [mlp.gate_proj, mlp.up_proj], [mlp.down_proj]]
            lines = []
            for products, kept in zip(groups, biases, strict=True):
                offset, bias = 0, []
                for product in products:
                    lines.append([*self._matrix(product.weight), offset])
                    offset += _filled(len(product.weight))
                    if product.bias is not None:
                        bias.append(_vector(product.bias, _filled(len(product.weight))))
                if bias:
                    kept.append(np.concatenate(bias)[: offset if len(products) > 1 else len(products[0].weight)])
            matrices.append(lines)
            used = [layer.input_layernorm, layer.post_attention_layernorm]
            if sandwich:
                used += [layer.pre_feedforward_layernorm, layer.post_feedforward_layernorm]
            else:
                used = [used[0], used[0], used[1], used[1]]
            norms.append([_scale(norm) for norm in used])
            if own.q_norm is not None:
                qk_norms.append([_scale(own.q_norm), _scale(own.k_norm)])
        positions: list[Any] = []  # the tables, in the order of their use
        table = []
        for layer in layers:
            position = layer.position or model.model.position
            if isinstance(position, Rotary) and not any(position is p for p in positions):
                positions.append(position)
            table.append(next((i for i, p in enumerate(positions) if p is position), -1))
        self._positions = positions
        eps, own = first.input_layernorm.eps, first.self_attn
        scores = [layer.self_attn.score for layer in layers]
        number = KEYS[self.keys].itemsize
        shape = [
            self.heads, self.kv_heads, self.head_dim, self.padded, ACTIVATIONS[_mlps(first)[0].activation],
            attention(self.keys, self.form), number,
            *((first.mlp.top_k, first.mlp.gates == "share") if mixed else (0, 0)), self.width * number,
        ]  # fmt: skip
        dim, inner = model.spec.dim, _mlps(first)[0].up_proj.out_features
        widths = [(matrices[0][2][5] + _filled(matrices[0][2][2])), dim, 2 * _filled(inner), dim]
        self._plan = Plan(
            shape=np.array(shape, np.int64),
            eps=np.array([eps, own.q_norm.eps if own.q_norm else eps, first.mlp.scale if mixed else 1], np.float32),
            layers=np.array([[x.self_attn.window or 0, t] for x, t in zip(layers, table, strict=True)], np.int64),
            factors=np.array([[s.scale, s.softcap or 0.0] for s in scores], np.float32),
            matrices=np.array(matrices, np.int64),
            head=np.array([*head, 0], np.int64),
            routers=np.array(routers, np.int64).reshape(-1, 6),
            experts=np.array(experts, np.int64).reshape(len(experts), -1 if experts else 0, 3, 6),
            norms=np.array(norms, np.float32),
            norm=_scale(model.model.norm),
            post=sandwich,
            qk_norms=np.array(qk_norms, np.float32).reshape(len(qk_norms), 2, self.head_dim),
            biases=tuple(
                np.array(b, np.float32).reshape(len(b), w) for b, w in zip(biases, widths, strict=True)
            ),
            cos=np.zeros((0, 0, 0), np.float32),
            sin=np.zeros((0, 0, 0), np.float32),
        )  # fmt: skip
        self._make_room(dim, inner, widths)
        self._stamp = weights_stamp(model)
        self._longest = 0
        self._reach(POSITIONS)

    def _matrix(self, weight: Tensor) -> list[int]:
        """Kernel, address, rows, columns and whether the input is coded, of a matrix (N, K)."""
        from llmanac.kernels.infer.products import product

        if id(weight) in self._known:
            return self._known[id(weight)]
        rows, columns = weight.shape
        kept: Any = weight.detach()
        form: Any = getattr(kept, "form", None)
        if self.weights != "own" and columns % GROUP == 0:
            kept = KINDS[self.weights.upper()].packed(dense(kept).float().numpy())
            kind = self.weights
        elif isinstance(kept, Quantized):
            kind, kept = form.blocks(kept.parts, tuple(kept.shape))
        else:
            kind, kept = str(kept.dtype).removeprefix("torch."), kept.contiguous()
        if coded := kind in PACKED:
            from llmanac.kernels.infer.blocks import repacked

            kept = repacked(kind, kept, self._store, *([] if form is None else [form.release]))
        place = kept.data_ptr() if isinstance(kept, Tensor) else kept.ctypes.data
        made = [product(kind, self.form), place, rows, columns, int(coded)]
        self._held.append((weight, kept))
        self._known[id(weight)] = made
        return made

    def _lines(self, mlp: Any) -> list[list[int]]:
        """Gate, up and down of a gated layer."""
        offset = _filled(len(mlp.gate_proj.weight))
        products = zip((mlp.gate_proj, mlp.up_proj, mlp.down_proj), (0, offset, 0), strict=True)
        return [[*self._matrix(product.weight), own] for product, own in products]

    def _make_room(self, dim: int, inner: int, widths: list[int]) -> None:
        from llmanac.kernels.infer.forward import QUERIES, Room

        reads = self.heads * self.head_dim
        widest = max(dim, inner, reads)
        most = max(QUERIES, self.heads // self.kv_heads)

        def lines(width: int) -> np.ndarray:
            return np.zeros((LINES, width), np.float32)

        groups = LINES * widest // 32
        self._room = Room(
            h=lines(dim), read=lines(reads), qkv=lines(widths[0]), gates=lines(widths[2]), inner=lines(inner),
            y=lines(_filled(dim)), routes=lines(_filled(self._plan.experts.shape[1])),
            picked=lines(dim if len(self._plan.routers) else 0), mixed=lines(dim if len(self._plan.routers) else 0),
            codes=np.zeros(LINES * widest, np.int8), s=np.zeros(groups, np.float32),
            t=np.zeros(3 * groups, np.int32), f=np.zeros(3 * groups, np.float32),
            asked=np.zeros((self.threads, 2, most, self.padded), np.float32),
            where=np.zeros((self.threads, most), np.int64),
            scores=np.zeros((self.threads, most, 0), np.float32), counter=np.zeros(1, np.int64),
        )  # fmt: skip

    def _reach(self, tokens: int) -> None:
        """Make tables and room for rows of so many tokens."""
        if tokens <= self._longest:
            return
        self._longest = tokens = _filled(max(tokens, 2 * self._longest, POSITIONS))
        made = [p.prepare(torch.arange(tokens)[None], torch.float32) for p in self._positions]
        halves = [(cos[0, :, 0], sin[0, :, 0]) for cos, sin in made]
        shape = (len(halves), tokens, halves[0][0].shape[-1] // 2 if halves else 0)
        cos = torch.stack([c[:, : shape[2]] for c, _ in halves]) if halves else torch.zeros(shape)
        sin = torch.stack([s[:, shape[2] :] for _, s in halves]) if halves else torch.zeros(shape)
        self._plan = self._plan._replace(cos=cos.contiguous().numpy(), sin=sin.contiguous().numpy())
        scores = self._room.scores
        self._room = self._room._replace(scores=np.zeros((*scores.shape[:2], tokens + PART), np.float32))

    def run(
        self, ids: list[int], places: np.ndarray, rows: np.ndarray, ends: np.ndarray, blocks: np.ndarray,
        wanted: np.ndarray, stores: tuple[Tensor, Tensor], logits: np.ndarray, terms: np.ndarray, chosen: np.ndarray,
    ) -> None:  # fmt: skip
        """One pass over at most LINES tokens, by the holder of `lock`; see `kernels/infer/forward.py`."""
        from llmanac.kernels.infer.forward import Step, forward

        self._reach(int(places.max()) + 1)
        x = self.model.embed(torch.tensor(ids)).detach().float().numpy()
        keys, values = stores
        step = Step(
            x=x, places=places, rows=rows, ends=ends, blocks=blocks, wanted=wanted, logits=logits,
            keys=keys.data_ptr(), values=values.data_ptr(), block_bytes=keys.nbytes // len(keys),
            shift=(keys.shape[1] // PART).bit_length() - 1, terms=terms, chosen=chosen,
        )  # fmt: skip
        others: list[Future[Any]] = []
        if self._pool is not None:
            for thread in range(1, self.threads):
                others.append(self._pool.submit(forward, self._plan, self._room, step, thread, self.threads))
        forward(self._plan, self._room, step, 0, self.threads)
        for other in others:
            other.result()


def _check(model: Any) -> None:
    if (reason := refusal(model)) is not None:
        raise RequestError(f"runner: native cannot run this model ({reason}); use torch, or auto to choose by itself")


def _filled(size: int, part: int = PART) -> int:
    """The next multiple of 16."""
    return -(-size // part) * part


def _vector(given: Tensor, size: int) -> np.ndarray:
    out = np.zeros(size, np.float32)
    out[: len(given)] = given.detach().float().numpy()
    return out


def _scale(norm: Any) -> np.ndarray:
    return (norm.weight.detach().float() + norm.offset).numpy()
