"""Training against plain `transformers` loops of the same shape: speed, memory, and fraction of this machine's peak.

Each loop lives in a process of its own and takes a step when its turn comes, so that all see the same machine, each has
the memory allocator that its users would have (ours tunes it, see `train/_signals.py`; the figures with the same tuning
for the peer are in `more`), and memory can be measured for each. A Llama shape of 5.8M parameters, 2048 tokens a step,
AdamW, clipping, one thread; a step's time is the CPU time of its process. Ours is what `llmanac run` would do here:
precision (but in `train-fp32`, which is float32 on both sides) and attention form are chosen by the same measurement.
With LLMANAC_BENCH_QUICK=1 three rounds and one process: a look, not a figure. What torch compiled is kept in a folder
of the user's, so that rows with a compiled loop are slow the first time only (a minute each on one quiet core).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer
from _workers import answer, begin_memory, loops, middles, turns
from _workers import memory as peaks

DIM, LAYERS, HEADS, WIDTH, LENGTH, ROWS = 256, 6, 4, 688, 256, 8
TOKENS = LENGTH * ROWS
QUICK = bool(os.environ.get("LLMANAC_BENCH_QUICK"))
ROUNDS, PROCESSES = (3, 1) if QUICK else (9, 5)
THREADS = int(os.environ.get("LLMANAC_BENCH_THREADS", "1"))

bench = Benchmark("training", "Training a small Llama against transformers loops of the same shape.")


# --- the loops, each in its own process ---------------------------------------------------------------------------


def ours(compiled: bool, vocab: int, dtype: str) -> tuple[Callable[[], Any], dict[str, Any]]:
    """Our step as the training loop makes it, planned by measuring; its precision too, if `dtype` is "auto"."""
    import numpy as np

    from llmanac.core import registry, spec
    from llmanac.core.device import resolve_dtype
    from llmanac.data.pack import ListStream
    from llmanac.models.compiling import compile_model
    from llmanac.train import TrainSpec
    from llmanac.train._signals import keep_freed_memory
    from llmanac.train.plan import plan, set_attention
    from llmanac.train.step import Stepper

    keep_freed_memory()
    mixer, ffn = {"name": "multi-head", "heads": HEADS}, {"name": "swiglu", "width": WIDTH}
    block = spec.make_method("block", {"name": "pre-norm", "mixer": mixer, "ffn": ffn})
    shape = {"dim": DIM, "layers": LAYERS, "blocks": (block,), "max_length": LENGTH, "vocab_size": vocab}
    model = registry.build("lm", "transformer", **shape).train()
    rows = list(np.random.default_rng(0).integers(0, vocab, (4 * ROWS, LENGTH + 1)))
    source, objective = ListStream(rows, rows=ROWS), registry.build("objective", "autoregressive")
    how = {"compile": "always" if compiled else "never", "dtype": dtype}
    asked = TrainSpec(steps=1000, batch_tokens=TOKENS, length=LENGTH, **how)
    with tempfile.TemporaryDirectory() as folder:
        made = plan(model, source, objective, asked).spec
        set_attention(model, made.attention)
        if compiled:
            compile_model(model)
        stepper = Stepper(
            model, objective, made.optimizer.build(model=model), micro_batch=made.micro_batch or ROWS, clip=made.clip,
            dtype=resolve_dtype(made.dtype), folder=Path(folder), threads=1 if compiled else THREADS,
        )  # fmt: skip
    about = {"dtype": made.dtype, "attention": made.attention, "flops": model.flops_per_token(LENGTH) * TOKENS}
    return lambda: stepper(next(source), 1.0, 0), about


def theirs(precision: str, compiled: bool, vocab: int) -> tuple[Callable[[], Any], dict[str, Any]]:
    """The loop that a transformers user writes: fused AdamW, clipping, autocast where it is bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab, hidden_size=DIM, intermediate_size=WIDTH, num_hidden_layers=LAYERS, use_cache=False,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=LENGTH, tie_word_embeddings=True,
        attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    forward = torch.compile(model) if compiled else model
    ids = torch.randint(0, vocab, (ROWS, LENGTH))

    def step() -> None:
        short = precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16) if short else contextlib.nullcontext():
            loss = forward(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, {}


def worker(name: str, vocab: int) -> None:
    """Build a loop, then answer each line of standard input with one line of JSON."""
    import torch

    torch.set_num_threads(THREADS)
    owner, *words = name.split("-")
    # What a loop needs is imported before memory is first read: imports are not the loop's.
    needs = ["transformers.models.llama.modeling_llama"]
    if owner == "ours":
        needs = ["llmanac.models.lm.transformer", "llmanac.train.loop", "llmanac.train.optimizers._adamw_kernel"]
    for module in needs:
        importlib.import_module(module)
    if "kept" in words:
        from llmanac.train._signals import keep_freed_memory

        keep_freed_memory()
    before = begin_memory()
    compiled = "compiled" in words
    dtype = "float32" if "float32" in words else "auto"
    step, about = ours(compiled, vocab, dtype) if owner == "ours" else theirs(words[0], compiled, vocab)

    def more(what: str) -> dict[str, Any]:
        from llmanac.core.device import measure_gemm, resolve_dtype

        clock = time.process_time if THREADS == 1 else time.perf_counter
        if what == "shapes":
            return {"rate": shape_rate(resolve_dtype(about["dtype"]), vocab, clock)}
        return {"rate": measure_gemm(resolve_dtype(about["dtype"]), clock=clock)} if what == "gemm" else {}

    answer(step, about, before, more)


def shape_rate(dtype: Any, vocab: int, clock: Callable[[], float]) -> float:
    """FLOP/s of all products of a step, forward and twice backward, each timed alone: its median of a few calls."""
    import torch

    heads = (ROWS * HEADS, LENGTH, DIM // HEADS)
    linear = {(DIM, DIM): 4 * LAYERS, (DIM, WIDTH): 2 * LAYERS, (WIDTH, DIM): LAYERS, (DIM, vocab): 1}
    products = []  # (left, right, how many a step)
    for (inputs, outputs), count in linear.items():
        x, w, y = torch.randn(TOKENS, inputs), torch.randn(outputs, inputs), torch.randn(TOKENS, outputs)
        products += [(x, w.T, count), (y, w, count), (y.T, x, count)]
    q, p = torch.randn(heads), torch.randn(heads[0], LENGTH, LENGTH)
    products += [(q, q.mT, 2 * LAYERS), (p, q, 2 * LAYERS), (p.mT, q, 2 * LAYERS)]
    flops = taken = 0.0
    for left, right, count in products:
        a, b, times = left.to(dtype), right.to(dtype), []
        for _ in range(7):
            start = clock()
            a @ b
            times.append(clock() - start)
        flops += count * 2 * a.numel() * b.shape[-1]
        taken += count * statistics.median(times[1:])
    return flops / taken


def taking_turns(
    names: list[str], vocab: int = 4096, what: str = "gemm"
) -> tuple[dict[str, float], dict[str, dict[str, Any]], float]:
    """Median seconds a step of each loop over rounds in alternating order; what ours decided; the GEMM rate."""
    with loops(__file__, names, vocab) as (running, about):
        seconds = turns(running, ROUNDS, "cpu" if THREADS == 1 else "wall")
        rate = max(running[names[0]].ask(what)["rate"] for _ in range(ROUNDS))
    return seconds, about, rate


# --- the measurements ----------------------------------------------------------------------------------------------


def speed(name: str, own: str, peer: str) -> Result:
    """Tokens a second, against one peer loop."""
    module, version = find_peer("transformers")
    names = [own, *([peer, f"{peer}-kept"] if module else [])]
    seconds, about, _ = taking_turns(names)
    pair = {"ours": seconds[own]} | ({"theirs": seconds[peer]} if module else {})
    more: dict[str, Any] = {k: about[own][k] for k in ("dtype", "attention")}
    if module:
        more["ratio_with_our_allocator_for_both"] = seconds[f"{peer}-kept"] / seconds[own]
    label = f"{version} {' '.join(peer.split('-')[1:])} loop"
    return Result.rate(name, TOKENS, pair, unit="tokens/s", peer=label, threads=THREADS, **more)


bench.add("train-fp32", speed, "ours-float32", "theirs-fp32")


bench.add("train-bf16", speed, "ours", "theirs-bf16")


bench.add("train-compiled", speed, "ours-compiled", "theirs-bf16-compiled")


def equal(name: str, own: str, peer: str) -> Result:
    """Tokens a second against one peer loop that has our allocator settings too."""
    module, version = find_peer("transformers")
    names = [own, *([f"{peer}-kept"] if module else [])]
    seconds, about, _ = taking_turns(names)
    pair = {"ours": seconds[own]} | ({"theirs": seconds[names[1]]} if module else {})
    more = {k: about[own][k] for k in ("dtype", "attention")}
    label = f"{version} {' '.join(peer.split('-')[1:])} loop, the same allocator settings"
    return Result.rate(name, TOKENS, pair, unit="tokens/s", peer=label, threads=THREADS, **more)


bench.add("train-bf16-equal", equal, "ours", "theirs-bf16")


bench.add("train-compiled-equal", equal, "ours-compiled", "theirs-bf16-compiled")


def memory(name: str, vocab: int, own: str = "ours") -> Result:
    """Peak resident memory above what the imports left, against the bfloat16 loop; the median of processes, since how
    full the allocator's heap gets differs by some 3% from one to the next."""
    module, version = find_peer("transformers")
    found = peaks(__file__, [own, *(["theirs-bf16"] if module else [])], PROCESSES, vocab, steps=3)
    middle = middles(found)
    more = {"vocabulary": vocab, "processes": PROCESSES, "ours_from": min(found[own]), "ours_to": max(found[own])}
    return Result(name, "MB", middle[own], f"{version} bf16 loop", middle.get("theirs-bf16"), "lower", more)


bench.add("train-memory-4k", memory, 4096)


bench.add("train-memory-49k", memory, 49152)


# As on a machine that is no faster in bfloat16, where float32 is chosen.
bench.add("train-memory-4k-fp32", memory, 4096, "ours-float32")


bench.add("train-memory-49k-fp32", memory, 49152, "ours-float32")


@bench.measure("train-gemm")
def gemm() -> Result:
    """Our rate and the machine's in the precision that the loop chooses; in `more` also in float32, since a unit for
    bfloat16 products alone is out of reach for all that is no product of large matrices."""
    found = {}
    for dtype in ("auto", "float32"):
        names = ["ours", "ours-compiled"] if dtype == "auto" else ["ours-float32", "ours-float32-compiled"]
        seconds, about, rate = taking_turns(names)
        rates = [about[name]["flops"] / seconds[name] / 1e9 for name in names]
        found[dtype] = about[names[0]]["dtype"], rate / 1e9, *rates
    chosen, rate, eager, fast = found["auto"]
    _, plain, *plain_rates = found["float32"]
    more = {"eager": eager, "share_compiled": fast / rate, "share_eager": eager / rate, "float32_product": plain}
    more |= {f"float32_share_{how}": own / plain for how, own in zip(("eager", "compiled"), plain_rates, strict=True)}
    peer = f"this machine's {chosen} matrix product"
    return Result("train-gemm", "GFLOP/s", fast, peer, rate, "higher", {**more, "threads": THREADS})


@bench.measure("train-shapes")
def shapes() -> Result:
    """Our rate against that of the step's own products, each timed alone: what is left is all that is no product."""
    seconds, about, rate = taking_turns(["ours", "ours-compiled"], what="shapes")
    eager, fast = (about[name]["flops"] / seconds[name] / 1e9 for name in ("ours", "ours-compiled"))
    peer = f"the products of these shapes alone, {about['ours']['dtype']}"
    more = {"eager": eager, "share_compiled": fast / (rate / 1e9), "share_eager": eager / (rate / 1e9)}
    return Result("train-shapes", "GFLOP/s", fast, peer, rate / 1e9, "higher", {**more, "threads": THREADS})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]))
    else:
        bench.main()
