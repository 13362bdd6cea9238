"""Quantized serving: speed, memory and quality of one model in the forms that it can be served in.

SmolLM2-135M-Instruct ({parameters:,} parameters), one thread ({form}). Its file is Q4_1; "float32" is what that file
holds, every other form was made of that and written, loaded by the engine from its file and measured as it is served.

- Speed: tokens a CPU second of decoding with {context} tokens before, one row and eight rows with different prompts.
- Memory: the file, and the bytes that the runner's matrices take (norms and biases are not counted for the native
  runner; the embedding is, where it is the head too). The native runner repacks a file's blocks and keeps
  nothing else of it.
- Quality: over the first {tokens:,} tokens of the documentation of Python ([quantization](../quantization/page.md)
  reads as many from its second half, on which the same model has a higher perplexity), from the logits that the runner
  itself computes: with 8-bit activations for the forms of GGUF files, as for every user. KL(float32 || form) is in nats
  a token.

The native runner reads the blocks as they are. Rows of Q4_K have a multiple of 256 numbers, those of this model 576; a
test serves a file of another model. INT8 and NF4 are safetensors folders and run in torch, which unpacks a matrix for
each product: they save memory, not time.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence._pretrained import needed
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.evaluate.divergence import windows
from llmanac.generate.bench import rates
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.lab.complexity import one_thread
from llmanac.models.gguf.write import export_gguf
from llmanac.models.quantized import stored_bytes
from llmanac.models.save import save_model
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("serve/quantized",)
CLAIM = (
    "served in 8 bits a model costs next to no quality; in 8 and 4 bits the native runner is faster than in 16 or 32"
)
SEEDS = 1
TIMED = ("speed", "form")
TOLERANCE = 1e-2

FORMS = {  # name -> (what writes it, dtype when it is loaded)
    "float32": ("f32", None),
    "bf16": ("f32", "bfloat16"),
    "q8_0": ("q8_0", None),
    "q4_1": ("q4_1", None),
    "q4_0": ("q4_0", None),
    "int8": ("int8", None),
    "nf4": ("nf4", None),
}
GGUF = ("f32", "q8_0", "q4_1", "q4_0")
CONTEXT, LENGTH, READ = 128, 512, 3
MODEL = {"name": "transformer", "dim": 64, "layers": 2, "max_length": 128}


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Each form of SmolLM2; of a small random model only bytes and quality, in torch."""
    if size == "full":
        place = needed()
        engine, source = load_engine(place, device="cpu", dtype="float32", runner="native"), str(place)
    else:
        tokenizer = train_tokenizer("utf8", [])
        model: Any = make_method("lm", MODEL).build(vocab_size=tokenizer.vocab_size)
        with torch.no_grad():
            for parameter in model.initialise(seed).parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
        engine, source = Engine(model.eval(), tokenizer), None
    with tempfile.TemporaryDirectory(prefix="llmanac-serving-") as folder:
        return forms(engine, Path(folder), source, size == "full")


def forms(original: Engine, folder: Path, source: str | None, full: bool) -> dict[str, Any]:
    model: Any = original.model
    topics = make_method("source", {"name": "python-docs", "parts": ["topics"]}).documents()
    text = windows([d.text for d in topics], original.tokenizer, LENGTH if full else 96, READ if full else 2)
    rows = text.ids.tolist()
    wanted = [logits(Engine(model), row) for row in rows]
    found = {}
    for name, (kind, dtype) in FORMS.items():
        path = Path(source) if source and kind == "q4_1" else write(original, kind, folder)
        engine = load_engine(path, device="cpu", dtype=dtype, runner="native" if full and kind in GGUF else "torch")
        found[name] = {
            "runner": "torch" if engine.native is None else "native",
            "file": float(sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir()))),
            "bytes": engine.native.nbytes if engine.native else stored_bytes(engine.model),  # type: ignore[arg-type]
            **quality(engine, rows, wanted),
        }
        if full:
            speed = rates(engine, rows=(1, 8), context=CONTEXT, clock=time.process_time)
            found[name]["speed"] = {str(rows): rate for rows, rate in speed["decode"].items()}
    return {
        "parameters": model.parameter_count(),
        "form": engine_form(original),
        "tokens": sum(len(row) - 1 for row in rows),
        "forms": found,
    }


def engine_form(engine: Engine) -> str:
    return engine.native.form if engine.native else "torch"


def write(engine: Engine, kind: str, folder: Path) -> Path:
    """The model in a form, as `llmanac quantize` writes it."""
    tokenizer: Any = engine.tokenizer
    if kind in GGUF:
        path = folder / f"{kind}.gguf"
        return path if path.exists() else export_gguf(engine.model, tokenizer, path, kind)
    packed = load_engine(write(engine, "f32", folder), device="cpu").model
    make_method("quantizer", kind).build().apply(packed)
    save_model(packed, folder / kind)  # type: ignore[arg-type]
    tokenizer.save(folder / kind)
    return folder / kind


@torch.inference_mode()
def logits(engine: Engine, ids: list[int]) -> Tensor:
    """Log-probabilities (T - 1, V) of what follows each token, by the engine's own runner."""
    runner = engine.scheduler().runner
    runner.extend([ids], len(ids))
    return torch.from_numpy(runner.read(0, [ids[:-1]], every=True)[0]).log_softmax(-1)


def quality(engine: Engine, rows: Sequence[list[int]], wanted: Sequence[Tensor]) -> dict[str, float]:
    """Loss and KL, in nats a token."""
    losses, kls = [], []
    for row, p in zip(rows, wanted, strict=True):
        q = logits(engine, row)
        losses += (-q.gather(-1, torch.tensor(row[1:])[:, None])).flatten().tolist()
        kls += (p.exp() * (p - q)).sum(-1).tolist()
    return {"loss": statistics.fmean(losses), "kl": statistics.fmean(kls)}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    first = result["forms"]["float32"]
    rows = []
    for name, one in result["forms"].items():
        speed = [f"{one['speed'][count]:.1f} ({one['speed'][count] / first['speed'][count]:.2f})" for count in "18"]
        megabytes = [f"{one[key] / 1e6:,.0f}" for key in ("file", "bytes")]
        bits = f"{8 * one['bytes'] / result['parameters']:.1f}"
        if name == "bf16":
            megabytes[0] = ""
        rows.append([name, one["runner"], *speed, *megabytes, bits, f"{math.exp(one['loss']):.4g}", f"{one['kl']:.2g}"])
    head = [
        "form", "runner", "tokens/s, 1 row", "tokens/s, 8 rows", "file, MB", "matrices, MB", "bits a parameter",
        "perplexity", "KL",
    ]  # fmt: skip
    note = "In brackets: times the speed of float32 in the native runner. bf16 is read from the float32 file."
    return [Section("SmolLM2-135M in each form", [note], [table(head, rows)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    known = {key: result[key] for key in ("parameters", "form", "tokens")}
    return {**known, "context": CONTEXT}
