"""A GGUF file as the native runner reads it, without torch: its shape, and its numbers by the names of Llama's.

`models/families` decides what these files compute where torch loads them; a test holds the two readings equal for every
architecture, number by number.

What the native runner needs to know of a model, and who tells it: a torch model or a file.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from llmanac.core.errors import CheckpointError
from llmanac.core.threads import threads
from llmanac.generate.decoding import Array
from llmanac.kernels.gguf import PackedTensor
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.kernels.infer import kinds
from llmanac.models.folder import TOKENS, TRAINED
from llmanac.models.gguf.file import PackedFile
from llmanac.models.scaling import Scaling

LOCAL = 10_000.0  # theta of layers with a window, where a file has another for the others
SANDWICH, NORMED = ("gemma2", "gemma3_text"), ("qwen3", "gemma3_text")  # families with four norms, with normed queries
READ = ("llama", "granite", "qwen2", "qwen3", "phi3", "gemma", *SANDWICH)  # families whose files it reads by itself
FUSED = {"self_attn.qkv_proj": ("q", "k", "v"), "mlp.gate_up_proj": ("gate", "up")}


class FileModel:
    """A model for the native runner alone; see `ModelNumbers`.

    Attributes:
        vocab_size, max_length, generation: as a language model has them.

    Raises:
        CheckpointError: a file that is damaged or not supported, or tensors that do not fit what its keys say.
    """

    def __init__(self, path: Path) -> None:
        self.file, self.origin = PackedFile(path), str(path)
        self.config = config = self.file.config
        self.vocab_size, self.max_length = config["vocab_size"], config["max_position_embeddings"]
        self.generation = {key: config[key] for key in TOKENS if key in config}
        self._shapes = self.file.shapes()
        self._check_tensors()
        self._finite("model.embed_tokens")
        # without the texts of its vocabulary, which its tokenizer has
        self.file.file = copy.copy(self.file.file)
        self.file.file.metadata = {}
        self.coded = any(self.file.file.kind(name) not in ("F32", *HALVES) for name in self.file.file.names)

    threads = property(lambda self: threads())

    @staticmethod
    def refusal(path: Path) -> str | None:
        """Why the native runner cannot run a file, or None where it can. Raises CheckpointError as the class does."""
        if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
            return "numba's compiler is switched off (NUMBA_DISABLE_JIT)"
        config = PackedFile(path).config
        scaling = config.get("rope_scaling", {})
        if config["model_type"] not in READ:
            return f"files of the family {config['model_type']}"
        if scaling.get("rope_type") == "longrope":
            return "positions that depend on more than a token's place"
        return None

    def parameter_count(self) -> int:
        """Numbers in the file."""
        return sum(int(np.prod(shape)) for shape in self._shapes.values())

    @cached_property
    def shape(self) -> Shape:
        c = self.config
        size, layers = c["head_dim"], c["num_hidden_layers"]
        gemma = c["model_type"].startswith("gemma")
        window = c.get("sliding_window") or 4096 * (c["model_type"] in SANDWICH)
        types = c.get("layer_types", ["sliding_attention"] * layers)
        windows = tuple(window if kind == "sliding_attention" else 0 for kind in types)
        caps = (50.0, 30.0) if c["model_type"] == "gemma2" else (None, None)
        scale = c.get("attention_multiplier") or (c.get("query_pre_attn_scalar") or size) ** -0.5
        local = [bool(w) for w in windows] if c["model_type"] == "gemma3_text" else [False] * layers
        return Shape(
            vocab_size=self.vocab_size, dim=c["hidden_size"], inner=c["intermediate_size"],
            heads=c["num_attention_heads"], kv_heads=c["num_key_value_heads"], head_dim=size,
            activation="gelu-tanh" if gemma else "silu", post=c["model_type"] in SANDWICH, eps=c["rms_norm_eps"],
            qk_eps=c["rms_norm_eps"] if c["model_type"] in NORMED else None, windows=windows,
            rotations=tuple(sorted(set(local), key=local.index).index(own) for own in local),
            scales=((scale, c.get("attn_logit_softcapping", caps[0]) or 0.0),) * layers,
            softcap=c.get("final_logit_softcapping", caps[1]), branch_scale=c.get("residual_multiplier", 1.0),
            head_scale=1.0 / c.get("logits_scaling", 1.0),
        )  # fmt: skip

    def _check_tensors(self) -> None:
        """Compare every tensor with what the keys ask for: names, shapes, and nothing left over."""
        c, s = self.config, self.shape
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        sizes = {
            "self_attn.q_proj": (q, s.dim), "self_attn.k_proj": (kv, s.dim), "self_attn.v_proj": (kv, s.dim),
            "self_attn.o_proj": (s.dim, q), "mlp.gate_proj": (s.inner, s.dim), "mlp.up_proj": (s.inner, s.dim),
            "mlp.down_proj": (s.dim, s.inner),
        }  # fmt: skip
        if c["model_type"] == "phi3":
            for whole, parts in FUSED.items():
                rows = sum(sizes.pop(f"{whole.split('.')[0]}.{part}_proj")[0] for part in parts)
                sizes[whole] = (rows, s.dim)
        biased = [name for name in sizes if c.get("attention_bias" if "attn" in name else "mlp_bias")]
        if c["model_type"] == "qwen2":
            biased = [f"self_attn.{name}_proj" for name in "qkv"]
        norms = ["input_layernorm", "post_attention_layernorm"]
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if s.post else []
        wanted: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (s.vocab_size, s.dim)}
        wanted["model.norm.weight"] = (s.dim,)
        wanted |= {} if c["tie_word_embeddings"] else {"lm_head.weight": (s.vocab_size, s.dim)}
        for layer in (f"model.layers.{i}" for i in range(len(s.windows))):
            wanted |= {f"{layer}.{name}.weight": shape for name, shape in sizes.items()}
            wanted |= {f"{layer}.{name}.bias": sizes[name][:1] for name in biased}
            wanted |= {f"{layer}.{name}.weight": (s.dim,) for name in norms}
            wanted |= {f"{layer}.self_attn.{n}_norm.weight": (s.head_dim,) for n in "qk" if s.qk_eps is not None}
        found = self._shapes
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                own = self.file.table.ours(name) if name in wanted else name
                what = f"{own} has {found.get(name, 'no numbers')}, its keys ask for {wanted.get(name, 'none')}"
                raise CheckpointError(f"{self.origin}: {what}")

    def check(self) -> None:
        """Raises CheckpointError where the file was written to since it was opened."""
        self.file.file.mapped.check()

    def stamp(self) -> list[tuple[Any, ...]]:
        """Nothing: the numbers stay."""
        return []

    def key(self, name: str) -> str:
        return "model.embed_tokens" if name == "lm_head" and self.config["tie_word_embeddings"] else name

    def _tensor(self, name: str) -> PackedTensor:
        """The tensor of a product; of a fused one its rows."""
        name, s = self.key(name), self.shape
        layer, _, own = name.rpartition(".")
        whole = next((w for w, parts in FUSED.items() if own.removesuffix("_proj") in parts), "")
        place = f"{layer.rpartition('.')[0]}.{whole}"
        if self.config["model_type"] != "phi3" or not whole:
            return self.file.tensor(f"{name}.weight")
        counts = {"q": s.heads * s.head_dim, "k": s.kv_heads * s.head_dim, "v": s.kv_heads * s.head_dim}
        counts |= {"gate": s.inner, "up": s.inner}
        parts, found = FUSED[whole], self.file.tensor(f"{place}.weight")
        own = own.removesuffix("_proj")
        first = sum(counts[part] for part in parts[: parts.index(own)])
        return PackedTensor(found.kind, (counts[own], s.dim), found.data[first : first + counts[own]])

    def _finite(self, name: str) -> PackedTensor:
        """The tensor of a product. Raises CheckpointError where a number is not finite."""
        found = self._tensor(name)
        if not KINDS[found.kind].finite(found.data):
            raise CheckpointError(f"{self.origin}: {name}.weight holds NaN or infinity")
        self.file.file.mapped.release()  # what was looked at
        return found

    def matrix(self, name: str) -> Matrix:
        found, mapped = self._finite(name), self.file.file.mapped
        if found.kind == "MXFP4":  # scales beyond those of float16
            return Matrix(*kinds.rounded(found.float32()), found.shape)
        kind = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(found.kind, found.kind.lower())
        data = found.data.view(np.float32) if found.kind == "F32" else found.data
        return Matrix(kind, data, found.shape, mapped.release)

    def dense(self, name: str) -> Array:
        return self._tensor(name).float32()

    def bias(self, name: str) -> Array | None:
        return self._vector(f"{name}.bias") if f"{name}.bias" in self._shapes else None

    def norm(self, name: str) -> Array:
        weight = self._vector(f"{name}.weight") + np.float32(self.file.table.shift)
        return np.stack([weight, np.zeros_like(weight)])

    def _vector(self, name: str) -> Array:
        found = self.file.vector(name)
        if not np.isfinite(found).all():
            raise CheckpointError(f"{self.origin}: {name} holds NaN or infinity")
        return found

    def tables(self, tokens: int) -> list[tuple[Array, Array]]:
        """See `models/positions/rope.py`, of whose cosines and signed sines the first and second halves are these."""
        c, local = self.config, self.config["model_type"] == "gemma3_text"
        turned = int(c["head_dim"] * c.get("partial_rotary_factor", 1.0))
        scaling, found = _scaling(c.get("rope_scaling", {})), {}
        for place, window in zip(self.shape.rotations, self.shape.windows, strict=True):
            own = None if local and window else scaling
            theta = c.get("rope_local_base_freq", LOCAL) if local and window else c["rope_theta"]
            frequencies = (1.0 / theta ** (np.arange(0, turned, 2) / turned)).astype(np.float32)
            frequencies = frequencies if own is None else own.apply(frequencies, theta)
            amplitude = np.float32(1.0 if own is None else own.amplitude)
            if place not in found:
                angles = np.arange(tokens, dtype=np.float32)[:, None] * frequencies
                found[place] = (np.cos(angles) * amplitude, np.sin(angles) * amplitude)
        return [found[place] for place in sorted(found)]

    def embed(self, ids: list[int]) -> Array:
        found = self.file.tensor("model.embed_tokens.weight")
        x = KINDS[found.kind].float32(found.data[ids])
        self.file.file.mapped.release()  # for each row the system maps its neighbourhood
        gemma = self.config["model_type"].startswith("gemma")
        factor = self.config["hidden_size"] ** 0.5 if gemma else self.config.get("embedding_multiplier", 1.0)
        return x if factor == 1 else x * np.float32(factor)


def _scaling(table: dict[str, Any]) -> Scaling | None:
    """What `PackedFile` says of a scaling, of the kinds that do not depend on a row's length."""
    kind = table.get("rope_type")
    if kind is None:
        return None
    more: dict[str, Any] = {"original_length": table[TRAINED]} if TRAINED in table else {}
    if kind == "llama3":
        more |= {f"{n}_frequency_factor": table[f"{n}_freq_factor"] for n in ("low", "high")}
    return Scaling(type=kind, factor=table["factor"], attention_factor=table.get("attention_factor"), **more)


