"""Instruction tuning by number of tasks, and chat tuning with another template than the one trained with.

A word such as "{first}" stands for a change of one letter into another ({words} words, {letters} letters, drawn at
random). The base model ({parameters:,} parameters, two blocks of width {dim}) has read {base} steps of text in which
each word is shown alone, in two plain forms:

    {first} c g .
    User says {first} c . Assistant says g .

A task is an instruction of two words, such as "first {first} then {second}", and a letter; the answer is both letters
that follow, one after the other. The base is tuned on some of {all} tasks for {steps} steps of {rows} rows, with the
loss on the answers alone, and tested on all letters: on tasks that it was tuned on, on {unseen} other pairs of the
same words, and on pairs that begin with "{word}", which it knows from the base's text alone. Right is an answer that
is right to its end; guessing is right in {chance:.1%}.

In a chat the user says one word a turn, which applies to the assistant's last answer. Tuning (loss on the assistant's
turns) uses control tokens as turn marks; tested are these, and the two plain forms of the base's text as templates.

Limits: a small model and one kind of task; the history of a chat is the right one. {seeds} seeds draw model, words,
tasks and rows. This is not the first design: tasks were replaced twice on seed 0, since the base did not learn them,
and a first run (base 500 steps, tuning 100, chat 120, three seeds) was so noisy that no claim held (held-out tasks
25 +- 57% after 16). Steps and seeds were then raised for all arms, and its three seeds are among these five, so the
verdicts are not an independent test.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import torch

from evidence._synthetic import fit, over, percent
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE
from llmanac.lab.stats import mean

ROWS = ("finetune/instruction", "finetune/chat")
CLAIM = (
    "instruction tuning generalizes to tasks that were held out; chat tuning takes several turns and depends on the "
    "format"
)
SEEDS = 5
TOLERANCE = 0.05  # float32 training; an answer more or less

LETTERS = "abcdefgh"
WORDS = ("turn", "shift", "mirror", "raise", "swap", "cross")
WORD, OTHERS = WORDS[-1], WORDS[:-1]  # one that no task that is tuned on has
TASKS = list(product(OTHERS, OTHERS))
UNSEEN = 9
COUNTS = (1, 4, 16)
TURNS, FACTS = 4, 8  # of a chat; words shown in one text of the base
SPECIAL = ("[UNK]", "<|end|>", "<|user|>", "<|assistant|>")
PLAIN = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ m.content + ' ' }}{% else %}{% generation %}"
    "{{ m.content + ' .<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}"
)
SAYS = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'User says ' + m.content + ' . Assistant says ' }}{% else %}"
    "{% generation %}{{ m.content + ' .<|end|>' }}{% endgeneration %}{% endif %}{% endfor %}"
)
TEMPLATES: dict[str, str | None] = {"control tokens": None, "User says": SAYS, "plain": PLAIN}
SIZES = {"full": {"dim": 64, "base": 2000, "tune": 300, "chat": 300, "rows": 32, "pool": 1200, "test": 192},
         "small": {"dim": 16, "base": 2, "tune": 2, "chat": 2, "rows": 4, "pool": 8, "test": 8}}  # fmt: skip
BASE_LR, LR, SCHEDULE = 3e-3, 2e-3, {"name": "cosine", "warmup": 0.05}


@cache
def changes(seed: int) -> dict[str, dict[str, str]]:
    """What each word makes of each letter: a permutation."""
    rng = numpy_generator(seed, "words")
    return {word: dict(zip(LETTERS, rng.permutation([*LETTERS]).tolist(), strict=True)) for word in WORDS}


def task_row(seed: int, task: Sequence[str], letter: str) -> dict[str, str]:
    """A row of instruction tuning."""
    middle = changes(seed)[task[0]][letter]
    answer = f" {middle} , {changes(seed)[task[1]][middle]}"
    return {"prompt": f"first {task[0]} then {task[1]} : {letter} >", "completion": answer}


def explained(seed: int, rng: np.random.Generator) -> dict[str, str]:
    """A text of the base: some words, each in one of two forms."""
    found = []
    for _ in range(FACTS):
        word, letter = WORDS[rng.integers(len(WORDS))], LETTERS[rng.integers(len(LETTERS))]
        asked, answer = f"{word} {letter}", changes(seed)[word][letter]
        found.append(f"{asked} {answer} ." if rng.random() < 0.5 else f"User says {asked} . Assistant says {answer} .")
    return {"text": " ".join(found)}


def conversation(seed: int, rng: np.random.Generator, turns: int) -> dict[str, Any]:
    """A chat: each word of the user applies to what the assistant said last."""
    letter, messages = LETTERS[rng.integers(len(LETTERS))], []
    for turn in range(turns):
        word = WORDS[rng.integers(len(WORDS))]
        asked = f"{word} {letter}" if turn == 0 else word
        letter = changes(seed)[word][letter]
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": letter}]
    return {"messages": messages}


@cache
def tokenizer() -> Any:
    """A word a token."""
    text = " ".join([*LETTERS, *WORDS, ": > . , first then User Assistant says"])
    spec = {"name": "word", "pattern": "whitespace-split", "special_tokens": SPECIAL, "eos": "<|end|>"}
    return make_method("tokenizer", spec).train([text])


def templated(template: str | None) -> Any:
    """The tokenizer with another chat template."""
    found = copy.copy(tokenizer())
    if template is not None:
        found.chat_template = template
    return found


def train(model: Any, name: Any, rows: Sequence[Any], steps: int, batch: int, lr: float, seed: int,
          template: str | None = None) -> float:  # fmt: skip
    """On rows of an objective, in batches drawn with repetition; returns the last loss."""
    objective = make_method("objective", name).build(tokenizer=templated(template))
    encoded = list(objective.encode_all(rows))

    def chosen(rng: np.random.Generator) -> tuple[Any, ...]:
        return tuple(zip(*(encoded[i] for i in rng.integers(len(encoded), size=batch)), strict=True))

    return fit(model, chosen, steps, lr=lr, schedule=SCHEDULE, seed=seed, objective=objective)[-1]


@torch.no_grad()
def answers(model: Any, name: str, rows: Sequence[Any], template: str | None = None) -> list[list[bool]]:
    """Whether each answer of each row is what greedy decoding gives after the row's own history, to its end."""
    objective = make_method("objective", name).build(tokenizer=templated(template))
    batch = objective.collate(rows)
    said, targets = model(batch).logits.argmax(-1).numpy(), batch.targets.numpy()
    found = []
    for own, wanted in zip(said, targets, strict=True):
        keep = wanted != IGNORE
        ends = np.flatnonzero(keep & ~np.append(keep[1:], False)) + 1
        right = (own == wanted) | ~keep
        found.append([bool(part.all()) for part in np.split(right, ends)[: len(ends)]])
    return found


