"""A constraint learned by reinforcement, beside a template, masks, ranked samples and FUDGE.

A transformer of {parameters:,} parameters was trained on texts of which {clean:.0%} are records such as "ab:12" (one to
three letters of three, a colon, one or two digits of four) and the others the same characters in some order. A text is
valid if it is a record. All {records} records are scored exactly, so that a method is compared with the model's own
distribution of valid texts, p(x | valid). Each arm writes {texts} texts, the best of n a quarter of that. RL begins
from the model and is rewarded with 1 for a valid text: {draws} draws of {batch}, without a penalty or with {weight}
KL to the model, whose optimum is p(x) exp(r / {weight}) / Z. The second constraint, that the digits add up to the
number of letters, is a reward of the complete text; no template or mask was written for it. {seeds} seeds; ± is half
a 95% interval over them.

Limits: short texts and a constraint that the start meets often. `constraints` has the other methods on a task in
English.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from evidence._alignment import fit, reinforced, scorer
from evidence._page import with_interval
from llmanac.core.pages import Section, table
from llmanac.core.rng import numpy_generator
from llmanac.core.spec import make_method
from llmanac.data.pack import ListStream
from llmanac.generate.constrain.fudge import Fudge
from llmanac.generate.constrain.template import Template
from llmanac.generate.engine import Engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import mean
from llmanac.objectives import BaseObjective, collate_ragged
from llmanac.objectives.policy_gradient import Rollout
from llmanac.recipes.prefix_classifier import train_prefix_classifier
from llmanac.rewards import each
from llmanac.tokenizers.load import train_tokenizer
from llmanac.train.rollouts import RolloutPrompt

ROWS = ("constrain/rlhf",)
CLAIM = (
    "RL takes any reward of the complete text and then costs nothing more a token, but is the most expensive to set up"
)
SEEDS = 3
TIMED = ("seconds", "setup_seconds")
TOLERANCE = 1e-3

LETTERS, DIGITS, CLEAN = "abc", "0123", 0.3
PATTERN, LONGEST = "[abc]{1,3}:[0-3]{1,2}", 8
STEPS, RATE, TEXTS = 300, 5e-3, 256
DRAWS, BATCH, RL_RATE, WEIGHT = 60, 64, 3e-3, 0.1
RECORDS = [
    "".join(a) + ":" + "".join(b)
    for n in (1, 2, 3) for m in (1, 2)
    for a in itertools.product(LETTERS, repeat=n) for b in itertools.product(DIGITS, repeat=m)
]  # fmt: skip
VALID = frozenset(RECORDS)


def adds_up(text: str) -> float:
    """The second constraint, of a record."""
    if text not in VALID:
        return 0.0
    letters, digits = text.split(":")
    return float(sum(map(int, digits)) == len(letters))


def made_up(draw: np.random.Generator) -> str:
    """A text of the training data."""
    letters = "".join(draw.choice(list(LETTERS), p=[0.5, 0.3, 0.2], size=draw.integers(1, 4)))
    digits = "".join(draw.choice(list(DIGITS), p=[0.1, 0.2, 0.3, 0.4], size=draw.integers(1, 3)))
    text = f"{letters}:{digits}"
    return text if draw.random() < CLEAN else "".join(draw.permutation(list(text)))


class Texts(BaseObjective):
    """The objective of (ids, mask): the loss of every token with a mask."""

    def collate(self, rows: Sequence[Any]) -> Any:
        return collate_ragged(rows)

    def loss(self, model: Any, batch: Any) -> Any:
        return model.nll(batch), batch.units, {}


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """Every arm of one seed."""
    full = size == "full"
    tokenizer, draw = train_tokenizer("utf8", []), numpy_generator(seed, "texts")
    end, count = tokenizer.eos_id, TEXTS if full else 4
    model = make_method("lm", {"name": "transformer", "dim": 32, "layers": 2 if full else 1, "max_length": 16}).build(
        vocab_size=tokenizer.vocab_size, seed=seed
    )
    rows = [np.array([end, *tokenizer.encode(made_up(draw)), end]) for _ in range(32 * STEPS if full else 32)]
    stream = ListStream([(ids, np.arange(len(ids)) > 0) for ids in rows], rows=32, seed=seed)
    fit(model, Texts(), lambda: stream.take(32), STEPS if full else 2, RATE)
    known = scores(model, tokenizer, RECORDS if full else RECORDS[:8])
    chance = float(np.exp(known).sum())
    logs = dict(zip(RECORDS, known, strict=False))
    arms: dict[str, Any] = {}

    def arm(name: str, own: Any = model, n: int = 1, by: Any = VALID.__contains__, setup: Any = None,
            **options: Any) -> None:  # fmt: skip
        """Texts of one arm: validity, distance from p(x | valid), variety, tokens a text and CPU time a text."""
        engine = Engine(own, tokenizer, rows=64)
        engine.generate([[end]], max_new_tokens=1, **options)  # what is compiled first is not timed
        began = time.process_time()
        many = count if n == 1 else count // 4  # ranked samples cost n
        found = engine.generate([[end]], n=many * n, seed=seed, logprobs=0, max_new_tokens=LONGEST,
                                **({} if "decoding" in options else {"temperature": 1.0}), **options)  # fmt: skip
        seconds = time.process_time() - began
        kept = [max(found[at : at + n], key=lambda done: bool(by(done.text))) for at in range(0, len(found), n)]
        fine = [done for done in kept if done.text in logs and done.finish_reason == "stop"]
        share = len(fine) / len(kept)
        distance = None
        if fine and n == 1:
            own_logs = mean([sum(token.sampled or 0.0 for token in done.token_logprobs) for done in fine])
            distance = own_logs - math.log(share) - mean([logs[done.text] for done in fine]) + math.log(chance)
        arms[name] = {
            "valid": share, "met": mean([float(bool(by(done.text))) for done in kept]), "distance": distance,
            "distinct": len({done.text for done in fine}), "seconds": seconds / many,
            "tokens": sum(len(done.token_logprobs) for done in found) / many, **(setup or {}),
        }  # fmt: skip

    def policy(reward: Any, **fields: Any) -> tuple[Any, dict[str, float]]:
        found = reinforced(
            model, tokenizer, [RolloutPrompt(ids=(end,), text="", row={})], reward, seed=seed,
            draws=DRAWS if full else 2, lr=RL_RATE,
            sampling={"prompts": 1, "samples": BATCH if full else 4, "tokens": LONGEST, "unfinished": 0.0},
            advantage="rloo", surrogate="reinforce", **fields,
        )  # fmt: skip
        return found["model"], {"setup_seconds": found["seconds"], "setup_tokens": found["tokens"]}

    held = {"kl": "k1-reward", "kl_weight": WEIGHT}
    pattern = make_method("reward", {"name": "pattern", "pattern": PATTERN}).build()
    trained, cost = policy(pattern, **held)
    arm("RL, KL", trained, setup=cost)
    if not full:
        return {"arms": arms, "chance": chance, "parameters": model.parameter_count()}
    arm("model alone")
    arm("template", template=Template("{a:/[abc]{1,3}/}:{b:/[0-3]{1,2}/}"))
    arm("masks", regex=PATTERN)
    for n in (4, 16):
        arm(f"best of {n}", n=n)
    began = time.process_time()
    done = Engine(model, tokenizer, rows=64).generate(
        [[end]], n=count, seed=seed + 1, max_new_tokens=LONGEST, temperature=1.0
    )
    classifier = train_prefix_classifier([d.ids for d in done], [d.text in VALID for d in done], dim=32, hidden=64,
                                         vocab_size=tokenizer.vocab_size, seed=seed, epochs=10)  # fmt: skip
    cost = {"setup_seconds": time.process_time() - began, "setup_tokens": float(sum(len(d.ids) for d in done))}
    for weight in (1.0, 4.0):
        fudge = Fudge(classifier=classifier, k=20, weight=weight)
        heat = make_method("decoding", {"name": "temperature", "temperature": 1.0})
        arm(f"FUDGE, weight {weight:g}", setup=cost, decoding=[heat, fudge])
    trained, cost = policy(pattern)
    arm("RL", trained, setup=cost)
    total = each(lambda sample: adds_up(sample.text))
    arm("model alone, sum", by=adds_up)
    arm("best of 16, sum", n=16, by=adds_up)
    trained, cost = policy(total, **held)
    arm("RL, KL, sum", trained, by=adds_up, setup=cost)
    return {"arms": arms, "chance": chance, "parameters": model.parameter_count()}


def scores(model: Any, tokenizer: Any, texts: Sequence[str]) -> np.ndarray:
    """(N,) log-probabilities of texts with their end, in nats."""
    end = tokenizer.eos_id
    rows = [
        Rollout(prompt=(end,), completion=(*tokenizer.encode(text), end), logprobs=np.zeros(len(text) + 1))
        for text in texts
    ]
    return np.array([found.sum() for found in scorer(model)(rows)])


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""

    def rows(names: Sequence[str], key: str) -> list[list[str]]:
        out = []
        for name in names:
            found = [seed["arms"][name] for seed in seeds]
            distances = [row["distance"] for row in found if row["distance"] is not None]
            cost = [f"{mean([row[k] for row in found]):{form}}" if k in found[0] else ""
                    for k, form in (("setup_tokens", ",.0f"), ("setup_seconds", ".1f"))]  # fmt: skip
            out.append([
                name, with_interval([row[key] for row in found], 3),
                with_interval(distances, 3) if len(distances) == len(found) else "",
                with_interval([float(row["distinct"]) for row in found], 0),
                with_interval([row["tokens"] for row in found], 1), 
                f"{1000 * mean([row['seconds'] for row in found]):.2f}", *cost,
            ])  # fmt: skip
        return out

    head = [
        "arm",
        "valid",
        "distance, nats",
        "different texts",
        "tokens a text",
        "ms a text",
        "tokens to set up",
        "seconds to set up",
    ]
    names = [name for name in seeds[0]["arms"] if not name.endswith("sum")]
    first = [name for name in ("model alone", "template", "masks") if name in names]
    return [
        Section("Records",
                ["Distance is KL(arm || p(x | valid)) over the arm's valid texts, estimated from them; ranked "
                    "samples that are "
                 "valid have that distribution. Different texts are the valid ones. Times are CPU."],
                [table(head, rows([*first, *(n for n in names if n not in first)], "valid"))]),
        Section("Records whose digits add up to the number of letters",
                ["Distance is to the distribution of all records, of which those that meet the constraint are a part."],
                [table([head[0], "meet it", *head[2:]],
                       rows([n for n in seeds[0]["arms"] if n.endswith("sum")], "met"))]),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "parameters": seeds[0]["parameters"], "clean": CLEAN, "records": len(RECORDS), "texts": TEXTS,
        "draws": DRAWS, "batch": BATCH,
        "weight": WEIGHT, "seeds": len(seeds),
    }  # fmt: skip
