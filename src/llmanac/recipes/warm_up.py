"""Compile ahead what is otherwise compiled on first use, once for a machine.

Kernels are compiled where they are first called, and kept (`kernels/cache.py` says where). Each use below runs once on
a few words or a tiny model; what is kept already is read. Nothing here needs torch but `training` and `models`.
"""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from llmanac.core.errors import SpecError, TokenizerError, nearest
from llmanac.core.progress import progress
from llmanac.kernels.gguf.blocks import KINDS, WRITTEN
from llmanac.kernels.gguf.file import Packable, write
from llmanac.kernels.text import compiled
from llmanac.tokenizers import gguf
from llmanac.tokenizers.load import train_tokenizer

TEXTS = ["the theatre there, these others 12 123", "naïve café, it's 中文 x = 1;\n\n  y", "aaaa bbbb abab baba"] * 9
END = "<|endoftext|>"
DIM, LAYERS, HEADS = 256, 2, 4
OTHERS = ("Q4_0", "Q4_1", "Q5_1", "Q5_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS", "F16", "BF16", "F32")


@dataclass(frozen=True)
class WarmedUse:
    """A use, the kernels that were compiled for it, and the seconds that it took."""

    use: str
    kernels: tuple[str, ...]
    seconds: float


def text(folder: Path) -> None:
    """The usual tokenizers: train and encode."""
    for name in ("bpe", "sentencepiece"):
        train_tokenizer(name, TEXTS, special_tokens=[END]).encode(TEXTS[0])


def tokenizers(folder: Path) -> None:
    """Tokenizers of each algorithm: train, encode, draw, extend."""
    for name in ("bpe", "sentencepiece", "unigram", "sentencepiece-bpe", "word"):
        tokenizer: Any = train_tokenizer(name, TEXTS, special_tokens=[END])
        tokenizer.encode(TEXTS[0])
        for call in (lambda t: t.sample(TEXTS[0], seed=0), lambda t: t.extended(["zebra fjord zebra"] * 5, 1)):
            with contextlib.suppress(TokenizerError):  # it has one segmentation, or no way to grow
                call(tokenizer)


def generate(folder: Path) -> None:
    """The native runner on a file in Q4_K_M, sampling and constraints: `generate`, `chat`, `serve`, `ask`."""
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    written(folder / "q4_k_m.gguf", ("Q4_K", "Q6_K", "Q5_0", "Q8_0"), {}, {"regex": "[a-z]+ [0-9]"}, {"schema": schema})


def files(folder: Path) -> None:
    """The native runner on files of the other kinds."""
    for kind in OTHERS:
        written(folder / f"{kind}.gguf", (kind,), {})


def written(path: Path, kinds: Sequence[str], *constraints: dict[str, Any]) -> None:
    """Sample from a tiny file of these kinds, two rows together."""
    from llmanac.generate.load import load_writer

    engine = load_writer(tiny_file(path, kinds), runner="native")
    for constraint in constraints:
        engine.generate(["the theatre " * 12, "other"], max_new_tokens=4, temperature=1.0, seed=0, **constraint)


def tiny_file(path: Path, kinds: Sequence[str]) -> Path:
    """A GGUF file of a random Llama, whose matrices have the kinds in turn."""
    tokenizer: Any = train_tokenizer("bpe", TEXTS, vocab_size=320, special_tokens=[END])
    size, draws = tokenizer.vocab_size, np.random.default_rng(0)
    shapes = {"token_embd": (size, DIM), "output": (size, DIM)}
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": (DIM if name in ("attn_q", "attn_output") else DIM // 2, DIM) for name in (
            "attn_q", "attn_k", "attn_v", "attn_output")}  # fmt: skip
        shapes |= {f"blk.{layer}.{name}": (DIM, DIM) for name in ("ffn_gate", "ffn_up", "ffn_down")}
    tensors = {"output_norm.weight": _packable("F32", np.ones(DIM, np.float32))}
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = _packable("F32", np.ones(DIM, np.float32))
    for at, (name, shape) in enumerate(shapes.items()):
        numbers = draws.standard_normal(shape, dtype=np.float32) / 16
        tensors[f"{name}.weight"] = _packable(kinds[at % len(kinds)], numbers)
    whole = {"context_length": 256, "embedding_length": DIM, "block_count": LAYERS, "feed_forward_length": DIM,
             "attention.head_count": HEADS, "attention.head_count_kv": HEADS // 2, "attention.key_length": DIM // HEADS,
             "attention.value_length": DIM // HEADS, "rope.dimension_count": DIM // HEADS,
             "vocab_size": size}  # fmt: skip
    metadata: dict[str, Any] = {"general.architecture": "llama"}
    metadata |= {f"llama.{key}": np.uint32(value) for key, value in whole.items()}
    metadata |= {"llama.attention.layer_norm_rms_epsilon": np.float32(1e-5), "llama.rope.freq_base": np.float32(1e4)}
    with path.open("wb") as handle:
        write(handle, metadata | gguf.keys(tokenizer, size), tensors)
    return path


