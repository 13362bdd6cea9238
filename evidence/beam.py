"""Decoding on a pretrained model: beams, length penalties, repetition, diversity, and what the cuts remove.

The model is {model}; the text is the language documentation that is installed with Python. A seed draws {sentences}
unfinished sentences, which are continued to their end (the period, at most {longest} tokens), and {passages} passages
of {prompt} tokens, which are continued by {new} tokens whatever they say. Log-probabilities are the model's own, in
nats.

- **Search.** Greedy decoding writes sentences of {greedy[logprob]:.2f} nats, 2 beams {two[logprob]:.2f}, 8 beams
  {eight[logprob]:.2f} (length penalty 0): for {missed:.0%} of the prompts greedy decoding missed a more probable one.
  The sentence in the documentation itself has {human[logprob]:.2f} nats.
- **Length.** Greedy sentences have {greedy[tokens]:.1f} tokens, those of 8 beams {eight[tokens]:.1f}, the
  documentation's {human[tokens]:.1f}. Length penalty 1 makes {one[tokens]:.1f} of them, 2 {strong[tokens]:.1f} (most
  run to the limit), GNMT's 0.6 {gnmt[tokens]:.1f}.
- **Quality.** More probable is not better: word F1 against the documentation is {greedy[f1]:.3f} for greedy decoding,
  {eight[f1]:.3f} with 8 beams, which gain {gain} nats, and {one[f1]:.3f} with length penalty 1.
- **Repetition.** Of the 4-grams of greedy continuations {g_rep:.0%} are repeats, with 4 beams {b_rep:.0%}, of those
  of the documentation {h_rep:.1%}; {g_loop:.0%} of the greedy texts and {b_loop:.0%} of the beams' end in a loop.
  Repetition penalty 1.3 leaves {p_rep:.1%} and {p_loop:.0%}, blocking 3-grams {n_rep:.1%} and {n_loop:.0%}. Both hurt
  repetition that is natural: blocking 3-grams forbids {forbids:.1%} of the tokens of the documentation, and the
  penalty takes {lost:.2f} nats from each of its tokens that occurred before ({repeated:.0%} of them; the others gain
  {gained:.2f}).
- **Diversity.** The word F1 between four beams of one search is {b_self:.2f}, and {b_distinct:.2f} of their 2-grams
  are distinct; diverse beam search with four groups has {d_self:.2f} and {d_distinct:.2f}, sampling with top-p 0.9
  {s_self:.2f} and {s_distinct:.2f}.
- **Cuts.** Over places of the documentation in four groups of entropy, top-k with k = 40 removes from {k_low:.1%}
  (the lowest) to {k_high:.1%} (the highest) of the probability. Top-p 0.9 removes {p_low:.1%} to {p_high:.1%}, and
  keeps from {size_low:.1f} to {size_high:,.0f} tokens.
- **Temperature.** The log-odds of pairs of tokens times T differ from those at T = 1 by at most {odds:.0e} (float64).
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from evidence._compared import made_up
from evidence._pretrained import FILE
from evidence._synthetic import average
from evidence.speculation import target
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.core.types import Batch
from llmanac.generate.decoding.no_repeat_ngram import followers
from llmanac.generate.engine import Completion, Engine
from llmanac.lab.stats import mean
from llmanac.lab.trials.decoding import distinct
from llmanac.metrics.answers import f1
from llmanac.recipes.classification import small_language_model

ROWS = (
    "decode/greedy", "decode/beam", "decode/length-penalty", "decode/diverse-beam", "decode/repetition-penalty",
    "decode/no-repeat-ngram", "decode/top-k", "decode/top-p", "decode/temperature",
)  # fmt: skip
CLAIM = "beams find more probable texts, which are shorter and, like greedy ones, repetitive; penalties change both"
SEEDS = 3
TOLERANCE = 1e-3
SIZES = {"full": {"sentences": 10, "passages": 8, "most": 36}, "small": {"sentences": 2, "passages": 2, "most": 6}}
PROMPT, NEW = 48, 64
SENTENCE = re.compile(r"[A-Z][a-z]+(?: [A-Za-z,;'()-]+){9,24}\.(?= |$)")
HEATS, TOP_K, TOP_P = (0.5, 0.8, 1.5), (10, 40), 0.9
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {},
    **{f"{b} beams, penalty 0": {"beams": b, "length_penalty": 0.0, "early_stopping": "never"} for b in (2, 4, 8)},
    **{f"8 beams, penalty {a:g}": {"beams": 8, "length_penalty": a, "early_stopping": "never"} for a in (1.0, 2.0)},
    "8 beams, GNMT 0.6": {"decoding": ["length-penalty"], "beams": 8, "early_stopping": "never"},
}
OPEN: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, repetition penalty 1.3": {"repetition_penalty": 1.3},
    "greedy, 3-grams blocked": {"no_repeat_ngram": 3},
    "4 beams": {"beams": 4},
    "4 beams, 3-grams blocked": {"beams": 4, "no_repeat_ngram": 3},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
    "samples": {"temperature": 1.0},
}
FOUR: dict[str, dict[str, Any]] = {
    "4 beams": {"beams": 4},
    "diverse beams, 0.5": {"beams": 4, "beam_groups": 4, "diversity": 0.5},
    "diverse beams, 2": {"beams": 4, "beam_groups": 4, "diversity": 2.0},
    "top-p 0.9": {"temperature": 1.0, "top_p": 0.9},
}


def measure(seed: int, size: str) -> dict[str, Any]:
    """All parts with the prompts of a seed."""
    sizes, rng = SIZES[size], random.Random(seed)
    if size == "small":
        texts = made_up()
        model, tokenizer = small_language_model(texts, steps=4, dim=32, layers=1, vocab_size=300, length=32)
        engine = Engine(model.double(), tokenizer)
        texts = ["It is a plain text of the study and of nothing else that one could read. " * 30] * 3
        prompt, new = 16, 12
    else:
        loaded = target()
        engine, prompt, new = Engine(loaded.model, loaded.tokenizer, runner="native"), PROMPT, NEW
        texts = [d.text for d in make_method("source", {"name": "python-docs", "parts": ["topics"]}).documents()]
    rng.shuffle(texts)
    passages = windows(engine.tokenizer, texts, sizes["passages"], prompt, new, rng)
    return {
        "searches": searches(engine, sentences(texts, sizes["sentences"], rng), sizes["most"]),
        "open": opened(engine, passages, seed),
        "four": four(engine, passages, min(new, 24), seed),
        "text": of_the_text(engine, passages),
    }


def sentences(texts: Sequence[str], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(what comes before and the first words, the rest of the sentence), one a document."""
    out: list[tuple[str, str]] = []
    for text in texts:
        found = []
        for paragraph in re.split(r"\n\s*\n", text):
            flat = " ".join(paragraph.split())
            found += [(flat, m) for m in SENTENCE.finditer(flat) if m.start() > 60]
        if found and len(out) < count:
            flat, match = rng.choice(found)
            words = match[0].split(" ")
            out.append((flat[max(0, match.start() - 300) : match.start()] + " ".join(words[:4]), " ".join(words[4:])))
    return out


