"""Distillation at four levels against training on the data alone, at equal tokens and at equal FLOPs.

A row asks for the value of three symbols under an operation given by a table of {symbols} x {symbols}, and its answer
works it out: each intermediate result, a filler word that is drawn by it, and at the end the result. The teacher
({teacher_parameters:,} parameters) has read {teacher_rows:,} rows; it is right in {teacher:.0%} (greedy), and in
{sampled:.0%} of its samples. The student ({parameters:,} parameters) has {rows} rows, its own or the teacher's
answers to the same prompts:

- data: the rows alone.
- token: the same rows; the teacher's distribution in the place of each token.
- feature: the same rows; the tokens, and the teacher's last hidden states through a trained map, half each.
- sequence: {samples} samples of the teacher a prompt.
- response: those samples whose result is right.

Equal tokens is {steps} steps of {batch} rows for all. At equal FLOPs the teacher's are taken from that budget: its
forward passes on every row of every step (token, feature), or its sampling, once (sequence, response). Its own
training is not counted. The step is the best one on {validation} other rows. Right is the result that greedy decoding
ends with.

Limits: one task, one ratio of sizes, one learning rate for all ({lr}); keeping the teacher's distributions of {rows}
rows instead of computing them each step would make the token level cheaper. {seeds} seeds draw table, rows and
models. The table and the models were made smaller after pilots on seed 0, so seed 0 is no independent test.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evidence._page import with_interval
from evidence._synthetic import average, fit, over, percent
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.generate.engine import Engine
from llmanac.lab.stats import mean
from llmanac.recipes.distill import write_teacher_rows

ROWS = ("distill/token", "distill/sequence", "distill/feature", "distill/response")
CLAIM = (
    "the token level teaches most for each token and needs the teacher at every step; the sequence level is "
    "simpler and "
    "has less detail; features are a rich signal; the response level a coarse one that is only of right answers"
)
SEEDS = 3
TOLERANCE = 0.05  # float32 training; an answer more or less

SYMBOLS, FILLERS, SAMPLES = 8, 8, 4
SIZES: dict[str, dict[str, int]] = {
    "full": {"teacher": 96, "student": 32, "teacher_steps": 500, "steps": 200, "every": 40, "batch": 16, "rows": 160,
             "validation": 96, "test": 200},
    "small": {"teacher": 24, "student": 16, "teacher_steps": 3, "steps": 3, "every": 3, "batch": 4, "rows": 8,
              "validation": 8, "test": 8},
}  # fmt: skip
TEACHER_LR, LR, SCHEDULE = 3e-3, 4e-3, {"name": "cosine", "warmup": 0.05}
LEVELS: dict[str, Any] = {
    "data": "instruction", "token": "token-distillation",
    "feature": {"name": "feature-distillation", "layers": ("last",), "share": 0.5},
    "sequence": "instruction", "response": "instruction",
}  # fmt: skip


class Task:
    """The operation and the fillers of a seed."""

    def __init__(self, seed: int) -> None:
        rng = numpy_generator(seed, "task")
        self.operation = rng.integers(SYMBOLS, size=(SYMBOLS, SYMBOLS))
        self.fillers = rng.dirichlet(np.full(FILLERS, 0.5), SYMBOLS)

    def rows(self, rng: np.random.Generator, count: int) -> list[dict[str, str]]:
        """Rows of instruction tuning."""
        found = []
        for a, b, c in rng.integers(SYMBOLS, size=(count, 3)):
            first = self.operation[a, b]
            last = self.operation[first, c]
            said = [f"{value} w{rng.choice(FILLERS, p=self.fillers[value])}" for value in (first, last)]
            found.append({"prompt": f"{a} {b} {c} =", "completion": f" {' '.join(said)} : {last}"})
        return found


def result(text: str) -> str:
    """What an answer ends with."""
    return text.rpartition(":")[2].strip()


def same_result(text: str, own: str) -> bool:
    """Whether two answers have one result."""
    return ":" in text and result(text) == result(own)


def right(model: Any, tokenizer: Any, rows: Sequence[dict[str, str]], **options: Any) -> float:
    """How often a model's answer ends with the right result."""
    found = Engine(model, tokenizer).generate([row["prompt"] for row in rows], max_new_tokens=8, **options)
    return mean([float(same_result(one.text, row["completion"])) for one, row in zip(found, rows, strict=True)])


