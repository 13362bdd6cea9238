"""LoRA on a pretrained model: SmolLM2-135M-Instruct learns to answer with a line of the documentation.

A row is a passage of the documentation of Python and a question, and the answer is the sentence of the passage that
answers, word for word: questions that the documentation yields by itself (`llmanac.retrieve.folder.questions`). Modules
are divided, so that no held-out question is about a module that was trained on.
The system message asks for a line of the text, word for word, before and after alike.

`llmanac.recipes.tune` trains rank {rank} on all linear maps of the Q4_1 file, once over {trained:,} rows ({tokens:,}
tokens, {steps} steps). The adapter is merged and exported as Q8_0. Both files are answered from by the native runner:
greedy, at most {most} tokens, the first line counts. All of it takes {cpu:.0f} CPU seconds, of which {answering:.0f}
are the answers: {minutes:.1f} minutes of two cores, computed: the machine had much other load, and time by the clock
means nothing.

One model, one seed, one kind of question, short passages (at most {characters} characters). The passage with the answer
is given, so retrieval is not measured. Most of the gain is the form of the answer: without the adapter the model
answers in words of its own. Training rows (240, 160, then {trained}) and the length of answers were cut for time before
a full result of version 1 was seen. Questions are made from the text that answers them, with letters swapped and words
left out, so they are easier than those that people ask.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from evidence._pretrained import needed
from llmanac.apps.docs_assistant.collect import collect
from llmanac.core.pages import Section, table
from llmanac.core.spec import make, make_method
from llmanac.data.split import fraction
from llmanac.generate.load import load_engine
from llmanac.lab.stats import interval, mean
from llmanac.metrics.answers import exact_match, f1
from llmanac.models.gguf.write import export_gguf
from llmanac.recipes.merge import merge
from llmanac.recipes.tune import TuneSpec, tune
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.questions import questions_of
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("finetune/lora",)
CLAIM = (
    "a LoRA of SmolLM2-135M-Instruct, tuned within ten minutes on two cores, answers held-out questions word for word "
    "where the model without it does not"
)
SEEDS = 1
VERSION = 2  # other questions: those that the documentation yields by itself
TIMED = ("cost",)
TOLERANCE = 1e-2

RANK, MOST_TOKENS, CHARACTERS = 8, 24, 160
SIZES = {"full": (120, 300), "small": (24, 8)}  # training rows, held-out questions
SYSTEM = "Answer with one line of the text, word for word."
LONGEST = 60  # characters of an answer: they fit MOST_TOKENS
CHECKED = 6  # questions that are also answered with the adapter attached, in torch
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
Row = dict[str, Any]


def documentation(train: int, held_out: int, seed: int) -> tuple[list[Row], list[Row]]:
    """Rows of training modules, and of other modules."""
    with tempfile.TemporaryDirectory() as folder:
        index = FolderIndex.update(collect(make_method("source", "python-docs"), folder))
        sides: tuple[list[int], list[int]] = ([], [])
        for passage in index.passages():
            if len(passage.text) <= CHARACTERS:
                sides[fraction(passage.document, seed=seed) < 0.25].append(passage.number)

        def some(side: int, count: int) -> list[Row]:
            asked = questions_of(index, 20 * count, seed, sides[side])
            good = [one for one in asked if one.sort != "removed" and len(one.gold) <= LONGEST]
            return [row(one.passage.text, one.text, one.gold) for one in good[:count]]

        return some(0, train), some(1, held_out)


def row(text: str, question: str, answer: str) -> Row:
    """A row of `llmanac tune`."""
    said = (("system", SYSTEM), ("user", f"{text}\n\n{question}"), ("assistant", answer))
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def small_model(place: Path) -> tuple[list[Row], list[Row]]:
    """A random model in a folder, and rows for it."""
    made = (row(f"f({n})\nReturn {n % 5}.", f"What does f return for {n}?", f"Return {n % 5}.") for n in range(99))
    rows = list(made)
    tokenizer = train_tokenizer("bpe", [json.dumps(rows)], vocab_size=300, special_tokens=SPECIAL)
    shape = {"name": "transformer", "dim": 32, "layers": 1, "max_length": 256}
    model: Any = make_method("lm", shape).build(vocab_size=tokenizer.vocab_size)
    model.generation = {"eos_token_id": tokenizer.special_tokens["<|im_end|>"]}
    model.save_pretrained(place)
    tokenizer.save(place)
    train, held_out = SIZES["small"]
    return rows[:train], rows[-held_out:]


def answers(path: Path, rows: Sequence[Row], runner: str = "auto") -> list[str]:
    """The first line of each greedy answer of the model at a path."""
    engine: Any = load_engine(path, device="cpu", runner=runner)
    asked = [engine.tokenizer.encode_chat(r["messages"][:-1], add_generation_prompt=True)[0] for r in rows]
    found = engine.generate(asked, max_new_tokens=MOST_TOKENS, temperature=0.0)
    return [one.text.strip().partition("\n")[0] for one in found]


def _begun(pool: ProcessPoolExecutor | None, path: Path, rows: Sequence[Row]) -> list[Any]:
    """The answers of two halves, while they are computed in processes; without any, the answers."""
    half = len(rows) // 2
    parts = (rows[:half], rows[half:])
    return [answers(path, part) if pool is None else pool.submit(timed, path, part) for part in parts]


def _done(parts: Sequence[Any]) -> list[str]:
    out: list[str] = []
    for part in parts:
        found, spent = part.result() if isinstance(part, Future) else (part, 0.0)
        SPENT.append(spent)
        out += found
    return out


SPENT: list[float] = []  # CPU seconds of the processes


def timed(path: Path, rows: Sequence[Row]) -> tuple[list[str], float]:
    """`answers` in a process of its own, with its CPU seconds."""
    begin = time.process_time()
    return answers(path, rows), time.process_time() - begin


def measure(seed: int, size: str) -> dict[str, Any]:
    """Answers before and after a tuning, from the files as a user serves them."""
    SPENT.clear()
    spent = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if size == "full":
            model = needed()
            train, held_out = documentation(*SIZES["full"], seed)
        else:
            model = place / "model"
            train, held_out = small_model(model)
        (place / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in train))
        pool = ProcessPoolExecutor(2, get_context("spawn"))  # one for each core
        before = _begun(pool if size == "full" else None, model, held_out)
        tuned = place / "tuned"
        fields = {"steps": 6, "batch_tokens": 256, "dtype": "float32"} if size == "small" else {"batch_tokens": 1024}
        train_fields = {
            **fields,
            "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},
            "compile": "never",
            "attention": "sdpa",
        }
        asked = make(TuneSpec, {
            "model": str(model), "rows": {"file": str(place / "rows.jsonl"), "held_out": 0.0, "length": 256},
            "adapter": {"name": "lora", "rank": RANK}, "train": train_fields, "seed": seed,
        })  # fmt: skip
        done = tune(asked, tuned, device="cpu")
        merge(tuned, place / "merged")
        exported = place / "merged"
        if size == "full":
            engine: Any = load_engine(exported, dtype="float32", device="cpu")
            exported = export_gguf(engine.model, engine.tokenizer, place / "tuned.gguf", "q8_0")
            del engine
        after = _done(_begun(pool if size == "full" else None, exported, held_out))
        attached = answers(tuned, held_out[:CHECKED], "torch")
        before = _done(before)
        pool.shutdown()
        right = [r["messages"][-1]["content"] for r in held_out]
        return {
            "before": [float(exact_match(a, b)) for a, b in zip(before, right, strict=True)],
            "after": [float(exact_match(a, b)) for a, b in zip(after, right, strict=True)],
            "f1": [mean([f1(a, b) for a, b in zip(found, right, strict=True)]) for found in (before, after)],
            "agree": sum(a == b for a, b in zip(attached, after, strict=False)),
            "rows": len(train), "tokens": done.training.tokens, "steps": done.training.steps,
            "trained": done.trained, "total": done.total,
            "examples": [list(e) for e in zip((r["messages"][1]["content"] for r in held_out), before, after, right,
                                              strict=True)][:4],
            "cost": {"cpu": time.process_time() - spent + sum(SPENT), "answering": sum(SPENT)},
        }  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    (result,) = seeds
    before, after = result["before"], result["after"]
    gain = [b - a for a, b in zip(before, after, strict=True)]
    rows = [
        [name, f"{mean(values):.3f}", "{:.3f} to {:.3f}".format(*interval(values)), f"{score:.3f}"]
        for name, values, score in (("without the adapter", before, result["f1"][0]), ("tuned", after, result["f1"][1]))
    ]
    rows.append(["difference, paired", f"{mean(gain):+.3f}", "{:+.3f} to {:+.3f}".format(*interval(gain)), ""])
    shown = table(["", "exact match", "95% interval", "F1"], rows)
    said = [" ".join(part.split()) for one in result["examples"] for part in one]
    examples = [said[at : at + 4] for at in range(0, len(said), 4)]
    return [
        Section(f"{len(before)} held-out questions", tables=[shown]),
        Section("Examples", tables=[table(["text and question", "before", "after", "right"], examples)]),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (result,) = seeds
    return {
        **result["cost"], "minutes": result["cost"]["cpu"] / 120, "rank": RANK, "most": MOST_TOKENS,
        "characters": CHARACTERS, "trained": result["rows"], "tokens": result["tokens"], "steps": result["steps"],
    }  # fmt: skip