def windows(
    tokenizer: Any, texts: Sequence[str], count: int, prompt: int, new: int, rng: random.Random
) -> list[tuple[list[int], list[int]]]:
    """(prompt, continuation) as ids, one a document."""
    out: list[tuple[list[int], list[int]]] = []
    for text in texts:
        ids = [int(i) for i in tokenizer.encode(text)]
        if len(ids) > prompt + new and len(out) < count:
            start = rng.randrange(len(ids) - prompt - new)
            out.append((ids[start : start + prompt], ids[start + prompt : start + prompt + new]))
    return out


def total(one: Completion) -> float:
    return math.fsum(p for p in one.logprobs if p is not None)


def searches(engine: Engine, found: Sequence[tuple[str, str]], most: int) -> dict[str, Any]:
    """Sentences continued to their end by each search, beside those of the text."""
    prompts, rests = [p for p, _ in found], [rest for _, rest in found]
    own = [len(engine.tokenizer.encode(" " + rest)) for rest in rests] if engine.tokenizer else []
    scored = engine.generate([f"{p} {r}" for p, r in found], max_new_tokens=0, prompt_logprobs=0)
    sums = [math.fsum(t.logprob or 0.0 for t in c.prompt_token_logprobs[-n:]) for c, n in zip(scored, own, strict=True)]
    out: dict[str, Any] = {"the documentation": {"tokens": mean(own), "logprob": mean(sums), "f1": 1.0, "per": 0.0}}
    out["the documentation"]["per"] = math.fsum(sums) / sum(own)
    first: list[float] = []
    for name, options in SEARCHES.items():
        done = engine.generate(prompts, max_new_tokens=most, stop=".", **options)
        sums = [total(one) for one in done]
        first = first or sums
        out[name] = {
            "tokens": mean([len(one.ids) for one in done]), "logprob": mean(sums),
            "per": math.fsum(sums) / sum(len(one.ids) for one in done),
            "f1": mean([f1(one.text, rest) for one, rest in zip(done, rests, strict=True)]),
            "better": mean([float(b > a + 1e-3) for a, b in zip(first, sums, strict=True)]),
        }  # fmt: skip
    return out


