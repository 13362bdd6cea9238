"""A torch Transformer as the native runner reads it: which models fit, and their numbers by name."""

import os
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from llmanac.core.errors import RequestError
from llmanac.core.spec import Spec
from llmanac.generate._native_file import HALVES, Matrix, Shape
from llmanac.generate.decoding import Array
from llmanac.generate.runner import weights_stamp
from llmanac.models.blocks.parallel import Parallel
from llmanac.models.blocks.pre_norm import PreNorm
from llmanac.models.blocks.sandwich import Sandwich
from llmanac.models.ffn.experts import Experts
from llmanac.models.ffn.gated import GatedMLP
from llmanac.models.ffn.mlp import MLP
from llmanac.models.heads.linear import LinearHead
from llmanac.models.layers import Linear, LinearMap
from llmanac.models.lm.transformer import Transformer
from llmanac.models.mixers.softmax import SoftmaxAttention
from llmanac.models.norms.layernorm import LayerNorm
from llmanac.models.norms.rmsnorm import RMSNorm
from llmanac.models.positions import Position
from llmanac.models.positions.rope import Rotary
from llmanac.models.quantized import Quantized, dense
from llmanac.models.scores.scaled_dot import ScaledDot

KNOWN = {  # fields of Specs that it knows the meaning of
    "dim", "layers", "blocks", "position", "norm", "head", "max_length", "tied", "embedding_scale", "mixer", "ffn",
    "heads", "head_dim", "kv_heads", "window", "score", "qk_norm", "biases", "activation", "width", "eps", "offset",
    "softcap", "theta", "rotary_fraction", "scaling", "experts", "top_k", "expert", "balance", "gates", "scale", "bias",
    "weight", "branch_scale", "norms", "layout", "qk_norm_over",
}  # fmt: skip


def _parts(block: Any) -> list[Any]:
    inside = [getattr(part, field.name) for part in (block.mixer, block.ffn) for field in fields(part)]
    return [block.mixer, block.ffn, *(part for part in (*inside, block.position) if isinstance(part, Spec))]


def _mlps(layer: Any) -> list[Any]:
    """The gated layers of a block: its experts, or the only one."""
    return list(layer.mlp.experts) if type(layer.mlp) is Experts else [layer.mlp]


def _outline(layer: Any) -> tuple[Any, ...]:
    """What all layers must share."""
    own, mlps = layer.self_attn, _mlps(layer)
    ffn = {(mlp.activation, mlp.up_proj.out_features) for mlp in mlps}
    sizes = (own.heads, own.kv_heads, own.head_dim, own.q_norm is None, type(layer.mlp), len(mlps), frozenset(ffn))
    return *sizes, type(layer.input_layernorm), layer.branch_scale if type(layer) is PreNorm else 1.0


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
    if any(isinstance(m, LinearMap) and m.own_change is not None for m in model.modules()):
        return "the model has adapters; merge them first"
    if any(isinstance(m, LinearMap) and m.through is not None for m in model.modules()):
        return "the model is trained through a quantizer's rounding"
    layers = model.model.layers
    parts: list[Any] = [(type(model.lm_head), LinearHead), (type(model.model.norm), (RMSNorm, LayerNorm))]
    for layer in layers:
        attention, mlps = layer.self_attn, _mlps(layer)
        parts += [(type(layer), (PreNorm, Sandwich, Parallel)), (type(attention), SoftmaxAttention)]
        parts += [(type(mlp), GatedMLP if type(layer.mlp) is Experts else (GatedMLP, MLP)) for mlp in mlps]
        if type(layer) is Parallel and layer.post_attention_layernorm is not None:
            return "both parts of a block read the same numbers, each with a norm of its own"
        if layer.encoder_attn is not None:
            return "the model reads a source sequence"
        if type(attention) is SoftmaxAttention and all(type(mlp) in (GatedMLP, MLP) for mlp in mlps):
            gates = [mlp.gate_proj for mlp in mlps if type(mlp) is GatedMLP]
            inner = [*gates, *(p for mlp in mlps for p in (mlp.up_proj, mlp.down_proj))]
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
            if field.name not in KNOWN and getattr(part, field.name) != field.default:
                return f"{field.name} is set"
    if len({type(layer) for layer in layers}) > 1:
        return "its blocks place their norms in different ways"
    turned = [layer.position or model.model.position for layer in layers]
    if len({position.layout for position in turned if isinstance(position, Rotary)}) > 1:
        return "its layers turn different pairs of numbers"
    if len(set(map(_outline, layers))) > 1:
        return "its layers have different shapes"
    return None


