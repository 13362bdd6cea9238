"""Quantization: bits a weight, and what they cost.

Each method packs the linear maps of the layers; embeddings, head and norms stay as they are. Bits count scales. The
usual figures for 16, 8, 4 and 1 bits (50%, 75%, 87.5% and 96.875% less than float32) are those without scales.

{pretrained}: loss and KL(original || quantized) over {tokens:,} tokens of the documentation of Python, the beginning of
its second half, as the first calibrates GPTQ. [quantized_serving](../quantized_serving/page.md) reads as many from the
beginning of all of it, on which the same model has a lower perplexity: the numbers of the two pages are of different
text. Its file has 4 bits a number already (Q4_1); the original is what that file holds, in float32. GPTQ saw
{calibration:,} other tokens.

Small models of {parameters:,} parameters, {seeds} seeds, trained for {steps} steps on bytes of the same documentation
and measured on other pages. "Trained through" means that the forward pass used the rounded matrices from the first
step; the packed model is exactly what was trained. "After training" rounds the dense model. Rounding to one bit after
training loses {binary[lost]:.2f} bits a byte, to three values {ternary[lost]:.2f}; trained through the rounding, they
lose {binary[through]:.2f} and {ternary[through]:.2f}.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from evidence._pretrained import needed
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.evaluate.divergence import Windows, divergence, windows
from llmanac.lab.complexity import one_thread
from llmanac.models.load import load_model
from llmanac.tokenizers.load import load_tokenizer

ROWS = ("quant/bf16", "quant/int8", "quant/nf4", "quant/1bit")
CLAIM = "16 and 8 bits lose next to nothing, 4 bits something; with 1 or 2 a model must be trained through the rounding"
SEEDS = 3
TOLERANCE = 1e-2  # float32 training, and roundings that may turn at a tie

METHODS = ("bf16", "int8", "int8-dynamic", "nf4-single", "nf4", "int4", "gptq", "ternary", "binary")
SMALL = ("bf16", "int8", "nf4", "int4", "gptq", "ternary", "binary")
THROUGH = ("ternary", "binary")
PLAIN = {"bf16": 50.0, "int8": 75.0, "int8-dynamic": 75.0, "nf4-single": 87.5, "nf4": 87.5, "int4": 87.5,
            "gptq": 87.5, "binary": 96.875}  # fmt: skip
MODEL = {"name": "transformer", "dim": 128, "layers": 2, "max_length": 128}
STEPS, BATCH, RATE = 250, 8, 4e-3
LENGTH, ROWS_READ = 512, 3


class Bytes:
    """A tokenizer of bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """The small model of a seed, and with the first seed the pretrained one."""
    documents = make_method("source", {"name": "python-docs", "parts": ["topics"]}).documents()
    texts = [document.text for document in documents]
    found: dict[str, Any] = {"small": small(seed, size, texts)}
    if seed == 0 and size == "full":
        found["pretrained"] = pretrained(texts)
    return found


def compared(model: Any, methods: Sequence[str], text: Windows, calibration: Windows) -> dict[str, dict[str, float]]:
    """Each method applied to a copy of the model."""
    known: dict[int, Any] = {}
    forward = model.forward

    def once(batch: Batch) -> Any:
        key = int((batch.ids * torch.arange(1, batch.ids.shape[1] + 1)).sum())
        if key not in known:
            known[key] = forward(batch)
        return known[key]

    found = {}
    for method in methods:
        changed = copy.deepcopy(model)
        report = make_method("quantizer", method).build().apply(changed, list(calibration.batches()))
        model.forward = once
        result = divergence(model, changed, text)
        del model.forward
        found[method] = {"bits": report.bits, "loss": result.after, "before": result.before, "kl": result.kl}
    return found


def pretrained(texts: Sequence[str]) -> dict[str, Any]:
    place = needed()
    model, tokenizer = load_model(place, dtype="float32", device="cpu"), load_tokenizer(place)
    middle = len(texts) // 2
    calibration = windows(texts[:middle], tokenizer, LENGTH, 8)
    text = windows(texts[middle:], tokenizer, LENGTH, ROWS_READ)
    methods = compared(model, METHODS, text, calibration)
    return {"methods": methods, "tokens": text.ids[:, 1:].numel(), "calibration": calibration.ids.numel(),
            "bytes a token": text.bytes_per_token}  # fmt: skip