def opened(engine: Engine, passages: Sequence[tuple[list[int], list[int]]], seed: int) -> dict[str, Any]:
    """Continuations of a fixed length: repetition, and how probable they are."""
    new = len(passages[0][1])
    out = {"the documentation": repetition([rest for _, rest in passages])}
    scored = engine.generate([[*p, *r] for p, r in passages], max_new_tokens=0, prompt_logprobs=0)
    out["the documentation"]["per"] = mean([t.logprob or 0.0 for c in scored for t in c.prompt_token_logprobs[-new:]])
    for name, options in OPEN.items():
        done = engine.generate([p for p, _ in passages], max_new_tokens=new, stop_ids=[], seed=seed, **options)
        out[name] = {
            **repetition([one.ids for one in done]),
            "per": math.fsum(map(total, done)) / sum(len(one.ids) for one in done),
        }
    return out


def repetition(texts: Sequence[Sequence[int]]) -> dict[str, float]:
    """Repeated 4-grams, texts that end in a loop, and distinct 2-grams."""
    found = [(1 - distinct(ids, 4), float(loops(ids)), distinct(ids, 2)) for ids in texts]
    return dict(zip(("rep", "loop", "distinct"), map(mean, zip(*found, strict=True)), strict=True))


def loops(ids: Sequence[int], tail: int = 24, longest: int = 8) -> bool:
    """Whether the last tokens repeat with a period of at most `longest`."""
    last = ids[-tail:]
    return any(list(last[p:]) == list(last[:-p]) for p in range(1, min(longest, len(last) - 1) + 1))


def four(engine: Engine, passages: Sequence[tuple[list[int], list[int]]], new: int, seed: int) -> dict[str, Any]:
    """Four texts a prompt: how alike they are, and how good the best of them is."""
    decode = engine.tokenizer.decode if engine.tokenizer else str
    out = {}
    for name, options in FOUR.items():
        done = engine.generate([p for p, _ in passages], max_new_tokens=new, stop_ids=[], n=4, seed=seed, **options)
        groups = [done[i : i + 4] for i in range(0, len(done), 4)]
        alike, fresh, best = [], [], []
        for group, (_, reference) in zip(groups, passages, strict=True):
            texts = [decode(one.ids) for one in group]
            alike += [f1(a, b) for i, a in enumerate(texts) for b in texts[:i]]
            grams = [gram for one in group for gram in zip(one.ids, one.ids[1:], strict=False)]
            fresh.append(len(set(grams)) / len(grams))
            best.append(max(f1(text, decode(reference[:new])) for text in texts))
        per = math.fsum(map(total, done)) / sum(len(one.ids) for one in done)
        out[name] = {"self": mean(alike), "distinct": mean(fresh), "best": mean(best), "per": per}
    return out


