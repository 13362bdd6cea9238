"""A model as the compiled forward pass reads it: its matrices by address, its vectors, and the threads that run it.

float32, bfloat16 and float16 matrices are read where torch or a GGUF file keeps them; packed ones are put in another
order (`kernels/infer/kinds.py`), and memory of a GGUF file is given back. Norms, biases and tables of positions are
small and copied. `sync` does all of it again after the weights have changed.
"""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from llmanac.core.errors import RequestError
from llmanac.generate._native_file import FileModel, ModelNumbers
from llmanac.generate.decoding import Array
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.kernels.infer.kinds import PACKED
from llmanac.models.state import DecodingState
from llmanac.models.state.pool import BlockPool, HostKeys

BLOCK = 128  # tokens of a block of keys and values: shorter ones cost more misses, longer ones share fewer prefixes
PART = 16  # rows of a matrix that a kernel takes at once
GROUP = 32  # inputs that share a scale
LINES = 256  # tokens of one pass: enough to use each weight often, few enough for the caches
KEYS = {"float32": "float32", "float16": "float16", "q8_0": "int8"}  # -> what a number is kept in
QUANTIZED = ("q8_0", "q4_0", "q4_1")
POSITIONS = 1024  # that the tables are first made for
MLP = ("gate_proj", "up_proj", "down_proj")
PRODUCTS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), MLP[:2], MLP[2:])  # those of a group read the same numbers
FOUR = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