def fresh(seed: int, size: str) -> Any:
    spec = {"name": "transformer", "dim": SIZES[size]["dim"], "layers": 2, "max_length": 128}
    return make_method("lm", spec).build(vocab_size=tokenizer().vocab_size).initialise(seed)


@cache
def _base(seed: int, size: str) -> Any:
    model, rng, sizes = fresh(seed, size), numpy_generator(seed, "base"), SIZES[size]
    rows = [explained(seed, rng) for _ in range(sizes["pool"])]
    train(model, {"name": "instruction", "on": "all"}, rows, sizes["base"], 16, BASE_LR, seed)
    return model


def rate(model: Any, rows: Sequence[Any]) -> float:
    """How many answers are right."""
    return mean([float(one) for row in answers(model, "instruction", rows) for one in row])


def measure(seed: int, size: str) -> dict[str, Any]:
    """Both parts."""
    return {
        "parameters": fresh(seed, size).parameter_count(),
        "tasks": by_tasks(seed, size),
        "chat": by_turn(seed, size),
    }


def by_tasks(seed: int, size: str) -> dict[str, dict[str, float]]:
    """Accuracy by number of tasks tuned on: 0 is the base."""
    sizes, rng = SIZES[size], numpy_generator(seed, "tasks")
    order = [TASKS[i] for i in rng.permutation(len(TASKS))]
    unseen, others = order[:UNSEEN], order[UNSEEN:]

    def all_letters(tasks: Sequence[Sequence[str]]) -> list[dict[str, str]]:
        return [task_row(seed, task, letter) for task in tasks for letter in LETTERS]

    def tested(model: Any, count: int) -> dict[str, float]:
        single = [{"prompt": f"{word} {letter}", "completion": f" {answer} ."}
                  for word, made in changes(seed).items() for letter, answer in made.items()]  # fmt: skip
        return {
            "seen": rate(model, all_letters(others[:count])) if count else 0.0,
            "unseen": rate(model, all_letters(unseen)),
            "word": rate(model, all_letters([(WORD, other) for other in OTHERS])),
            "single": single_rate(model, single),
        }

    def run(count: int, model: Any) -> dict[str, float]:
        draws = numpy_generator(seed, "rows")
        rows = [task_row(seed, others[i % count], LETTERS[draws.integers(len(LETTERS))]) for i in range(sizes["pool"])]
        last = train(model, "instruction", rows, sizes["tune"], sizes["rows"], LR, seed)
        return {**tested(model, count), "loss": last}

    found = {"0": tested(_base(seed, size), 0)}
    for count in COUNTS if size == "full" else (4,):
        found[str(count)] = run(count, copy.deepcopy(_base(seed, size)))
    if size == "full":
        found[f"{COUNTS[-1]}, no base"] = run(COUNTS[-1], fresh(seed, size))
    return found