def on_arrays(method: Any, logits: torch.Tensor, *more: Any) -> torch.Tensor:
    """What a decoding method makes of logits: it works on arrays."""
    return torch.from_numpy(np.asarray(method(logits.numpy(), *more)))


@torch.no_grad()
def of_the_text(engine: Engine, passages: Sequence[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """What each method does to the distributions at the places of the text itself, passage by passage."""
    specs = {f"top-k {k}": {"name": "top-k", "k": k} for k in TOP_K} | {"top-p": {"name": "top-p", "p": TOP_P}}
    cuts = {name: make_method("decoding", spec).build() for name, spec in specs.items()}
    penalty = make_method("decoding", {"name": "repetition-penalty", "penalty": 1.3}).build()
    found: dict[str, list[float]] = {"entropy": [], "seen": [], "change": []}
    odds = dict.fromkeys(map(str, HEATS), 0.0)
    blocked: dict[str, list[float]] = {str(n): [] for n in (2, 3, 4)}
    model: Any = engine.model
    for prompt, rest in passages:
        row = [*prompt, *rest]
        logits = model(Batch(ids=torch.tensor([row[:-1]]))).logits[0, len(prompt) - 1 :].double()
        texts = [Text(row[: len(prompt) + t]) for t in range(len(rest))]
        logs, own = logits.log_softmax(-1), torch.tensor(rest)[:, None]
        change = on_arrays(penalty, logits, texts).log_softmax(-1).gather(-1, own) - logs.gather(-1, own)
        found["change"] += change[:, 0].tolist()
        found["seen"] += [float(i in text.prompt_ids) for i, text in zip(rest, texts, strict=True)]
        for n, own_blocked in blocked.items():
            own_blocked += [float(i in followers(t.prompt_ids, int(n))) for i, t in zip(rest, texts, strict=True)]
        mass = logs.exp()
        found["entropy"] += (-(mass * logs).sum(-1)).tolist()
        for name, cut in cuts.items():
            kept = on_arrays(cut, logits) > -torch.inf
            found.setdefault(f"{name} removed", []).extend((mass * ~kept).sum(-1).tolist())
            found.setdefault(f"{name} size", []).extend(kept.sum(-1).double().tolist())
        left, right = torch.randint(logits.shape[-1], (2, 2000), generator=torch.Generator().manual_seed(0))
        for heat in HEATS:
            warm = on_arrays(make_method("decoding", {"name": "temperature", "temperature": heat}).build(), logits)
            warm = warm.log_softmax(-1)
            off = (warm[:, left] - warm[:, right]) * heat - (logs[:, left] - logs[:, right])
            odds[str(heat)] = max(odds[str(heat)], off.abs().max().item())
    order = sorted(range(len(found["entropy"])), key=lambda at: found["entropy"][at])
    quarters = [order[i * len(order) // 4 : (i + 1) * len(order) // 4] for i in range(4)]
    kept_keys = [key for key in found if key not in ("seen", "change")]
    split = {flag: [c for c, s in zip(found["change"], found["seen"], strict=True) if s == flag] for flag in (0.0, 1.0)}
    return {
        "blocked": {n: mean(values) for n, values in blocked.items()}, "repeated": mean(found["seen"]),
        "lost": mean(split[1.0]), "gained": mean(split[0.0] or [0.0]), "odds": odds,
        "cuts": [{key: mean([found[key][at] for at in part]) for key in kept_keys} for part in quarters],
    }  # fmt: skip


class Text:
    """What decoding methods read: a text so far."""

    def __init__(self, ids: list[int]) -> None:
        self.prompt_ids = ids
        self.ids: list[int] = []


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def search(name: str) -> dict[str, float]:
        return {key: average(seeds, "searches", name, key) for key in ("tokens", "logprob", "f1")}

    sizes = SIZES["full"]
    eight = "8 beams, penalty 0"
    names = {"human": "the documentation", "greedy": "greedy", "two": "2 beams, penalty 0", "eight": eight,
             "one": "8 beams, penalty 1", "strong": "8 beams, penalty 2", "gnmt": "8 beams, GNMT 0.6"}  # fmt: skip
    found: dict[str, Any] = {key: search(name) for key, name in names.items()}
    opens = {
        "g": "greedy",
        "b": "4 beams",
        "p": "greedy, repetition penalty 1.3",
        "n": "greedy, 3-grams blocked",
        "h": "the documentation",
    }
    for key, name in opens.items():
        found |= {f"{key}_{what}": average(seeds, "open", name, what) for what in ("rep", "loop")}
    for key, name in {"b": "4 beams", "d": "diverse beams, 0.5", "s": "top-p 0.9"}.items():
        found |= {f"{key}_{what}": average(seeds, "four", name, what) for what in ("self", "distinct")}
    for key, name in {"k": "top-k 40 removed", "p": "top-p removed", "size": "top-p size"}.items():
        found |= {f"{key}_{end}": average(seeds, "text", "cuts", at, name) for end, at in (("low", 0), ("high", 3))}
    return found | {
        "model": FILE.removesuffix(".gguf"), "sentences": sizes["sentences"], "passages": sizes["passages"],
        "longest": sizes["most"], "prompt": PROMPT, "new": NEW, "missed": average(seeds, "searches", eight, "better"),
        "gain": f"{found['eight']['logprob'] - found['greedy']['logprob']:.2f}",
        "forbids": average(seeds, "text", "blocked", "3"), "lost": -average(seeds, "text", "lost"),
        "gained": average(seeds, "text", "gained"), "repeated": average(seeds, "text", "repeated"),
        "odds": max(off for seed in seeds for off in seed["text"]["odds"].values()),
    }  # fmt: skip


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    def rows(part: str, keys: dict[str, str]) -> list[list[str]]:
        names = seeds[0][part]
        return [[n, *(format(average(seeds, part, n, k), form) for k, form in keys.items())] for n in names]

    cuts = ["entropy", *(f"top-k {k} removed" for k in TOP_K), "top-p removed", "top-p size"]
    quarter = [
        [name, *(format(average(seeds, "text", "cuts", at, key), ".3f") for key in cuts)]
        for at, name in enumerate(("lowest", "second", "third", "highest"))
    ]
    better = [[n, f"{average(seeds, 'searches', n, 'better'):.0%}",
               *(f"{seed['searches'][n]['tokens']:.1f}, {seed['searches'][n]['logprob']:.2f}" for seed in seeds)]
              for n in SEARCHES]  # fmt: skip
    blocked = [[n, f"{average(seeds, 'text', 'blocked', n):.2%}"] for n in ("2", "3", "4")]
    heads = ["", "tokens", "log p", "log p a token", "word F1"]
    forms = {"tokens": ".1f", "logprob": ".2f", "per": ".3f", "f1": ".3f"}
    return [
        Section("Sentences continued to their end", tables=[
            table(heads, rows("searches", forms)),
            table(["", "more probable than greedy", *(f"tokens, log p, seed {i}" for i in range(len(seeds)))], better),
        ]),
        Section("Continuations of a fixed length", tables=[
            table(["", "rep-4", "ends in a loop", "distinct-2", "log p a token"],
                  rows("open", {"rep": ".1%", "loop": ".0%", "distinct": ".3f", "per": ".3f"})),
            table(["n", "tokens of the documentation that blocking n-grams forbids"], blocked),
        ]),
        Section("Four texts a prompt", tables=[
            table(["", "word F1 between them", "distinct-2 of all", "best word F1", "log p a token"],
                  rows("four", {"self": ".3f", "distinct": ".3f", "best": ".3f", "per": ".3f"}))]),
        Section("What the cuts remove, by quarters of entropy", tables=[table(["quarter", *cuts], quarter)]),
    ]  # fmt: skip