def small(seed: int, size: str, texts: Sequence[str]) -> dict[str, Any]:
    steps, fields = (STEPS, MODEL) if size == "full" else (3, {**MODEL, "dim": 32, "max_length": 32})
    length = fields["max_length"]
    train = windows(texts[: len(texts) * 3 // 4], Bytes(), int(length), 4000 if size == "full" else 64)
    text = windows(texts[len(texts) * 3 // 4 :], Bytes(), int(length), 64 if size == "full" else 4)
    dense = trained(seed, fields, steps, train, None)
    calibration = Windows(train.ids[:64], 1.0)
    found = compared(dense, SMALL, text, calibration)
    through = {}
    for method in THROUGH:
        model = trained(seed, fields, steps, train, method)
        bits = make_method("quantizer", method).build().apply(model).bits
        through[method] = {"bits": bits, "loss": divergence(dense, model, text).after}
    return {"parameters": dense.parameter_count(), "steps": steps, "after": found, "through": through}


def trained(seed: int, fields: dict[str, Any], steps: int, text: Windows, through: str | None) -> Any:
    model = make_method("lm", fields).build(vocab_size=256).initialise(seed)
    if through is not None:
        make_method("quantizer", through).build().attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20) * (1 - step / steps)
        rows = text.ids[torch.randint(len(text.ids), (BATCH,), generator=generator)]
        loss = model.nll(Batch(ids=rows[:, :-1], targets=rows[:, 1:])).sum() / rows[:, 1:].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


def saved(method: str, bits: float) -> list[str]:
    """Bits, what they save against float32, and the usual figure without scales."""
    plain = PLAIN.get(method)
    return [f"{bits:.3f}", f"{100 * (1 - bits / 32):.2f}%", f"{plain:g}%" if plain else ""]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    sections = []
    head = ["method", "bits a weight", "saved", "without scales"]
    if found := seeds[0].get("pretrained"):
        rows = [["as it was", "32", "", "", f"{math.exp(found['methods']['int8']['before']):.4g}", "0", ""]]
        for method, one in found["methods"].items():
            cells = [f"{math.exp(one['loss']):.4g}", f"{one['kl']:.2g}", f"{extra(found, method):+.4f}"]
            rows.append([method, *saved(method, one["bits"]), *cells])
        names = [*head, "perplexity", "KL, nats a token", "bits a byte"]
        sections.append(Section("SmolLM2-135M", [], [table(names, rows)]))
    rows = []
    for method in SMALL:
        one = seeds[0]["small"]["after"][method]
        rows.append([method, *saved(method, one["bits"]), spread(seeds, "after", method), ""])
        if method in THROUGH:
            rows[-1][-1] = spread(seeds, "through", method)
    names = [*head, "after training", "trained through"]
    note = "Bits a byte more than the dense model's, mean over seeds (least to most)."
    sections.append(Section("Small models", [note], [table(names, rows)]))
    return sections


def lost(seeds: Sequence[dict[str, Any]], way: str, method: str) -> list[float]:
    """Bits a byte more than the dense model of the same seed."""
    dense = [seed["small"]["after"]["int8"]["before"] for seed in seeds]
    own = [seed["small"][way][method]["loss"] for seed in seeds]
    return [(a - b) / math.log(2) for a, b in zip(own, dense, strict=True)]


def spread(seeds: Sequence[dict[str, Any]], way: str, method: str) -> str:
    values = lost(seeds, way, method)
    return f"{sum(values) / len(values):+.4f} ({min(values):+.4f} to {max(values):+.4f})"


def extra(found: dict[str, Any], method: str) -> float:
    """Bits a byte that the pretrained model loses."""
    one = found["methods"][method]
    return float((one["loss"] - one["before"]) / math.log(2) / found["bytes a token"])


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def means(method: str) -> dict[str, float]:
        ways = {"lost": lost(seeds, "after", method), "through": lost(seeds, "through", method)}
        return {name: sum(values) / len(values) for name, values in ways.items()}

    real = seeds[0].get("pretrained", {})
    one = seeds[0]["small"]
    return {
        "pretrained": "SmolLM2-135M-Instruct" if real else "A pretrained model (not measured in this run)",
        "tokens": real.get("tokens", 0), "calibration": real.get("calibration", 0), "parameters": one["parameters"],
        "steps": one["steps"], "seeds": len(seeds), "ternary": means("ternary"), "binary": means("binary"),
    }  # fmt: skip
