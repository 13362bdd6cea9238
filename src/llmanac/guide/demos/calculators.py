"""Parameters, memory, FLOPs, bytes of decoding state and the least latency of a model from its config.json, with the
formula of each part. No weights are read and nothing is built but shapes.

Latency is a lower bound by the roofline, t = max(FLOPs / rate, bytes / bandwidth), for the machine that you name."""

import json
import tempfile
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llmanac.core.device import DTYPES
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.guide import calculate
from llmanac.guide.demos import Field, _html
from llmanac.guide.formulas import costs

CARD = {
    "title": "Calculators: memory, FLOPs, cache and latency",
    "rows": ["study/systems", "serve/", "scaling/compute", "attention/grouped-query", "quant/qlora", "finetune/full"],
}
CONFIG = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
FIELDS = (
    Field("config", "config.json", json.dumps(CONFIG, indent=1), most=8000, area=True),
    Field("length", "Tokens of a row", "2048", low=1, high=1 << 20),
    Field("rows", "Rows at a time", "1", low=1, high=1 << 16),
    Field("dtype", "Numbers", "bfloat16", choices=tuple(DTYPES)),
    Field("optimizer", "Optimizer", "adamw", choices=tuple(calculate.OPTIMIZER_BYTES)),
    Field("tflops", "TFLOP/s of the machine", "400", low=1e-6, high=1e9),
    Field("bandwidth", "GB/s of its memory", "2000", low=1e-6, high=1e9),
)
MOST_LAYERS = 2000


def described(text: str) -> calculate.Described:
    """The model of a config that was typed. Raises LlmanacError that names the key."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"config.json: {error}") from None
    if not isinstance(data, dict) or data.get("model_type") == "llmanac":
        raise SpecError("config.json: an object with the model_type of a family is needed")
    if any(type(value) is int and key.endswith("layers") and value > MOST_LAYERS for key, value in data.items()):
        raise SpecError(f"config.json: more than {MOST_LAYERS} layers")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(text, "utf-8")
        try:
            return calculate.read(path)
        except LlmanacError as error:
            raise SpecError(str(error).replace(str(path), "config.json")) from None


def run(values: dict[str, Any], models: Any, until: float) -> list[Markup]:
    """Four tables: parameters, bytes, FLOPs and state, time."""
    model = described(values["config"])
    found, length, rows, dtype = costs(model.spec, model.vocab_size), values["length"], values["rows"], values["dtype"]
    used = calculate.bytes_of(model, length=length, rows=rows, dtype=dtype, optimizer=values["optimizer"])
    b, each = calculate.size_of(dtype), calculate.OPTIMIZER_BYTES[values["optimizer"]]
    keys = length if found.kind == "encoder" else (length + 1) / 2
    parts = [
        (p.name, p.where, p.count, p.formula, f"{p.count * p.parameters:,}", p.flops_formula,
         f"{p.count * p.flops(keys):,.0f}" if p.flops_formula else "", p.state_formula,
         f"{p.count * p.state(length, b):,}" if p.state_formula else "")
        for p in found.parts
    ]  # fmt: skip
    heads = ("part", "sizes", "times", "parameters of one", "all", "FLOPs of one", "all", "state of one", "all, bytes")
    size = [
        ("weights", f"{b} N", used.weights), ("decoding state", "rows x state", used.state),
        ("logits of a step", "4 rows V", used.logits), ("in use", "", used.inference),
        ("weights, float32", "4 N", used.trained), ("gradients", "4 N", used.gradients),
        (f"optimizer, {values['optimizer']}", f"{each} N", used.optimizer),
        ("activations, blocks computed again", "", used.activations), ("training", "", used.training),
    ]  # fmt: skip
    out = [
        _html.table(f"{found.parameters:,} parameters; FLOPs of one token forward, s = {keys:,.1f} keys", heads, parts),
        _html.table(f"Bytes: {rows} x {length:,} tokens, N = {found.parameters:,}", ("", "formula", "GB"),
                    [(n, f, "no formula" if v is None else f"{v / 1e9:,.3f}") for n, f, v in size]),
    ]  # fmt: skip
    training, rule = found.flops_per_token(length), 6 * found.active
    told = Markup("<p>Training takes {:.4g} FLOPs a token, 3 times forward; the rule 6 N gives {:.1%} of it.</p>")
    out.append(told.format(training, rule / training))
    if found.kind == "encoder":
        return out
    machine = calculate.Machine(values["tflops"] * 1e12, values["bandwidth"] * 1e9, "given")
    first, following = calculate.latency(model, machine, prompt=length, rows=rows, dtype=dtype)
    lines = [
        (name, f"{step.flops:.4g}", f"{step.bytes:.4g}", f"{step.intensity:.2f}", step.bound,
         f"{1000 * step.seconds:.4g} ms")
        for name, step in (("first token", first), ("each next", following))
    ]  # fmt: skip
    balance = f"At least; in balance at {machine.flops / machine.bandwidth:.1f} FLOPs a byte"
    out.append(_html.table(balance, ("", "FLOPs", "bytes", "FLOPs a byte", "bound", "time"), lines))
    return out
