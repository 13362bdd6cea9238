"""`llmanac calculate`: memory, FLOPs, KV bytes and latency of a model from its config.json, with the formulas."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, group

if TYPE_CHECKING:
    from llmanac.guide.formulas import Costs

app = group("Memory, FLOPs, KV bytes and latency of a model from its config.json, with the formulas.")
Config = Annotated[str, typer.Argument(help="A config.json, a model's or run's folder, a .gguf file, or a recipe.")]
Length = Annotated[int, typer.Option(min=1, max=1 << 24, help="Tokens of a row.")]
Rows = Annotated[int, typer.Option(min=1, max=1 << 20, help="Rows at a time.")]
Dtype = Annotated[str, typer.Option(help="What weights and state are stored in.")]
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


@app.command("memory")
def memory_command(
    config: Config, length: Length = 2048, rows: Rows = 1, dtype: str | None = None, optimizer: str = "adamw",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Parameters part by part, and the bytes of using and of training the model.

    Args:
        dtype: What weights and state are stored in [bfloat16; a .gguf file: as it is used].
        optimizer: adamw, lion or none (plain SGD).
    """
    from llmanac.cli.tables import print_table
    from llmanac.guide import calculate
    from llmanac.guide.formulas import costs

    model = calculate.read(config)
    found, used = costs(model.spec, model.vocab_size), None
    used = calculate.bytes_of(model, length=length, rows=rows, dtype=dtype, optimizer=optimizer)
    if as_json:
        print(json.dumps({"parameters": found.parameters, "active": found.active, **asdict(used)}, indent=1))
        return
    print(_title(model, found))
    lines = [(p.name, p.where, str(p.count), p.formula, f"{p.count * p.parameters:,}") for p in found.parts]
    print_table("Parameters", ("part", "sizes", "times", "formula of one", "numbers"), lines, left=(0, 1, 3))
    packed = model.packed if dtype is None else None
    dtype = dtype or calculate.default_dtype(model)
    b = calculate.size_of(dtype)
    n = OPTIMIZER_TEXT.get(optimizer, "0")
    activations = "no formula for these blocks" if used.activations is None else _size(used.activations)
    print_table(
        f"Bytes, {rows} x {length:,} tokens, {dtype}",
        ("", "formula", "bytes"),
        [
            ("weights, packed", f"the file: {', '.join(packed.kinds)}", _size(used.packed))
            if packed
            else ("weights", f"{b} N", _size(used.weights)),
            ("decoding state", "rows x state (see kv-cache)", _size(used.state)),
            ("logits of a step", "4 rows V", _size(used.logits)),
            ("in use", "", _size(used.inference)),
            *([("with libraries", f"+ {_size(calculate.LIBRARIES)}", _size(used.peak))] if packed else []),
            ("weights, float32", "4 N", _size(used.trained)),
            ("gradients", "4 N", _size(used.gradients)),
            (f"optimizer, {optimizer}", f"{n} N", _size(used.optimizer)),
            ("activations, blocks recomputed", "lab/memory.py", activations),
            ("training", "", _size(used.training)),
        ],
        left=(0, 1),
    )
    print(f"Next: llmanac calculate latency {config}")


OPTIMIZER_TEXT = {"adamw": "8", "lion": "4"}


@app.command("flops")
def flops_command(config: Config, length: Length = 2048, tokens: float = 1e9, as_json: AsJson = False) -> None:
    """FLOPs of a token forward and in training, part by part, beside the rule of six a parameter.

    Args:
        tokens (from 1): Tokens of training.
    """
    from llmanac.cli.tables import print_table
    from llmanac.guide import calculate
    from llmanac.guide.formulas import costs

    model = calculate.read(config)
    found = costs(model.spec, model.vocab_size)
    each, rule = found.flops_per_token(length), 6 * found.active
    document = {"flops_per_token": each, "prompt_flops": found.prompt_flops(length), "six_n": rule}
    if as_json:
        print(json.dumps({**document, "training_flops": each * tokens}, indent=1))
        return
    keys = length if found.kind == "encoder" else (length + 1) / 2
    print(_title(model, found))
    lines = []
    for p in found.parts:
        if p.flops_formula:
            value = p.count * p.flops(length if p.stack == "encoder" else keys)
            lines.append((p.name, p.where, str(p.count), p.flops_formula, f"{value:,.0f}"))
    title = f"FLOPs of one token, forward, in a row of {length:,} (s = {keys:,.1f} keys on average)"
    print_table(title, ("part", "sizes", "times", "formula of one", "FLOPs"), lines, left=(0, 1, 3))
    print(f"training, 3 x forward: {each:.4g} a token; {each * tokens:.4g} for {tokens:.3g} tokens")
    print(f"6 x parameters that a token reads: {rule:.4g} a token, {rule / each:.1%} of it")
    print(f"a prompt of {length:,}: {document['prompt_flops']:.4g} (the head for its last token alone)")
    print(f"Next: llmanac calculate kv-cache {config} --length {length}")


