"""Constraints: prompts, templates, masks, ranked samples and FUDGE on one task.

{target} reads a sentence about a person and writes a record of three facts as JSON; {tests} sentences, {each} samples a
sentence where an arm samples (temperature {heat}), one thread. A record is valid if it is JSON with exactly the three
fields in their types; accuracy is the part of the fields that are right, 0 for an invalid record. Log-probability is
that of the text under the model alone, in nats. FUDGE's classifier of beginnings is a GRU that was trained on
{training} samples from other sentences ({valid_training:.0%} of them valid). A policy that learned its constraint is in
`constraints_learned`.

- Taking the most probable token, hard constraints give {masks[valid]:.0%} (masks) and {template[valid]:.0%} (template)
  valid records, the prompt alone {prompt[valid]:.0%}. Their texts have {masks[logprob]:.1f} and {template[logprob]:.1f}
  nats; what the model writes by itself has {prompt[logprob]:.1f}. The template needs {template[calls]} calls of the
  model for all sentences, the masks {masks[calls]}, the prompt alone {prompt[calls]}.
- Sampling, {rank1[valid]:.0%} of {rank1[texts]} plain samples are valid, and {sampled[valid]:.0%} of {sampled[texts]}
  with masks. Ranked samples are in {rank4[valid]:.0%} and {rank16[valid]:.0%} of the cases for n = 4 and 16; the last
  cost {rank16[ratio]:.1f} times the tokens of n = 1.
- FUDGE with weight 1 makes {fudge1[valid]:.0%} of {fudge1[texts]} samples valid, with weight {most}
  {fudge_most[valid]:.0%}. Its classifier reads {fudge1[candidates]:.0f} tokens for one that is generated.
- It is a task of few sentences: differences of accuracy between arms that are mostly valid are not significant.
- Masking is not conditioning. On a model of {texts} texts that can be enumerated, where a text is valid with
  probability {chance:.2f}, the distribution under masks is {kl[masks]:.3f} nats from the model's own given that the
  text is valid. FUDGE with an exact classifier is that distribution ({kl[fudge]:.0e} nats); with the best two
  candidates only, some texts cannot be written (total variation {variation[two]:.2f}). The first valid one of 16
  samples follows it up to {kl[rank16]:.3f} nats: the chance that none is valid.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from evidence._page import with_interval
from evidence.speculation import random_lm, target
from llmanac.core.pages import Section, table
from llmanac.core.rng import torch_generator
from llmanac.core.spec import make_method
from llmanac.generate.constrain.fudge import Fudge
from llmanac.generate.constrain.sample_rank import rank
from llmanac.generate.constrain.template import Template
from llmanac.generate.engine import Completion, Engine
from llmanac.lab.complexity import one_thread
from llmanac.lab.stats import mean
from llmanac.recipes.prefix_classifier import train_prefix_classifier
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("constrain/template", "constrain/logits", "constrain/sample-rank", "constrain/fudge")
CLAIM = (
    "hard constraints are always valid and cheap; ranking is soft and costs n; masks distort what conditioning does not"
)
SEEDS = 1
TIMED = ("seconds",)
MEANS = ("valid", "accuracy", "logprob", "tokens")
TOLERANCE = 1e-3

HEAT, EACH, RANKED, WEIGHTS, CANDIDATES = 0.7, 4, (1, 4, 16), (1.0, 4.0), 20
PEOPLE = (
    ("Anna Miller", 1984, "Oslo"), ("Tom Baker", 1951, "Dublin"), ("Maria Lopez", 1990, "Madrid"),
    ("Peter Novak", 1978, "Prague"), ("Lucy Brown", 2001, "London"), ("Ivan Petrov", 1969, "Sofia"),
    ("Emma Fischer", 1987, "Berlin"), ("Paul Martin", 1945, "Paris"), ("Sara Rossi", 1993, "Milan"),
    ("John Clark", 1962, "Boston"), ("Nina Larsen", 1975, "Bergen"), ("Omar Hassan", 1980, "Cairo"),
    ("Julia Weber", 1999, "Vienna"), ("David King", 1958, "Sydney"), ("Laura Silva", 1971, "Lisbon"),
    ("Mark Young", 1949, "Denver"), ("Elena Popa", 1996, "Bucharest"), ("Henry Wood", 1983, "Leeds"),
)  # fmt: skip
FORMS = (
    "{0}, who was born in {1}, works as a baker in {2}.",
    "The teacher {0} lives in {2} and was born in {1}.",
    "Born in {1}, {0} moved to {2} to sing.",
)
TESTS = 10  # the first; the others are for training
ASK = (
    'Write the facts of the sentence as JSON with the keys "name", "year" and "city". '
    'Example: {{"name": "John Smith", "year": 1970, "city": "Rome"}}\n\nSentence: {0}'
)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 40},
        "year": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "city": {"type": "string", "minLength": 1, "maxLength": 30},
    },
    "required": ["name", "year", "city"],
    "additionalProperties": False,
}
RECORD = Template(
    '{{"name": "{name:/[A-Z][a-z]+( [A-Z][a-z]+)*/}", "year": {year:/[0-9]{4}/}, "city": "{city:/[A-Z][a-z]+/}"}}'
)


def record_of(text: str) -> dict[str, Any] | None:
    """The record of a valid text."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    kinds = {"name": str, "year": int, "city": str}
    if not isinstance(found, dict) or set(found) != set(kinds):
        return None
    return found if all(type(found[key]) is kind for key, kind in kinds.items()) else None


