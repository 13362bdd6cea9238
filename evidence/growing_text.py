"""One task over growing text: full window, window with sinks, linear attention, retrieval, memory.

A user's {facts} statements ("My color is Aldera.") are at random places among other sentences ("The river is loud.",
and in one of {near} "The color there is loud."), and each is asked for at the end. A place of a model is a sentence,
the sum of the embeddings of its two words. Texts of {trained} sentences with 1 to {most} statements were read in
training; here they have up to {longest:,}. Models of two blocks of width {dim} without positions, {steps} steps of
{rows} rows (AdamW at {lr}, cosine). Guessing is right in {chance:.0%}.

- full window: the attention model reads everything.
- window with sinks: the same weights, keys of the first {sinks} and the last {window} sentences.
- linear: linear attention, a state of fixed size; a model of its own, trained for {more} steps at {slower}, as fewer at
  the other model's rate did not teach it the task (chosen on seed 0).
- retrieval: BM25 finds {passages} passages of {size} sentences, which the attention model reads before the question.
- memory: statements are remembered in a store (`retrieve/memory`); the attention model reads the {recalled} recalled.

Retrieval and memory have an easy task: a question names what its statement names, and what is a statement is known.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evidence._facts import ASK, NEAR, VALUES, WORDS, Texts, draw, embed, sentence
from evidence._synthetic import Rows, average, fit, once, over, percent, writing
from llmanac.core.pages import Line, Section, line_chart, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.lab.stats import mean
from llmanac.retrieve.bm25 import BM25, Spec
from llmanac.retrieve.memory import Memory

ROWS = ("context/rag", "context/memory", "attention/sliding-window", "attention/linear")
CLAIM = (
    "with growing text a window loses what has left it; full attention keeps it, at a cost that grows with the text; a "
    "fixed state costs the same at any length; retrieval and memory keep it at a cost that hardly grows"
)
SEEDS, VERSION = 3, 2  # 2: statements are remembered by explicit wishes, not found by rules
TIMED = ("read", "answer")
TOLERANCE = 0.05  # float32 training; a place more or less

WINDOW, SINKS, PIECE = 64, 4, 256
PASSAGE, PASSAGES, RECALLED = 8, 2, 2
FACTS, TRAINED = (1, 2, 4, 8), (16, 32, 64, 96)
RATES = {"full window": (5e-3, 1.0), "linear": (2e-3, 2.5)}  # and how many times the steps
SIZES: dict[str, dict[str, Any]] = {
    "full": {"dim": 48, "rows": 16, "steps": 400, "lengths": (64, 256, 1024, 4096), "texts": 8},
    "small": {"dim": 16, "rows": 4, "steps": 3, "lengths": (16, 96), "texts": 2},
}
MIXERS: dict[str, Any] = {
    "full window": "softmax", "linear": "linear",
    "window with sinks": {"name": "attention-sinks", "window": WINDOW, "sinks": SINKS},
}  # fmt: skip
ARMS = ("full window", "window with sinks", "linear", "retrieval", "memory")


def built(mixer: Any, dim: int, seed: int, position: str = "none") -> Any:
    """A model with initial weights."""
    spec = {"name": "transformer", "dim": dim, "layers": 2, "max_length": 8192, "position": position,
            "blocks": [{"name": "pre-norm", "mixer": mixer, "ffn": {"name": "swiglu", "width": 2 * dim}}]}  # fmt: skip
    model = writing(make_method("lm", spec).build(vocab_size=len(WORDS)).initialise(seed), seed)
    model.attention_form = "plain"
    return model


def trained(name: str, seed: int, size: str, position: str = "none") -> Any:
    """A model trained to answer."""
    chosen = SIZES[size]
    model = built(MIXERS[name], chosen["dim"], seed, position)

    def rows(rng: np.random.Generator) -> Rows:
        return draw(rng, chosen["rows"], int(rng.choice(TRAINED)), int(rng.choice(FACTS))).rows()

    lr, times = RATES[name]
    fit(model, rows, int(times * chosen["steps"]), lr=lr, schedule={"name": "cosine", "warmup": 0.1}, seed=seed)
    return model


@torch.inference_mode()
def read(model: Any, places: np.ndarray) -> Any:
    """The state after the places (B, T, 2), read in pieces."""
    state = model.start(len(places))
    for start in range(0, places.shape[1], PIECE):
        model(Batch(embeddings=embed(model, places[:, start : start + PIECE])), state)
    return state


@torch.inference_mode()
def answers(model: Any, state: Any, subjects: np.ndarray) -> Tensor:
    """(B, F) words: the model's answers to questions (B, F)."""
    asked = np.stack([subjects, np.full_like(subjects, ASK)], 2)
    found: Tensor = model(Batch(embeddings=embed(model, asked)), state).logits.argmax(-1)
    return found


def by_model(model: Any, texts: Texts) -> dict[str, Any]:
    """A model that reads the text itself, a text at a time."""
    right, took, nbytes = [], [0.0, 0.0], 0
    for row in range(len(texts.places)):
        begin = time.process_time()
        state = read(model, texts.places[row : row + 1])
        took[0] += time.process_time() - begin
        nbytes = int(state.nbytes)
        begin = time.process_time()
        said = answers(model, state, texts.subjects[row : row + 1])
        took[1] += (time.process_time() - begin) / texts.subjects.shape[1]
        right += (said.numpy() == texts.values[row]).ravel().tolist()
    count = len(texts.places)
    return {"right": mean(right), "bytes": nbytes, "read": took[0] / count, "answer": took[1] / count}