@app.command("kv-cache")
def kv_cache_command(
    config: Config, length: Length = 2048, rows: Rows = 1, dtype: Dtype = "bfloat16", as_json: AsJson = False
) -> None:
    """Bytes of the KV cache, layer by layer, and what a further token adds."""
    from llmanac.cli.tables import print_table
    from llmanac.guide import calculate
    from llmanac.guide.formulas import costs

    model, b = calculate.read(config), calculate.size_of(dtype)
    found = costs(model.spec, model.vocab_size)
    one = found.state_bytes(length, b)
    more = found.state_bytes(2 * length, b) - one
    if as_json:
        print(json.dumps({"bytes": rows * one, "bytes_per_row": one, "bytes_per_token": more / length}, indent=1))
        return
    print(_title(model, found))
    lines = [
        (p.name, p.where, str(p.count), p.state_formula, _size(p.count * p.state(length, b)))
        for p in found.parts
        if p.state_formula and p.stack == "decoder"
    ]
    heads = ("part", "sizes", "times", "formula of one", "bytes of a row")
    print_table(f"State of n = {length:,} tokens in {dtype} (b = {b})", heads, lines, left=(0, 1, 3))
    print(f"{rows} rows: {_size(rows * one)}; a further token adds {_size(more / length)} a row")
    print(f"Next: llmanac calculate latency {config} --length {length}")


@app.command("latency")
def latency_command(
    config: Config, length: int = 512, rows: Rows = 1, dtype: str | None = None, tflops: float | None = None,
    bandwidth: float | None = None, measured: bool = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Time to the first token and for each further one, by the roofline.

    Args:
        length (1 to 16777216): Tokens of the prompt.
        dtype: What weights and state are stored in [float32; a .gguf file: as it is packed].
        tflops (from 1e-06): TFLOP/s of the machine [measured here].
        bandwidth (from 1e-06): GB/s of its memory [measured here].
        measured (--measure): Time it here too, on random weights.
    """
    from llmanac.cli.tables import print_table
    from llmanac.core.errors import SpecError
    from llmanac.guide import calculate
    from llmanac.guide.formulas import costs

    if (tflops is None) != (bandwidth is None):
        raise SpecError("--tflops, --bandwidth: give both, or neither to have this machine measured")
    if measured and tflops is not None:
        raise SpecError("--measure: times this machine; leave out --tflops and --bandwidth")
    model = calculate.read(config)
    packed = model.packed if dtype is None else None
    dtype = dtype or "float32"
    if tflops is None or bandwidth is None:
        machine = calculate.this_machine(dtype)
    else:
        machine = calculate.Machine(tflops * 1e12, bandwidth * 1e9, "given")
    steps = calculate.latency(model, machine, prompt=length, rows=rows, dtype=None if packed else dtype)
    times = calculate.measure(model, prompt=length, rows=rows, dtype=dtype) if measured else None
    if as_json:
        document: dict[str, Any] = {"machine": asdict(machine), "first": asdict(steps[0]), "next": asdict(steps[1])}
        print(json.dumps({**document, "measured": times}, indent=1))
        return
    print(_title(model, costs(model.spec, model.vocab_size)))
    rate, read = machine.flops, machine.bandwidth
    balance = f"in balance at {rate / read:.1f} FLOPs a byte"
    print(f"machine, {machine.source}: {rate / 1e9:,.1f} GFLOP/s, {read / 1e9:,.1f} GB/s; {balance}")
    lines = []
    for at, (name, step) in enumerate(zip(("first", "each next"), steps, strict=True)):
        row = [name, f"{step.flops:.4g}", _size(step.bytes), f"{step.intensity:.2f}", step.bound, _time(step.seconds)]
        if times is not None:
            row += [_time(times[at]), f"{times[at] / step.seconds:.2f}"]
        lines.append(row)
    heads = ["token", "FLOPs", "bytes", "FLOPs/byte", "bound", "at least"]
    more = ["measured", "ratio"] if times is not None else []
    stored = f"weights as in the file ({_size(packed.bytes)}: {', '.join(packed.kinds)})" if packed else dtype
    title = f"t = max(FLOPs / rate, bytes / bandwidth), {rows} x {length:,} tokens, {stored}"
    print_table(title, heads + more, lines, left=(0, 4))
    print(f"tokens a second, at most: {rows / steps[1].seconds:,.1f}")
    print(f"Next: llmanac calculate memory {config} --rows {rows}")


def _title(model: Any, found: Costs) -> str:
    active = f", {found.active:,} read by a token" if any(p.experts for p in found.parts) else ""
    return f"{model.path} ({model.family}): {found.parameters:,} parameters{active}"


def _size(value: float) -> str:
    power = 0
    while value >= 1000 and power < len(UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:,.0f} B" if power == 0 else f"{value:,.2f} {UNITS[power]}"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