def accuracy(text: str, person: tuple[str, int, str]) -> float:
    found = record_of(text)
    return (
        0.0 if found is None else sum(found[k] == v for k, v in zip(("name", "year", "city"), person, strict=True)) / 3
    )


def valid(texts: Sequence[str]) -> list[float]:
    return [float(record_of(text) is not None) for text in texts]


@one_thread()
def measure(seed: int, size: str) -> dict[str, Any]:
    """The arms on the task, and distances from the exact conditional."""
    return {"task": task(seed, size), "exact": distances(seed, 6 if size == "full" else 4)}


def task(seed: int, size: str) -> dict[str, Any]:
    full = size == "full"
    if full:
        engine, tests, each, most = target(), PEOPLE[:TESTS], EACH, 48
        asked = [engine.tokenizer.chat_ids([{"role": "user", "content": ASK.format(s)}], add_generation_prompt=True)  # type: ignore[union-attr]
                 for s in sentences()]  # fmt: skip
    else:
        engine = Engine(random_lm(256, 16, 1, seed), train_tokenizer("utf8", []))
        tests, each, most = PEOPLE[:1], 2, 6
        asked = [[1, 2, 3], [4, 5]]
    prompts, others = asked[: len(tests)], asked[len(tests) :]
    calls = [0]
    hook = engine.model.register_forward_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))  # type: ignore[attr-defined]
    arms: dict[str, Any] = {}

    def arm(name: str, take: Callable[[list[Completion]], list[Completion]] | None = None, **options: Any) -> None:
        """One way to write the records: validity, accuracy, log-probability and cost, as means over its texts."""
        before, start = calls[0], time.process_time()
        done = engine.generate(prompts, max_new_tokens=most, seed=seed, **options)
        count = len(done) // len(prompts)
        groups = [done[at * count : (at + 1) * count] for at in range(len(prompts))]
        kept = groups if take is None else [take(group) for group in groups]
        seconds, used = time.process_time() - start, calls[0] - before
        pairs = [(text, person) for group, person in zip(kept, tests, strict=True) for text in group]
        arms[name] = {
            "texts": len(pairs),
            "valid": mean(valid([done.text for done, _ in pairs])),
            "accuracy": mean([accuracy(done.text, person) for done, person in pairs]),
            "logprob": mean(own_logprobs(engine, [done for done, _ in pairs])),
            "tokens": sum(len(one.ids) for one in done) / len(pairs),
            "calls": used,
            "seconds": seconds / len(pairs),
        }

    for constraint in ({"template": RECORD}, {"schema": SCHEMA}):  # what is compiled or read first is not timed
        engine.generate(prompts[0], max_new_tokens=1, **constraint)
    arm("prompt alone")
    arm("template", template=RECORD)
    arm("masks", schema=SCHEMA)
    arm("masks, sampled", schema=SCHEMA, temperature=HEAT, n=each)
    for n in RANKED if full else (1, 2):
        take = lambda group: [rank(group, [valid, "mean-logprob"]).completion]  # noqa: E731
        arm(f"best of {n}", take, temperature=HEAT, n=n)
    samples = engine.generate(others, max_new_tokens=most, temperature=HEAT, seed=seed + 1, n=12 if full else 2)
    labels = [bool(v) for v in valid([done.text for done in samples])] if full else [True, False]
    start = time.process_time()
    classifier = train_prefix_classifier(
        [done.ids for done in samples], labels, vocab_size=engine.model.vocab_size, dim=32, hidden=64, seed=seed,
        epochs=20 if full else 1, report=lambda _: None,
    )  # fmt: skip
    trained = time.process_time() - start
    for weight in WEIGHTS:
        fudge = Fudge(classifier=classifier, k=CANDIDATES, weight=weight)
        name = f"FUDGE, weight {weight:g}"
        arm(name, decoding=[make_method("decoding", {"name": "temperature", "temperature": HEAT}), fudge], n=each)
        arms[name]["candidates"] = fudge.cost.tokens / (arms[name]["tokens"] * arms[name]["texts"])
    hook.remove()
    return {
        "arms": arms,
        "training": len(samples),
        "valid_training": mean([float(label) for label in labels]),
        "training_cost": {"tokens": sum(len(done.ids) for done in samples), "seconds": trained},
        "tests": len(tests),
        "each": each,
    }


