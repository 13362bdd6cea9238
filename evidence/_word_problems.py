"""Word problems of several steps, made by a procedure, and a small model that is trained here to write the steps.

    Ann has 7 pens, gets 5, loses 3, gets 8.        7+5=12 / 12-3=9 / 9+8=17 / #### 17

One row in four is checked: a first chain, `Wait, `, and the right chain again; half of the first chains have an error
and no loss, so that the model learns to go on from a wrong one but never to write it.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

import llmanac
from evidence._synthetic import fit
from llmanac.core.spec import make_method
from llmanac.core.types import IGNORE

NAMES, THINGS = ("Ann", "Bob", "Eve", "Max"), ("pens", "cups", "maps", "keys")
LENGTH, MOST = 80, 30  # tokens of a row, the largest number


def problem(rng: np.random.Generator, steps: int) -> tuple[str, list[str], int]:
    """A question, its steps and its answer."""
    total = int(rng.integers(5, 20))
    text, chain = f"{rng.choice(NAMES)} has {total} {rng.choice(THINGS)}", []
    for _ in range(steps):
        change = int(rng.integers(2, 10))
        add = total - change < 0 or (total + change <= MOST and bool(rng.integers(2)))
        new = total + change if add else total - change
        text += f", {'gets' if add else 'loses'} {change}"
        chain.append(f"{total}{'+' if add else '-'}{change}={new}")
        total = new
    return f"{text}.\n", chain, total


@functools.cache
def tokenizer() -> Any:
    """Byte-pair encoding of such problems: words and numbers are one token each."""
    rng = np.random.default_rng(0)
    made = [problem(rng, 5) for _ in range(200)]
    texts = [question + "\n".join(chain) + f"\nWait, \n#### {answer}" for question, chain, answer in made]
    return llmanac.train_tokenizer("bpe", texts, vocab_size=300, special_tokens=["<|endoftext|>"])


def row(rng: np.random.Generator, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids (T,) and targets (T,) of a row; the question and a wrong chain carry no loss."""
    question, chain, answer = problem(rng, steps)
    parts = [(question, False)]
    if rng.random() < 0.25:
        first, wrong = list(chain), rng.random() < 0.5
        if wrong:
            at = int(rng.integers(len(first)))
            left, _, right = first[at].partition("=")
            first[at] = f"{left}={max(0, int(right) + int(rng.choice([-1, 1, 2])))}"
        parts += [("\n".join(first), not wrong), ("\nWait, ", False)]
    parts += [("\n".join(chain) + f"\n#### {answer}", True)]
    ids, loss = [], []
    for text, learned in parts:
        own = [int(i) for i in tokenizer().encode(text)]
        ids += own
        loss += [learned] * len(own)
    ids, loss = [*ids, tokenizer().eos_id], [*loss, True]
    targets = [i if use else IGNORE for i, use in zip(ids, loss, strict=True)][1:]
    fill = LENGTH - len(targets)
    if fill < 0:
        return row(rng, steps)
    return np.array([*ids[:-1], *[tokenizer().eos_id] * fill]), np.array([*targets, *[IGNORE] * fill])


def questions(seed: int, count: int, steps: int) -> list[tuple[str, dict[str, Any]]]:
    """Questions that training has not drawn, with their answers as rows."""
    rng = np.random.default_rng((seed, 7, steps))
    made = [problem(rng, steps) for _ in range(count)]
    return [(text, {"answer": str(answer), "steps": chain}) for text, chain, answer in made]


def trained(seed: int, *, dim: int, layers: int, steps: int, rows: int = 48, most: int = 5, lr: float = 3e-3) -> Any:
    """A model after `steps` training steps on problems of 2 to `most` steps."""
    fields = {"name": "transformer", "dim": dim, "layers": layers, "max_length": 256}
    model: Any = make_method("lm", fields).build(vocab_size=tokenizer().vocab_size)
    model.initialise(seed)
    model.generation = {"eos_token_id": tokenizer().eos_id}

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        made = [row(rng, int(rng.integers(2, most + 1))) for _ in range(rows)]
        return np.stack([ids for ids, _ in made]), np.stack([targets for _, targets in made])

    fit(model, draw, steps, lr=lr, schedule={"name": "cosine"}, seed=seed)
    return model