def _packable(kind: str, numbers: np.ndarray) -> Packable:
    if kind in WRITTEN:
        return Packable(kind, numbers.shape, lambda: KINDS[kind].packed(numbers))
    zeros = np.zeros(numbers.size // KINDS[kind].size * KINDS[kind].bytes, np.uint8)  # of a kind that is only read
    return Packable(kind, numbers.shape, lambda: zeros)


def documents(folder: Path) -> None:
    """Index and search: `index`, `ask`, `retrieve`."""
    from llmanac import api

    place = folder / "documents"
    place.mkdir()
    (place / "a.md").write_text("# Opening hours\n\nThe library opens at nine on Monday.\n", "utf-8")
    (place / "b.md").write_text("# Cards\n\nChildren need the card of a parent.\n", "utf-8")
    api.ask(place, "When does the library open?")


def ngrams(folder: Path) -> None:
    """Counting, estimating and querying: `ngram`, deduplication by n-grams."""
    from llmanac.core.spec import make_method
    from llmanac.models.ngrams import words
    from llmanac.models.ngrams.load import load, save

    path = folder / "text.txt"
    path.write_text("the old king sees a fool .\nthe queen fears my lord .\n" * 40, "utf-8")
    model = words.train([path], 3, make_method("smoothing", "modified-kneser-ney").build())
    for name in ("model.arpa", "model.ngram"):
        save(model, folder / name)
        load(folder / name).score([path.read_bytes()])


def training(folder: Path) -> None:
    """What `llmanac run` needs before its first step: its budget counts from its start."""
    import torch

    from llmanac.core.spec import make_method
    from llmanac.core.types import Batch, OutputRequest
    from llmanac.models.forward import ATTENTION_FORMS
    from llmanac.train.plan import set_attention

    train_tokenizer("bpe", ["compile once"], vocab_size=300).encode("now")
    fields = {"name": "transformer", "dim": 64, "layers": 1, "max_length": 64}
    model = make_method("lm", fields).build(vocab_size=300).initialise(0).bfloat16()
    ids = torch.arange(8 * 64).view(8, 64) % 300
    for form in ATTENTION_FORMS:
        set_attention(model, form)
        model(Batch(ids=ids, targets=ids), want=OutputRequest(nll="sum")).nll.backward()


def models(folder: Path) -> None:
    """Recurrent layers, and the native runner on models of torch in each form of their weights."""
    import torch

    from llmanac.core.spec import make_method
    from llmanac.generate.native import NativeModel, NativeRunner
    from llmanac.kernels.infer.machine import forms

    fields = {"name": "transformer", "dim": 64, "layers": 1, "max_length": 64}
    model = make_method("lm", fields).build(vocab_size=64).initialise(0).float()
    for form in forms():
        for weights in ("own", "q8_0", "q4_0", "q4_1"):
            runner = NativeRunner(NativeModel(model, weights=weights, threads=1, form=form))
            runner.extend([[1, 2, 3]], 64)
            runner.read(0, [[1, 2, 3]], every=False)
    for mixer in ("rnn", "gru", "lstm", "mamba"):
        blocks = [{"name": "pre-norm", "mixer": mixer, "ffn": "swiglu"}]
        recurrent = make_method("lm", {**fields, "blocks": blocks, "position": "none"}).build(vocab_size=64)
        recurrent.initialise(0).float()(torch.arange(8)[None]).logits.sum().backward()


USES: dict[str, Callable[[Path], None]] = {
    "text": text, "generate": generate, "documents": documents, "ngrams": ngrams, "training": training,
    "tokenizers": tokenizers, "files": files, "models": models,
}  # fmt: skip
OF_TORCH = ("training", "models")
FIRST_HOUR = ("text", "generate", "documents", "ngrams", "training")


def chosen(uses: Sequence[str]) -> list[str]:
    """The uses that are asked for; by default those of a first hour that this installation can do.

    Raises:
        SpecError: a use that is not known, or that needs torch where it is not installed.
    """
    there = importlib.util.find_spec("torch") is not None
    for use in uses:
        if use not in USES:
            raise SpecError(f"use: {use!r} is none of {', '.join(USES)}{nearest(use, USES)}")
        if use in OF_TORCH and not there:
            raise SpecError(f"use: {use} needs torch, which is not installed; leave it out, or install llmanac[torch]")
    return list(uses) or [use for use in FIRST_HOUR if there or use not in OF_TORCH]


def warm_up(uses: Sequence[str] = ()) -> Iterator[WarmedUse]:
    """Compile for each use in turn; see `chosen` for the default and what is raised."""
    names = chosen(uses)
    with TemporaryDirectory(prefix="llmanac-warm-up-") as folder, progress("warm-up", len(names), "uses") as bar:
        for name in names:
            before, start = len(compiled()), time.monotonic()
            place = Path(folder) / name
            place.mkdir()
            USES[name](place)
            bar.advance()
            yield WarmedUse(name, tuple(compiled()[before:]), time.monotonic() - start)