class NativeModel:
    """A model's matrices and vectors for the compiled forward pass, and the threads that run it.

    Schedulers of several threads may use it: `lock` is held while it computes or reads weights.

    Args:
        model: one that `native_torch.refusal` has nothing against, or a FileModel.
        weights: "own" reads the model's own numbers, dense or the blocks of a GGUF file; q8_0, q4_0 or q4_1 quantizes
            its matrices (the head included, the embedding not) where their inputs come in groups of 32.
        threads: by default as many as torch uses, or one a core for a file.
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
        from llmanac.kernels.infer.machine import forms

        if weights not in ("own", *QUANTIZED):
            raise RequestError(f"weights: {weights!r} is not one of own, {', '.join(QUANTIZED)}")
        pages = block_tokens // PART
        if block_tokens % PART or pages < 1 or pages & (pages - 1):
            raise RequestError(f"block_tokens: {block_tokens} is not 16 times a power of two")
        self.model, self.weights, self.block_tokens = model, weights, block_tokens
        self.source: ModelNumbers = model if isinstance(model, FileModel) else _of_torch(model)
        self.threads = threads or self.source.threads
        self.form = form or forms()[0]
        self.coded = weights != "own" or self.source.coded
        kinds = list(KEYS)[: None if self.form != "plain" else 1]
        if keys is not None and keys not in kinds:
            raise RequestError(f"runner: keys in {keys!r} are not kept by this machine's code, only {', '.join(kinds)}")
        self.keys = keys or kinds[min(int(self.coded), len(kinds) - 1)]
        self.padded = _filled(self.source.shape.head_dim, GROUP if self.keys == "q8_0" else PART)
        self.width = self.padded + self.padded // 16 * (self.keys == "q8_0")  # a scale of 2 bytes for 32 codes
        self._pool = ThreadPoolExecutor(self.threads - 1, "llmanac-native") if self.threads > 1 else None
        self._longest = 0
        self.lock = threading.RLock()
        self.sync()

    def pool(self, budget: int | None = None) -> BlockPool:
        """A pool of blocks of the keys and values of all layers, in one store."""
        heads = len(self.source.shape.windows) * self.source.shape.kv_heads
        like = DecodingState([HostKeys(heads, self.width, KEYS[self.keys])], 1)
        return BlockPool(like, block_tokens=self.block_tokens, budget=budget)

    @property
    def nbytes(self) -> int:
        """Bytes of its matrices: what is read for one token."""
        return sum(kept.nbytes for kept in self._held)

    def changed(self) -> bool:
        """Whether the model's parameters were written to, or moved, since they were last read."""
        return bool(self.source.stamp() != self._stamp)

    def sync(self) -> None:
        """Read the model's weights (again). Raises RequestError where it cannot run the model any more."""
        with self.lock:
            self.source.check()
            self._sync()

    def _sync(self) -> None:
        from llmanac.kernels.infer.attend import attention
        from llmanac.kernels.infer.blocks import Store
        from llmanac.kernels.infer.forward import Plan
        from llmanac.kernels.infer.lines import ACTIVATIONS

        self._store = Store()
        self._held: list[Any] = []  # what the addresses below point into
        self._known: dict[Any, list[int]] = {}  # a tied matrix is packed once
        source, shape = self.source, self.source.shape
        head = self._matrix("lm_head")  # first: the largest is in memory twice while it is put in order
        matrices, norms, qk_norms, routers, experts = [], [], [], [], []
        biases: list[list[Any]] = [[], [], [], []]
        for layer in (f"model.layers.{i}" for i in range(len(shape.windows))):
            mlp = f"{layer}.mlp"
            if shape.experts:
                routers.append([*self._matrix(f"{mlp}.router"), 0])
                experts.append([self._lines(f"{mlp}.experts.{n}") for n in range(shape.experts)])
                mlp += ".experts.0"
            lines = []
            for group, kept in zip(PRODUCTS, biases, strict=True):
                offset, bias = 0, []
                for product in (f"{mlp if name in MLP else f'{layer}.self_attn'}.{name}" for name in group):
                    if shape.plain and product.endswith("gate_proj"):
                        lines.append([0] * 6)  # a product without rows
                        continue
                    lines.append([*self._matrix(product), offset])
                    rows = lines[-1][2]
                    offset += _filled(rows)
                    if (own := source.bias(product)) is not None:
                        bias.append(np.pad(own, (0, _filled(rows) - rows)))
                if bias:
                    kept.append(np.concatenate(bias)[: offset if len(group) > 1 else rows])
            matrices.append(lines)
            second = FOUR[not shape.parallel]
            used = FOUR if shape.post else (FOUR[0], FOUR[0], second, second)
            norms.append([source.norm(f"{layer}.{name}") for name in used])
            if shape.qk_eps is not None:
                pair = [source.norm(f"{layer}.self_attn.{name}_norm")[0] for name in "qk"]
                qk_norms.append([np.pad(weights, (0, len(pair[0]) - len(weights))) for weights in pair])
        number = np.dtype(KEYS[self.keys]).itemsize
        top_k, share, scale = shape.routing
        sizes = [
            shape.heads, shape.kv_heads, shape.head_dim, self.padded, ACTIVATIONS[shape.activation],
            attention(self.keys, self.form), number, top_k, share, self.width * number,
        ]  # fmt: skip
        dim, inner = shape.dim, shape.inner
        widths = [(matrices[0][2][5] + _filled(matrices[0][2][2])), dim, (2 - shape.plain) * _filled(inner), dim]
        self.head_bias = source.bias("lm_head")
        self._plan = Plan(
            shape=np.array(sizes, np.int64),
            eps=np.array([shape.eps, shape.qk_eps or shape.eps, scale, shape.branch_scale], np.float32),
            layers=np.array([shape.windows, shape.rotations], np.int64).T.copy(),
            factors=np.array(shape.scales, np.float32),
            matrices=np.array(matrices, np.int64),
            head=np.array([*head, 0], np.int64),
            routers=np.array(routers, np.int64).reshape(-1, 6),
            experts=np.array(experts, np.int64).reshape(len(experts), -1 if experts else 0, 3, 6),
            norms=np.array(norms, np.float32),
            norm=source.norm("model.norm") * np.float32(shape.head_scale),
            before=shape.before,
            post=shape.post,
            parallel=shape.parallel,
            centred=shape.centred,
            plain=shape.plain,
            pairs=shape.pairs,
            qk_norms=np.array(qk_norms, np.float32).reshape(len(qk_norms), 2, -1 if qk_norms else 0),
            biases=tuple(
                np.array(b, np.float32).reshape(len(b), w) for b, w in zip(biases, widths, strict=True)
            ),
            cos=np.zeros((0, 0, 0), np.float32),
            sin=np.zeros((0, 0, 0), np.float32),
        )  # fmt: skip
        self._make_room(dim, inner, widths)
        self._stamp = source.stamp()
        self._longest = 0
        self._reach(POSITIONS)

    def _matrix(self, name: str) -> list[int]:
        """Kernel, address, rows, columns and whether the input is coded, of a matrix (N, K)."""
        from llmanac.kernels.infer.products import product

        key = self.source.key(name)
        if key in self._known:
            return self._known[key]
        kind, kept, (rows, columns), release = self.source.matrix(name)
        if self.weights != "own" and columns % GROUP == 0:
            kind, kept = self.weights, KINDS[self.weights.upper()].packed(self.source.dense(name))
        if coded := kind in PACKED:
            from llmanac.kernels.infer.blocks import repacked

            kept = repacked(kind, kept, self._store, release)
        made = [product(kind, self.form), kept.ctypes.data, rows, columns, int(coded)]
        self._held.append(kept)
        self._known[key] = made
        return made

    def _lines(self, mlp: str) -> list[list[int]]:
        """Gate, up and down of a gated layer."""
        gate, up, down = (self._matrix(f"{mlp}.{name}") for name in MLP)
        return [[*gate, 0], [*up, _filled(gate[2])], [*down, 0]]

    def _make_room(self, dim: int, inner: int, widths: list[int]) -> None:
        from llmanac.kernels.infer.forward import QUERIES, Room

        shape = self.source.shape
        reads = shape.heads * shape.head_dim
        widest = max(dim, inner, reads)
        most = max(QUERIES, shape.heads // shape.kv_heads)

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
        made = self.source.tables(tokens)
        cos, sin = (
            np.stack([table[n] for table in made]) if made else np.zeros((0, tokens, 0), np.float32) for n in (0, 1)
        )
        self._plan = self._plan._replace(cos=np.ascontiguousarray(cos), sin=np.ascontiguousarray(sin))
        scores = self._room.scores
        self._room = self._room._replace(scores=np.zeros((*scores.shape[:2], tokens + PART), np.float32))

    def run(
        self, ids: list[int], places: np.ndarray, rows: np.ndarray, ends: np.ndarray, blocks: np.ndarray,
        wanted: np.ndarray, stores: tuple[Array, Array], logits: np.ndarray, terms: np.ndarray, chosen: np.ndarray,
    ) -> None:  # fmt: skip
        """One pass over at most LINES tokens, by the holder of `lock`; see `kernels/infer/forward.py`."""
        from llmanac.kernels.infer.forward import Step, forward

        self._reach(int(places.max()) + 1)
        x = self.source.embed(ids)
        keys, values = stores
        step = Step(
            x=x, places=places, rows=rows, ends=ends, blocks=blocks, wanted=wanted, logits=logits,
            keys=keys.ctypes.data, values=values.ctypes.data, block_bytes=keys.nbytes // len(keys),
            shift=(keys.shape[1] // PART).bit_length() - 1, terms=terms, chosen=chosen,
        )  # fmt: skip
        others: list[Future[Any]] = []
        if self._pool is not None:
            for thread in range(1, self.threads):
                others.append(self._pool.submit(forward, self._plan, self._room, step, thread, self.threads))
        forward(self._plan, self._room, step, 0, self.threads)
        for other in others:
            other.result()


def _of_torch(model: Any) -> ModelNumbers:
    from llmanac.generate.native_torch import TorchSource

    return TorchSource(model)


def _filled(size: int, part: int = PART) -> int:
    """The next multiple of 16."""
    return -(-size // part) * part