@torch.no_grad()
def loss(model: Any, objective: Any, rows: Sequence[dict[str, str]]) -> float:
    """Nats a token of the rows' own answers."""
    batch = objective.collate(rows)
    return float(model.nll(batch)) / batch.units


def tokenizer_of() -> Any:
    """Of the words of the task."""
    words = " ".join([*map(str, range(SYMBOLS)), *(f"w{i}" for i in range(FILLERS)), "= :"])
    spec = {"name": "word", "pattern": "whitespace-split", "special_tokens": ("[UNK]", "<|end|>"), "eos": "<|end|>"}
    return make_method("tokenizer", spec).train([words])


def model_of(dim: int, layers: int, vocab_size: int, seed: int) -> Any:
    spec = {"name": "transformer", "dim": dim, "layers": layers, "max_length": 32}
    return make_method("lm", spec).build(vocab_size=vocab_size).initialise(seed)


def train(model: Any, objective: Any, rows: Sequence[Any], steps: int, seed: int, sizes: dict[str, int],
          validation: Any = None) -> dict[str, float]:  # fmt: skip
    """On rows in batches drawn with repetition; left with the weights of the step that is best on validation rows."""
    encoded, batch, best = list(objective.encode_all(rows)), sizes["batch"], (float("inf"), 0, {})
    plain = make_method("objective", "instruction").build(tokenizer=objective.reader.tokenizer)

    def chosen(rng: np.random.Generator) -> tuple[Any, ...]:
        return tuple(zip(*(encoded[i] for i in rng.integers(len(encoded), size=batch)), strict=True))

    def look(step: int) -> None:
        nonlocal best
        if (now := loss(model, plain, validation)) < best[0]:
            best = now, step, copy.deepcopy(model.state_dict())

    every = min(sizes["every"], steps)
    fit(model, chosen, steps, lr=LR if validation else TEACHER_LR, schedule=SCHEDULE, seed=seed, objective=objective,
        every=every, look=look if validation else None)  # fmt: skip
    if validation:
        model.load_state_dict(best[2])
    return {"validation": best[0], "step": best[1], "steps": steps}


def teacher_answers(teacher: Any, tokenizer: Any, rows: Sequence[Any], seed: int, verify: Any) -> tuple[list[Any], Any]:
    """The rows that `llmanac distill` would tune on, and its counts."""
    with tempfile.TemporaryDirectory() as name:
        data, target = Path(name) / "rows.jsonl", Path(name) / "teacher.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        counts = write_teacher_rows(Engine(teacher, tokenizer), data, target, samples=SAMPLES, verify=verify,
                                    temperature=1.0, max_new_tokens=8, seed=seed)  # fmt: skip
        lines = target.read_text("utf-8").splitlines()
    written = [row for line in lines for row in json.loads(line)["rows"]]
    return [{**row, "completion": f" {row['completion']}"} for row in written], dict(counts)


def taught(seed: int, sizes: dict[str, int]) -> tuple[Any, Any, Any, list[list[dict[str, str]]]]:
    """The tokenizer, the plain objective, a trained teacher; rows to train on, to choose the step by, and to test."""
    task, tokenizer = Task(seed), tokenizer_of()
    plain = make_method("objective", "instruction").build(tokenizer=tokenizer)
    rng = numpy_generator(seed, "rows")
    rows = [task.rows(rng, sizes[name]) for name in ("rows", "validation", "test")]
    teacher = model_of(sizes["teacher"], 2, tokenizer.vocab_size, seed)
    many = task.rows(numpy_generator(seed, "teacher's rows"), sizes["batch"] * sizes["teacher_steps"])
    train(teacher, plain, many, sizes["teacher_steps"], seed, sizes)
    return tokenizer, plain, teacher, rows


