"""What the native runner needs to know of a model, and who tells it: a torch model or a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from llmanac.generate._logits import Array

HALVES = ("F16", "BF16")  # of files, whose inputs stay as they are


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama-shaped model without its numbers.

    Attributes:
        dim, inner: D, and the width of the gated layer; heads, kv_heads, head_dim: of attention.
        activation: of the gated layer, by its name in `models/ffn`.
        post: whether a norm follows each part too.
        eps, qk_eps: of norms; of those of queries and keys, None without them.
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

    def scale(self, name: str) -> Array:
        """What a norm multiplies by, float32."""

    def tables(self, tokens: int) -> list[tuple[Array, Array]]:
        """Cosines and sines (tokens, pairs) float32 of each rotation."""

    def embed(self, ids: list[int]) -> Array:
        """(T,) -> (T, D) float32, as the first layer reads them."""
