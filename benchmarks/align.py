"""Alignment steps against TRL: a GRPO step with its sampling, its memory, and a DPO step.

Each loop is a process that takes a step when its turn comes: a small Llama (width 256, 2 layers, 8,000 words, float32)
from one folder, the same prompts, lengths, learning rate and clipping, one thread on all sides. A GRPO step samples 8
answers of 48 tokens to each of 4 prompts, scores them, and updates once; a DPO step reads 8 pairs of 64 tokens of
prompt and 64 of answer, with a frozen copy as the reference. Time is the CPU time of the process; memory is its peak
above what its imports left.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _harness import Benchmark, Result, find_peer
from _workers import answer, begin_memory, loops, memory, middles, their_step, turns

DIM, LAYERS, HEADS, WORDS = 256, 2, 4, 8000
PROMPTS, SAMPLES, PROMPT, ANSWER = 4, 8, 16, 48
PAIRS, HALF = 8, 64
ROUNDS = int(os.environ.get("LLMANAC_BENCH_ROUNDS", "5"))
PROCESSES = int(os.environ.get("LLMANAC_BENCH_PROCESSES", "3"))

bench = Benchmark("align", "Steps of GRPO and DPO against TRL.")
Step = Callable[[], Any]


def texts(count: int, length: int, seed: int) -> list[str]:
    import numpy as np

    draws = np.random.default_rng(seed).integers(0, WORDS - 3, (count, length)).tolist()
    return [" ".join(f"w{i}" for i in row) for row in draws]


def pairs() -> list[dict[str, str]]:
    columns = [texts(PAIRS, HALF, seed) for seed in range(3)]
    names = ("prompt", "chosen", "rejected")
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def make_folder() -> str:
    """The model and its tokenizer, in Hugging Face's layout."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    folder = tempfile.mkdtemp()
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{f"w{i}": i + 3 for i in range(WORDS - 3)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=DIM, intermediate_size=2 * DIM, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=256, pad_token_id=0,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def even(text: str) -> float:
    """The reward: the share of even words."""
    said = text.split()
    return sum(word[-1] in "02468" for word in said) / max(1, len(said))


def stepper(model: Any, objective: Any, rows: int) -> Any:
    import torch

    from llmanac.core.spec import make_method
    from llmanac.train._signals import keep_freed_memory
    from llmanac.train.step import Stepper

    keep_freed_memory()
    optimizer = make_method("optimizer", {"name": "adamw", "lr": 1e-4, "weight_decay": 0.0})
    return Stepper(
        model.train(), objective, optimizer.build(model=model), micro_batch=rows, clip=1.0, dtype=torch.float32,
        folder=Path(tempfile.gettempdir()),
    )  # fmt: skip


def our_grpo(folder: str) -> Step:
    from llmanac.core.spec import make_method
    from llmanac.generate.engine import Engine
    from llmanac.models.load import load_model
    from llmanac.rewards import each
    from llmanac.tokenizers.load import load_tokenizer
    from llmanac.train.rollouts import RolloutPrompt, Rollouts, Sampling

    model: Any = load_model(folder)
    tokenizer = load_tokenizer(folder)
    objective = make_method("objective", "grpo").build()
    prompts = [RolloutPrompt(ids=tuple(tokenizer.encode(t)), text=t, row={}) for t in texts(PROMPTS, PROMPT, 0)]
    sampling = Sampling(prompts=PROMPTS, samples=SAMPLES, tokens=ANSWER)
    engine = Engine(model, tokenizer, rows=PROMPTS * SAMPLES, runner="native")
    reward = each(lambda sample: even(sample.text))
    source = Rollouts(prompts, engine, objective, reward, sampling, seed=0)
    made = stepper(model, objective, PROMPTS * SAMPLES)
    return lambda: made(next(source), 1.0, 0)


def our_dpo(folder: str) -> Step:
    from llmanac.core.spec import make_method
    from llmanac.models.load import load_model
    from llmanac.tokenizers.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    model, frozen = load_model(folder), load_model(folder).requires_grad_(False)
    objective = make_method("objective", "dpo").build(tokenizer=tokenizer, models={"reference": frozen})
    rows = [objective.encode(row) for row in pairs()]
    made = stepper(model, objective, PAIRS)
    return lambda: made(rows, 1.0, 0)


def shared(count: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": count, "report_to": "none", "use_cpu": True,
        "bf16": False, "gradient_checkpointing": False, "optim": "adamw_torch_fused", "learning_rate": 1e-4,
        "weight_decay": 0.0, "disable_tqdm": True, "save_strategy": "no", "model_init_kwargs": {"dtype": "float32"},
    }  # fmt: skip


def trl_grpo(folder: str) -> Step:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from llmanac.train._signals import keep_freed_memory

    keep_freed_memory()

    def score(completions: list[str], **_: Any) -> list[float | None]:
        return [even(text) for text in completions]

    trainer = GRPOTrainer(
        model=folder, reward_funcs=score,
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts(PROMPTS, PROMPT, 0)]),
        args=GRPOConfig(
            num_generations=SAMPLES, max_completion_length=ANSWER, beta=0.0, loss_type="grpo",
            **shared(PROMPTS * SAMPLES),
        ),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    return their_step(trainer, lambda: batch)


def trl_dpo(folder: str) -> Step:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from llmanac.train._signals import keep_freed_memory

    keep_freed_memory()
    trainer = DPOTrainer(
        model=folder, train_dataset=Dataset.from_list([{k: f" {v}" for k, v in row.items()} for row in pairs()]),
        args=DPOConfig(**shared(PAIRS)),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    return their_step(trainer, lambda: dict(batch))


def worker(name: str, folder: str) -> None:
    """One loop."""
    import torch

    torch.set_num_threads(1)
    own = ["llmanac.models.lm.transformer", "llmanac.train.loop", "llmanac.train.rollouts"]
    theirs = ["trl.trainer.grpo_trainer", "trl.trainer.dpo_trainer", "datasets"]
    for module in own if name.startswith("ours") else theirs:
        importlib.import_module(module)
    before = begin_memory()
    made = {"ours-grpo": our_grpo, "ours-dpo": our_dpo, "trl-grpo": trl_grpo, "trl-dpo": trl_dpo}[name](folder)
    answer(made, {}, before)


def speed(name: str, kind: str, tokens: int) -> Result:
    module, peer = find_peer("trl")
    names = [f"ours-{kind}", *([f"trl-{kind}"] if module else [])]
    with loops(__file__, names, make_folder()) as (running, _):
        seconds = turns(running, ROUNDS)
    pair = {("ours" if key.startswith("ours") else "theirs"): value for key, value in seconds.items()}
    return Result.rate(
        name, tokens, pair, unit="tokens/s", peer=f"{peer} {kind.upper()}Trainer", load=os.getloadavg()[0]
    )


# Sampling, scoring and one update; tokens are those of prompts and answers.
bench.add("grpo-step", speed, "grpo", PROMPTS * SAMPLES * (PROMPT + ANSWER))


bench.add("dpo-step", speed, "dpo", PAIRS * 2 * 2 * HALF)


@bench.measure("grpo-memory")
def grpo_memory() -> Result:
    module, peer = find_peer("trl")
    middle = middles(memory(__file__, ["ours-grpo", *(["trl-grpo"] if module else [])], PROCESSES, make_folder()))
    more = {"load": os.getloadavg()[0]}
    return Result(
        "grpo-memory", "MB", middle["ours-grpo"], f"{peer} GRPOTrainer", middle.get("trl-grpo"), "lower", more
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3])
    else:
        bench.main()