def single_rate(model: Any, rows: Sequence[Any]) -> float:
    """How often the letter after a single word is right, whatever follows it."""
    objective = make_method("objective", "instruction").build(tokenizer=tokenizer())
    batch = objective.collate(rows)
    with torch.no_grad():
        said = model(batch).logits.argmax(-1)
    return float((said == batch.targets)[:, 1].float().mean())  # after the letter


def by_turn(seed: int, size: str) -> dict[str, dict[str, list[float]]]:
    """Accuracy of each turn by template, of the base and of two tunings."""
    sizes = SIZES[size]
    draws = numpy_generator(seed, "chat test")
    tests = [conversation(seed, draws, TURNS) for _ in range(sizes["test"])]

    def tested(model: Any) -> dict[str, list[float]]:
        return {name: np.array(answers(model, "chat", tests, template), float).mean(0).tolist()
                for name, template in TEMPLATES.items()}  # fmt: skip

    found = {"base": tested(_base(seed, size))} if size == "full" else {}
    for turns in (1, TURNS) if size == "full" else (TURNS,):
        model, rng = copy.deepcopy(_base(seed, size)), numpy_generator(seed, f"chat {turns}")
        rows = [conversation(seed, rng, turns) for _ in range(sizes["pool"] // turns)]
        batch = max(1, 40 // turns) if size == "full" else 2  # about as many turns a step
        last = train(model, "chat", rows, sizes["chat"], batch, LR, seed)
        found[f"{turns} turn{'s' * (turns > 1)}"] = {**tested(model), "loss": [last]}
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    kinds = {"seen": "tuned on", "unseen": "held out", "word": f"with {WORD}", "single": "base's own text"}
    rows = [[count, *(percent(over(seeds, "tasks", count, kind)) for kind in kinds)] for count in seeds[0]["tasks"]]
    turns = [[tuned, template, *(percent([one["chat"][tuned][template][at] for one in seeds]) for at in range(TURNS))]
             for tuned in seeds[0]["chat"] for template in TEMPLATES]  # fmt: skip
    return [
        Section("Percent right by number of tasks tuned on", ["Means and half of the 95% t interval over the seeds."],
                [table(["tasks", *kinds.values()], rows)]),
        Section("Chat: percent right by turn", [],
                [table(["tuned on", "template", *(f"turn {at + 1}" for at in range(TURNS))], turns)]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    sizes = SIZES["full"]
    return {
        "first": WORDS[0], "second": WORDS[1], "word": WORD, "words": len(WORDS), "letters": len(LETTERS),
        "parameters": seeds[0]["parameters"], "dim": sizes["dim"], "base": sizes["base"], "all": len(TASKS),
        "steps": sizes["tune"], "rows": sizes["rows"], "unseen": UNSEEN, "chance": 1 / len(LETTERS) ** 2,
        "seeds": len(seeds),
    }  # fmt: skip