def by_finding(model: Any, texts: Texts, keep: Callable[..., tuple[Any, int]]) -> dict[str, Any]:
    """What is kept of a text's sentences is searched for each question, and the model reads the places found."""
    right, took, nbytes = [], [0.0, 0.0], 0
    for row in range(len(texts.places)):
        with ExitStack() as within:
            begin, lines = time.process_time(), texts.sentences(row)
            find, held = keep(lines, within)
            took[0] += time.process_time() - begin
            for subject, value in zip(texts.subjects[row].tolist(), texts.values[row].tolist(), strict=True):
                begin = time.process_time()
                state = read(model, texts.places[row][find(sentence(subject, ASK))][None])
                said = answers(model, state, np.array([[subject]]))
                took[1] += time.process_time() - begin
                right.append(int(said) == value)
                nbytes = max(nbytes, held + int(state.nbytes))
    return {"right": mean(right), "bytes": nbytes, "read": took[0] / len(texts.places), "answer": took[1] / len(right)}


def passages(lines: Sequence[str], within: ExitStack) -> tuple[Callable[[str], list[int]], int]:
    """BM25 over passages: a function from a question to sentences, and the bytes of the index and its text."""
    parts = [" ".join(lines[i : i + PASSAGE]) for i in range(0, len(lines), PASSAGE)]
    index = BM25(parts, Spec(analyzer="plain"))
    held = sum(getattr(index, name).nbytes for name in ("starts", "texts", "weights", "idf"))

    def find(question: str) -> list[int]:
        best = sorted(hit.position for hit in index.top(question, PASSAGES))
        return [i for p in best for i in range(p * PASSAGE, min(len(lines), (p + 1) * PASSAGE))]

    return find, held + sum(len(part.encode()) for part in parts)


def stored(lines: Sequence[str], within: ExitStack) -> tuple[Callable[[str], list[int]], int]:
    """The memory of what the text states: a function from a question to sentences, and the bytes of its file."""
    path = Path(within.enter_context(tempfile.TemporaryDirectory())) / "memory.sqlite"
    memory = within.enter_context(Memory(path))
    said = [(i, line) for i, line in enumerate(lines) if line.startswith("My ")]
    places = {fact.text: i for i, line in said for fact in memory.remember(line).kept}

    def find(question: str) -> list[int]:
        return sorted({places[fact.text] for fact in memory.recall(question, RECALLED)})

    return find, path.stat().st_size


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every arm at every length."""
    chosen, threads = SIZES[size], torch.get_num_threads()
    torch.set_num_threads(1)

    def part(name: str) -> dict[str, Any]:
        model = trained(name, seed, size)
        ways: dict[str, Callable[[Texts], dict[str, Any]]] = {name: lambda texts: by_model(model, texts)}
        if name == "full window":
            windowed = built(MIXERS["window with sinks"], chosen["dim"], seed)
            windowed.load_state_dict(model.state_dict())
            ways |= {
                "window with sinks": lambda texts: by_model(windowed.eval(), texts),
                "retrieval": lambda texts: by_finding(model, texts, passages),
                "memory": lambda texts: by_finding(model, texts, stored),
            }
        out: dict[str, Any] = {}
        for length in chosen["lengths"]:
            texts = draw(numpy_generator(seed, f"test {length}"), chosen["texts"], length, max(FACTS))
            for way, measured in ways.items():
                out.setdefault(way, {})[str(length)] = measured(texts)
        return out

    found: dict[str, Any] = {}
    try:
        for name in ("full window", "linear"):
            if size == "full":
                found |= once("growing_text", f"{name}-{seed}", functools.partial(part, name))
            else:
                found |= part(name)
    finally:
        torch.set_num_threads(threads)
    return {name: found[name] for name in ARMS if name in found}


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    lengths = list(seeds[0]["full window"])
    titles = {
        "right": "percent right",
        "bytes": "bytes held",
        "read": "milliseconds to read",
        "answer": "milliseconds to answer",
    }
    tables = []
    for key, title in titles.items():
        rows = []
        for arm in ARMS:
            cells = [over(seeds, arm, length, key) for length in lengths]
            scale = 1 if key == "bytes" else 1000
            rows.append(
                [
                    arm,
                    *(
                        percent(c) if key == "right" else f"{scale * mean(c):,.{0 if key == 'bytes' else 2}f}"
                        for c in cells
                    ),
                ]
            )
        tables.append(table([title, *(f"{int(n):,} sentences" for n in lengths)], rows))
    lines = [
        Line(arm, [(float(n), average(seeds, arm, n, "right")) for n in lengths], shade=i) for i, arm in enumerate(ARMS)
    ]
    drawn = line_chart(lines, "sentences", "right answers", "Right answers by length of the text", log="xy")
    said = (
        "Means over the seeds, and half of the 95% t interval for percent right. Bytes: state of the model, the index "
        "with its text, the memory's file; for retrieval and memory with the state of the prompt. Milliseconds: CPU "
        "time of one thread on a busy machine, to read (or index, or store) one text, and then to answer one question."
    )
    return [Section("By length of the text", [said], tables, [drawn])]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of the text."""
    last = list(seeds[0]["full window"])[-1]
    full = SIZES["full"]
    return {
        "facts": max(FACTS), "near": NEAR, "trained": f"{min(TRAINED)} to {max(TRAINED)}", "most": max(FACTS),
        "longest": int(last), "dim": full["dim"], "steps": full["steps"],
        "rows": full["rows"], "lr": RATES["full window"][0],
        "slower": RATES["linear"][0], "more": int(RATES["linear"][1] * full["steps"]), "chance": 1 / len(VALUES),
        "sinks": SINKS, "window": WINDOW,
        "passages": PASSAGES, "size": PASSAGE, "recalled": RECALLED,
    }  # fmt: skip