def sentences() -> list[str]:
    return [FORMS[at % len(FORMS)].format(*person) for at, person in enumerate(PEOPLE)]


def own_logprobs(engine: Engine, done: Sequence[Completion]) -> list[float]:
    """Nats of each text, its tokens as the tokenizer cuts it, with its end where it has one."""
    ends = sorted(engine.eos_ids)[:1]
    given = []
    for one in done:
        own = engine.tokenizer.encode(one.text)  # type: ignore[union-attr]
        given.append([*one.prompt_ids, *own, *(ends if one.finish_reason == "stop" else [])])
    scored = engine.generate(given, max_new_tokens=0, prompt_logprobs=0)
    return [
        sum(token.logprob or 0.0 for token in one.prompt_token_logprobs[len(start.prompt_ids) :])
        for one, start in zip(scored, done, strict=True)
    ]


def distances(seed: int, length: int) -> dict[str, Any]:
    """Texts of a, b and c: valid with as many a as b. Kullback-Leibler divergences from p(x | valid), in nats."""
    generator = torch_generator(seed, "constraints", "table")
    texts = list(itertools.product(range(3), repeat=length))
    after = {
        ids: torch.randn(3, generator=generator, dtype=torch.float64).mul(1.5).softmax(0).tolist()
        for n in range(length)
        for ids in itertools.product(range(3), repeat=n)
    }
    p = {ids: math.prod(after[ids[:n]][ids[n]] for n in range(length)) for ids in texts}
    fine = {ids for ids in texts if ids.count(0) == ids.count(1)}
    chance = sum(p[ids] for ids in fine)
    future: dict[tuple[int, ...], float] = {}  # p(valid | beginning)
    for n in range(length, -1, -1):
        for ids in itertools.product(range(3), repeat=n):
            future[ids] = float(ids in fine) if n == length else sum(
                after[ids][i] * future[(*ids, i)] for i in range(3)
            )  # fmt: skip

    def steered(weigh: Callable[[tuple[int, ...]], list[float]]) -> dict[tuple[int, ...], float]:
        out = {}
        for ids in fine:
            total = 1.0
            for n in range(length):
                weights = weigh(ids[:n])
                total *= weights[ids[n]] / (sum(weights) or 1.0)
            out[ids] = total
        return out

    def two(ids: tuple[int, ...]) -> list[float]:
        best = sorted(range(3), key=lambda i: -after[ids][i])[:2]
        return [after[ids][i] * future[(*ids, i)] * (i in best) for i in range(3)]

    def divergence(q: dict[tuple[int, ...], float]) -> float | None:
        """KL(p(x | valid) || q); None where it is infinite."""
        if not all(q[ids] for ids in fine):
            return None
        return sum(p[ids] / chance * math.log(p[ids] / chance / q[ids]) for ids in fine)

    def variation(q: dict[tuple[int, ...], float]) -> float:
        """Half of the summed differences; what q lacks to 1 is on texts that are not valid."""
        return (sum(abs(p[ids] / chance - q[ids]) for ids in fine) + 1 - sum(q.values())) / 2

    made = {
        "masks": steered(lambda ids: [after[ids][i] * (future[(*ids, i)] > 0) for i in range(3)]),
        "fudge": steered(lambda ids: [after[ids][i] * future[(*ids, i)] for i in range(3)]),
        "two": steered(two),
        **{f"rank{n}": {ids: p[ids] / chance * (1 - (1 - chance) ** n) for ids in fine} for n in RANKED},
    }
    kl = {name: divergence(q) for name, q in made.items()}
    kl["fudge"] = abs(kl["fudge"] or 0.0)
    return {
        "texts": len(texts), "chance": chance, "kl": kl, "variation": {name: variation(q) for name, q in made.items()},
    }  # fmt: skip