HALVES = ("F16", "BF16")  # of files, whose inputs stay as they are


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama-shaped model without its numbers.

    Attributes:
        dim, inner: D, and the width of the gated layer; heads, kv_heads, head_dim: of attention.
        activation: of the gated layer, by its name in `models/ffn`.
        before, post: whether a norm precedes each part, and follows it; parallel: whether both parts read the first.
        eps, qk_eps: of norms; of those of queries and keys, None without them; centred: whether norms are LayerNorms.
        plain: whether the feed-forward layer has no gate; pairs: whether neighbours turn together, not halves.
        branch_scale, head_scale: what is multiplied with what a part adds, and with what the head reads.
        windows: of each layer, 0 for none; rotations: which table turns its queries and keys, -1 for none.
        scales: what each layer's scores are multiplied by, and their soft cap, 0 for none.
        softcap: of the logits, or None.
        experts: of a layer, 0 for one gated layer; routing: of experts: how many are used, whether their gates share 1,
            and what they are multiplied by.
    """

    vocab_size: int
    dim: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    activation: str
    post: bool
    eps: float
    qk_eps: float | None
    windows: tuple[int, ...]
    rotations: tuple[int, ...]
    scales: tuple[tuple[float, float], ...]
    softcap: float | None = None
    experts: int = 0
    routing: tuple[int, bool, float] = (0, False, 1.0)
    before: bool = True
    parallel: bool = False
    centred: bool = False
    plain: bool = False
    pairs: bool = False
    branch_scale: float = 1.0
    head_scale: float = 1.0


class Matrix(NamedTuple):
    """A matrix (N, K) as kernels read it: a kind of `kernels/infer/kinds.py` or a dtype, and its memory.

    `release` gives back the memory of a file of which a copy was made.
    """

    kind: str
    data: Array
    shape: tuple[int, ...]
    release: Callable[[], None] = lambda: None


class ModelNumbers(Protocol):
    """The numbers of a model by the names of Llama's parameters (`model.layers.0.mlp.up_proj`).

    Attributes:
        coded: whether some matrix has fewer than 16 bits a number; threads: how many compute where nothing is said.
    """

    @property
    def shape(self) -> Shape: ...
    @property
    def coded(self) -> bool: ...
    @property
    def threads(self) -> int: ...
    def check(self) -> None:
        """Raises RequestError where the native runner cannot run the model (any more)."""

    def stamp(self) -> Any:
        """What changes when the numbers do."""

    def key(self, name: str) -> Any:
        """The same for names of one matrix."""

    def matrix(self, name: str) -> Matrix:
        """The matrix as it is held."""

    def dense(self, name: str) -> Array:
        """(N, K) float32."""

    def bias(self, name: str) -> Array | None:
        """(N,) float32 of a product, None where it has none."""

    def norm(self, name: str) -> Array:
        """(2, ...) float32, what a norm multiplies by and what it adds."""

    def tables(self, tokens: int) -> list[tuple[Array, Array]]:
        """Cosines and sines (tokens, pairs) float32 of each rotation."""

    def embed(self, ids: list[int]) -> Array:
        """(T,) -> (T, D) float32, as the first layer reads them."""