def measure(seed: int, size: str) -> dict[str, Any]:
    """The teacher, and each level at both budgets."""
    sizes = SIZES[size]
    tokenizer, plain, teacher, (rows, validation, test) = taught(seed, sizes)
    found: dict[str, Any] = {
        "teacher": {"parameters": teacher.parameter_count(), "right": right(teacher, tokenizer, test),
                    "sampled": right(teacher, tokenizer, test, temperature=1.0, seed=seed),
                    "loss": loss(teacher, plain, test)},
        "parameters": model_of(sizes["student"], 2, tokenizer.vocab_size, seed).parameter_count(),
    }  # fmt: skip
    texts: dict[str, list[Any]] = {"data": rows, "token": rows, "feature": rows}
    for level, verify in (("sequence", None), ("response", same_result if size == "full" else None)):
        texts[level], found[f"{level} counts"] = teacher_answers(teacher, tokenizer, rows, seed, verify)
    length = len(next(iter(plain.encode_all(rows[:1])))[0]) - 1
    own = model_of(sizes["student"], 2, tokenizer.vocab_size, seed).flops_per_token(length) * length * sizes["batch"]
    forward = teacher.forward_flops((length + 1) / 2) * length
    budget = own * sizes["steps"]
    every_step, once_only = forward * sizes["batch"], forward * sizes["rows"] * SAMPLES
    steps = {"data": sizes["steps"], **dict.fromkeys(("token", "feature"), int(budget // (own + every_step))),
             **dict.fromkeys(("sequence", "response"), int((budget - once_only) // own))}  # fmt: skip
    found["flops"] = {"step": own, "teacher a step": every_step, "teacher's samples": once_only}
    for name in ("equal tokens", "equal FLOPs"):
        found[name] = {}
        for level, objective in LEVELS.items():
            count = sizes["steps"] if name == "equal tokens" else max(1, steps[level])
            if name == "equal FLOPs" and level == "data":
                found[name][level] = found["equal tokens"][level]
                continue

            def run(level: str = level, objective: Any = objective, count: int = count) -> dict[str, float]:
                student = model_of(sizes["student"], 2, tokenizer.vocab_size, seed)
                built = make_method("objective", objective).build(tokenizer=tokenizer, models={"teacher": teacher},
                                                                  student=student)  # fmt: skip
                done = train(student, built, texts[level], count, seed, sizes, validation)
                return {**done, "right": right(student, tokenizer, test), "loss": loss(student, plain, test)}

            found[name][level] = run()
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    parts = []
    for budget in ("equal tokens", "equal FLOPs"):
        rows = [[level, f"{average(seeds, budget, level, 'steps'):.0f}", f"{average(seeds, budget, level, 'step'):.0f}",
                 with_interval(over(seeds, budget, level, "loss")), percent(over(seeds, budget, level, "right"))]
                for level in LEVELS]  # fmt: skip
        head = ["", "steps", "best step", "nats a token, new rows", "percent right"]
        parts.append(Section(f"At {budget}", [], [table(head, rows)]))
    kinds = ("prompts", "written", "wrong", "repeated", "cut off or empty")
    counts = [
        [level, *(f"{mean([one[f'{level} counts'].get(kind, 0) for one in seeds]):.0f}" for kind in kinds)]
        for level in ("sequence", "response")
    ]
    head = ["answers of the teacher", "prompts", "rows", "wrong", "repeated", "cut off or empty"]
    return [*parts, Section("The teacher's text", [], [table(head, counts)])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    sizes, first = SIZES["full"], seeds[0]
    return {
        "symbols": SYMBOLS, "teacher_parameters": first["teacher"]["parameters"], "parameters": first["parameters"],
        "teacher_rows": sizes["batch"] * sizes["teacher_steps"], "teacher": average(seeds, "teacher", "right"),
        "sampled": average(seeds, "teacher", "sampled"), "rows": sizes["rows"], "samples": SAMPLES,
        "steps": sizes["steps"], "batch": sizes["batch"], "validation": sizes["validation"], "lr": LR,
        "seeds": len(seeds),
    }  # fmt: skip