def invalid(seeds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The share of valid texts less 1, by seed."""
    return [one["task"]["arms"][name]["valid"] - 1 for one in seeds]


def tokens_over(seeds: Sequence[dict[str, Any]], name: str, other: str, claimed: int) -> list[float]:
    """Tokens of an arm over those of another a text, relative to the claimed ratio, by seed."""
    arms = [(one["task"]["arms"][name], one["task"]["arms"][other]) for one in seeds]
    return [a["tokens"] / a["texts"] / (b["tokens"] / b["texts"]) / claimed - 1 for a, b in arms]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    """The page."""
    result = seeds[0]
    found = result["task"]
    rows = [
        [
            name, f"{row['texts']}", f"{row['valid']:.0%}", f"{row['accuracy']:.0%}", f"{row['logprob']:.1f}",
            f"{row['tokens']:.0f}", f"{row['calls']}", f"{row['seconds']:.2f} s",
        ]
        for name, row in found["arms"].items()
    ]  # fmt: skip
    head = ["arm", "texts", "valid", "accuracy", "nats", "tokens a text", "calls", "time a text"]
    means = [
        [name, *(with_interval([one["task"]["arms"][name][key] for one in seeds]) for key in MEANS)]
        for name in found["arms"]
    ]
    cost = found["training_cost"]
    notes = [
        "Tokens are those generated for one text that is kept; calls are of the model, for all texts of the arm in one "
        "batch; times are CPU seconds without the compilation of a constraint. The first three arms take the most "
        "probable token. Best of n ranks by validity, then by log-probability a token.",
        f"FUDGE's training set has {cost['tokens']:,} tokens; training took {cost['seconds']:.1f} s.",
    ]
    kl, variation = result["exact"]["kl"], result["exact"]["variation"]
    names = {
        "masks": "masks", "fudge": "FUDGE, exact classifier", "two": "FUDGE, exact classifier, k = 2",
        **{f"rank{n}": f"the first valid of {n}" for n in RANKED},
    }  # fmt: skip
    return [
        Section("The task, first seed", notes, [table(head, rows)]),
        Section(f"Means over {len(seeds)} seeds of the samples", [], [table(["arm", *MEANS], means)]),
        Section(
            "Distance from the exact conditional",
            ["Kullback-Leibler divergence from what each method writes to p(x | valid), and total variation."],
            [
                table(
                    ["method", "nats", "total variation"],
                    [
                        [text, "infinite" if kl[key] is None else f"{kl[key]:.4f}", f"{abs(variation[key]):.4f}"]
                        for key, text in names.items()
                    ],
                )
            ],
        ),
    ]


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    result = seeds[0]
    found = result["task"]
    arms = found["arms"]
    most = f"{WEIGHTS[-1]:g}"
    ranked = {f"rank{n}": arms[f"best of {n}"] for n in RANKED}
    ranked["rank16"] = {**ranked["rank16"], "ratio": ranked["rank16"]["tokens"] / ranked["rank1"]["tokens"]}
    return {
        "target": "SmolLM2-135M-Instruct", "heat": HEAT, "prompt": arms["prompt alone"], "template": arms["template"],
        "masks": arms["masks"], "sampled": arms["masks, sampled"],
        "fudge1": arms["FUDGE, weight 1"], "fudge_most": arms[f"FUDGE, weight {most}"],
        "most": most, **ranked, **result["exact"],
        **{key: found[key] for key in ("training", "valid_training", "tests", "each")},
    }  # fmt: skip