class TorchSource:
    """The numbers of a model; see `ModelNumbers`.

    Raises:
        RequestError: a model that `refusal` has something against.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.check()
        layers, attention, mlp = model.model.layers, model.model.layers[0].self_attn, model.model.layers[0].mlp
        positions = [layer.position or model.model.position for layer in layers]
        self._positions = list({id(p): p for p in positions if isinstance(p, Rotary)}.values())
        mixed, scores = type(mlp) is Experts, [layer.self_attn.score for layer in layers]
        places = {id(p): i for i, p in enumerate(self._positions)}
        self.shape = Shape(
            vocab_size=model.vocab_size, dim=model.spec.dim, heads=attention.heads,
            inner=_mlps(layers[0])[0].up_proj.out_features, kv_heads=attention.kv_heads, head_dim=attention.head_dim,
            activation=_mlps(layers[0])[0].activation, post=isinstance(layers[0], Sandwich),
            before=not isinstance(layers[0].input_layernorm, nn.Identity), parallel=isinstance(layers[0], Parallel),
            centred=isinstance(model.model.norm, LayerNorm), plain=type(mlp) is MLP,
            pairs=any(p.layout == "pairs" for p in self._positions),
            branch_scale=layers[0].branch_scale if isinstance(layers[0], PreNorm) else 1.0,
            head_scale=model.lm_head.scale or 1.0, eps=model.model.norm.eps,
            qk_eps=None if attention.q_norm is None else attention.q_norm.eps,
            windows=tuple(layer.self_attn.window or 0 for layer in layers),
            rotations=tuple(places.get(id(p), -1) for p in positions),
            scales=tuple((s.scale, s.softcap or 0.0) for s in scores), softcap=model.lm_head.softcap,
            experts=len(mlp.experts) if mixed else 0,
            routing=(mlp.top_k, mlp.gates == "share", mlp.scale) if mixed else (0, False, 1.0),
        )  # fmt: skip

    def check(self) -> None:
        if (reason := refusal(self.model)) is not None:
            raise RequestError(
                f"runner: native cannot run this model ({reason}); use torch, or auto to choose by itself"
            )

    @property
    def coded(self) -> bool:
        return any(isinstance(p, Quantized) and p.form.name not in HALVES for p in self.model.parameters())

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    def stamp(self) -> Any:
        return weights_stamp(self.model)

    def _parameter(self, name: str) -> Any:
        return self.model.get_parameter(f"{name}.weight").detach()

    def key(self, name: str) -> Any:
        return id(self.model.get_parameter(f"{name}.weight"))

    def matrix(self, name: str) -> Matrix:
        kept = self._parameter(name)
        if isinstance(kept, Quantized):
            kind, data = kept.form.blocks(kept.parts, tuple(kept.shape))
            return Matrix(kind, data, tuple(kept.shape), kept.form.release)
        kept = kept.contiguous()
        data = kept.view(torch.int16) if kept.dtype == torch.bfloat16 else kept
        return Matrix(str(kept.dtype).removeprefix("torch."), data.numpy(), tuple(kept.shape))

    def dense(self, name: str) -> Array:
        found: Array = dense(self._parameter(name)).float().numpy()
        return found

    def bias(self, name: str) -> Array | None:
        found = self.model.get_submodule(name).bias
        return None if found is None else found.detach().float().numpy()

    def norm(self, name: str) -> Array:
        norm, dim = self.model.get_submodule(name), self.model.spec.dim
        own = {key: one.detach().float() for key, one in norm.named_parameters()}
        weight = own["weight"] + norm.offset if own else torch.ones(dim)
        found: Array = torch.stack([weight, own.get("bias", torch.zeros_like(weight))]).numpy()
        return found

    def tables(self, tokens: int) -> list[tuple[Array, Array]]:
        made = [p.prepare(torch.arange(tokens)[None], torch.float32) for p in self._positions]
        pairs = [cos.shape[-1] // 2 for cos, _ in made]
        return [(cos[0, :, 0, :n].numpy(), sin[0, :, 0, n:].numpy()) for (cos, sin), n in zip(made, pairs, strict=True)]

    @torch.no_grad()
    def embed(self, ids: list[int]) -> Array:
        found: Array = self.model.embed(torch.tensor(ids)).float().numpy()
        return found
