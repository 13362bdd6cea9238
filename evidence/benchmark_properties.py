"""Properties of benchmarks: the five measures of `llmanac benchmark inspect` over benchmarks in one table.

{models} own models that were counted, not trained: n-grams of the orders {orders} over {amounts} of WikiText-2's
validation text, {vocabulary} tokens. They answer the first {limit} items of each benchmark. `cloze` is our own, a TOML
file as any user writes one: which of four endings of three words continues a sentence of WikiText-2's test text, the
wrong ones being endings of other sentences. SmolLM2-135M-Instruct (4 bits) answers the first {few} items only.
`LLMANAC_SHARED_DATA` names the folder of the benchmarks' files. Intervals are 95%; one draw of `cloze` and of leaks.

The claim says that each of the four is measured. That is not so: usefulness is not, since on every benchmark but our
own too few of the twelve models beat chance for a rank correlation, and reproducibility over formats and batch sizes of
models without a random part only, not over seeds or orders of examples: both are measured on checkpoints of pretrained
models ([ten checkpoints](../checkpoints/page.md)). The weakest and the strongest model were chosen
on the items that their difference is of, so that it is too large.

Limits. Counted models see at most three tokens of context: what they score above chance is the frequency of words and
phrases, and the order in which benchmarks rank them says little about larger models. MMLU's first items are of its
first subjects, without examples. {few} items of SmolLM2 have an interval of up to 40 points.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from evidence._page import bullets
from evidence._pretrained import needed
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.evaluate._benchmark_rows import items_of, questions_of
from llmanac.evaluate.answering import Answerer, Local, load_local
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.inspection import hidden, min_k, reproducibility
from llmanac.evaluate.load import load_benchmark
from llmanac.evaluate.properties import answers_of, baselines, difficulty, diversity, leaked, separates, usefulness
from llmanac.generate.engine import Engine
from llmanac.models.pairs import start_token
from llmanac.tokenizers.load import train_tokenizer

ROWS = ("benchmark/difficulty", "benchmark/diversity", "benchmark/usefulness", "benchmark/reproducibility")
CLAIM = (
    "a good benchmark separates models, covers a range, ranks them as others do, and gives the same score again; "
    "each of the four is measured, and benchmarks on which small models guess are named"
)
SEEDS = 1
TOLERANCE = 1e-3
ORDERS, AMOUNTS, VOCABULARY = (1, 2, 4), (1 / 16, 1 / 4, 1 / 2, 1.0), 1000
NAMES = ("piqa", "hellaswag", "mmlu", "strategyqa", "lambada")
LIMIT, FEW, LEAKED = 200, 16, 200
CLOZE = """
title = "Cloze"
prompt = "{{before}}"
[data]
files = ["cloze.jsonl"]
[choices]
texts = "endings"
gold = "right"
"""


def measure(seed: int, size: str) -> dict[str, Any]:
    """Every property of every benchmark, on counted models; SmolLM2 on a few items."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if size == "small":
            pool = [f"{a}{b}{c}" for a in "bdk" for b in "aeiou" for c in "nr"]
            chain = {word: rng.sample(pool, 3) for word in pool}
            sentences = [_walk(chain, rng) for _ in range(120)]
            models = counted(sentences[:80], (1, 2), (1 / 4, 1.0), 300)
            own = cloze(sentences[80:], folder, rng, 24)
            return {"cloze": properties("cloze", own, folder, models, None, 24)}
        data, path = needed_data("piqa", "mmlu", "text"), needed()
        train = sentences_of(data / "text/wikitext2_valid.txt")
        models = counted(train, ORDERS, AMOUNTS, VOCABULARY)
        own = cloze(sentences_of(data / "text/wikitext2_test.txt"), folder, rng, LIMIT)
        found: dict[str, Any] = {"cloze": properties("cloze", own, folder, models, None, LIMIT)}
        own_answers = [answers_of(evaluate(m, "cloze", items_of(own, folder), own)) for m in models]
        for name in NAMES:
            found[name] = properties(name, load_benchmark(name)[1], data, models, own_answers, LIMIT)
        leak = leaks(train, data, models[-1].engine.tokenizer, folder, rng)
        pretrained = load_local(str(path))
        big = {}
        for name in ("cloze", *NAMES):
            big[name] = large(pretrained, name, own if name == "cloze" else load_benchmark(name)[1],
                              folder if name == "cloze" else data)  # fmt: skip
        return {"benchmarks": found, "leaks": leak, "smollm2": big}


def _walk(chain: dict[str, list[str]], rng: random.Random) -> str:
    words = [rng.choice(list(chain))]
    while len(words) < 12:
        words.append(rng.choice(chain[words[-1]]))
    return " ".join(words)


def sentences_of(path: Path) -> list[str]:
    """Sentences of at least eight words."""
    lines = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip() and line.strip()[0] != "="]
    found = [part.strip() for line in lines for part in line.split(" . ")]
    return [part for part in found if len(part.split()) >= 8]


def counted(texts: Sequence[str], orders: Sequence[int], amounts: Sequence[float], vocabulary: int) -> list[Local]:
    """N-gram models over the first part of the texts; all have one tokenizer."""
    tokenizer = train_tokenizer("bpe", list(texts), vocab_size=vocabulary, special_tokens=["<|endoftext|>"])
    ids = [np.array(tokenizer.encode(text), np.int32) for text in texts]
    out = []
    for amount in amounts:
        for order in orders:
            model: Any = make_method("lm", {"name": "ngram", "order": order}).build(vocab_size=tokenizer.vocab_size)
            model.estimate(ids[: max(1, int(amount * len(ids)))], start=start_token(tokenizer))
            name = f"{order}-gram, {amount:.0%}"
            out.append(Local(Engine(model, tokenizer), name, name))
    return out


def cloze(sentences: Sequence[str], folder: Path, rng: random.Random, count: int) -> Any:
    """Our own benchmark: the last three words of a sentence among those of three others."""
    drawn = rng.sample(list(sentences), count)
    ends = [" ".join(text.split()[-3:]) for text in drawn]
    with open(folder / "cloze.jsonl", "w", encoding="utf-8") as file:
        for i, text in enumerate(drawn):
            wrong = rng.sample([end for end in dict.fromkeys(ends) if end != ends[i]], 3)
            right = rng.randrange(4)
            row = {"before": " ".join(text.split()[:-3]), "endings": [*wrong[:right], ends[i], *wrong[right:]]}
            file.write(json.dumps({**row, "right": right}) + "\n")
    (folder / "cloze.toml").write_text(CLOZE)
    return load_benchmark(folder / "cloze.toml")[1]


def properties(name: str, own: Any, folder: Path, models: Sequence[Local], other: Any, limit: int) -> dict[str, Any]:
    """Of one benchmark, on counted models; examples precede no question."""
    items = items_of(own, folder, limit=limit, shots=0)
    answers = [answers_of(evaluate(model, name, items, own)) for model in models]
    base = answers[-1]
    again = reproducibility(models[-1], name, own, folder, base=base, limit=limit, shots=0, seeds=1)
    hard = difficulty(answers)
    hard["item_rest"].pop("lowest", None)  # names of files
    return {
        "difficulty": hard, "diversity": diversity(questions_of(own, folder, limit=limit)),
        "usefulness": usefulness(answers, other) if other else {"not_measured": "the benchmark compared with"},
        "artefacts": [*baselines(own, items, base.metric), hidden(models[-1], name, own, items, base.metric)],
        "reproducibility": {key: again[key] for key in ("value", "standard_error", "detectable", "spread")},
    }  # fmt: skip


def large(model: Answerer, name: str, own: Any, folder: Path) -> dict[str, Any]:
    """A pretrained model on the first items: with and without the question."""
    items = items_of(own, folder, limit=FEW, shots=0)
    found = answers_of(evaluate(model, name, items, own))
    row = {**found.row(1), "model": Path(found.model).name}
    return {"model": row, "chance": found.chance, "hidden": hidden(model, name, own, items, found.metric)}


def leaks(train: Sequence[str], data: Path, tokenizer: Any, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Half of some questions planted in the training text: 13-grams, and Min-K%++ of models with and without it."""
    own = load_benchmark("gsm8k")[1]
    questions = questions_of(own, data, limit=LEAKED)
    planted = set(rng.sample(range(LEAKED), LEAKED // 2))
    texts = list(train) + [questions[i][0] for i in sorted(planted)]
    rng.shuffle(texts)
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    found, report = leaked(questions, [str(i) for i in range(LEAKED)], [str(folder / "train.jsonl")])
    hits = {i for i, one in enumerate(report.items) if one.fraction > 0}
    out: dict[str, Any] = {"planted": len(planted), "recall": len(hits & planted) / len(planted),
                           "others": len(hits - planted), "of": found["items"]}  # fmt: skip
    for label, given in (("seen", texts), ("not seen", train)):
        ids = [np.array(tokenizer.encode(text), np.int32) for text in given]
        for order in (2, 4):
            model: Any = make_method("lm", {"name": "ngram", "order": order}).build(vocab_size=tokenizer.vocab_size)
            model.estimate(ids, start=start_token(tokenizer))
            scores = min_k(Local(Engine(model, tokenizer), "", ""), [one[0] for one in questions])
            out[f"{order}-gram, {label}"] = separates(report, scores)
    return out


def _text(one: dict[str, Any]) -> str:
    return "" if one.get("value") is None else f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _of(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = seeds[0]["benchmarks"]
    return found


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    found, big, leak = _of(seeds), seeds[0]["smollm2"], seeds[0]["leaks"]
    properties_rows, artefact_rows, again_rows = [], [], []
    for name, one in found.items():
        hard, use, many = one["difficulty"], one["usefulness"], one["diversity"]
        rest = hard["item_rest"].get("mean")
        above = sum(model["above_chance"] for model in hard["models"])
        ranked = _text(use["spearman"]) if "spearman" in use else "not measurable" if name != "cloze" else ""
        properties_rows.append([
            name, f"{hard['chance']:.2f}", f"{hard['gap']['value']:+.3f} ({hard['gap']['low']:+.3f} to "
            f"{hard['gap']['high']:+.3f})", f"{above} of {len(hard['models'])}", "" if rest is None else f"{rest:+.3f}",
            ranked, ", ".join(f"{value:.2f}" for value in many["distinct"].values()), f"{many['self_bleu']:.1f}",
        ])  # fmt: skip
        for row in one["artefacts"]:
            if "value" in row:
                artefact_rows.append(
                    [name, f"{row['baseline']}" + (", largest own model" if "model" in row else ""), _text(row)]
                )
        artefact_rows.append([name, "SmolLM2", _text(big[name]["model"])])
        artefact_rows.append([name, "SmolLM2, the question hidden", _text(big[name]["hidden"])])
        again = one["reproducibility"]
        spread = again["spread"]
        again_rows.append([
            name, f"{again['value']:.3f} ± {again['standard_error']:.3f}", f"{again['detectable']:.3f}",
            *(f"{spread[kind]['low']:.3f} to {spread[kind]['high']:.3f}" if kind in spread else ""
              for kind in ("format", "batch size")),
        ])  # fmt: skip
    heads = ["benchmark", "chance", "strongest less weakest", "above chance", "item-rest correlation",
             "Spearman with cloze", "distinct-1, 2, 3", "self-BLEU"]  # fmt: skip
    leak_rows = [[name, f"{one['auc']:.3f} ({one['low']:.3f} to {one['high']:.3f})"] for name, one in leak.items()
                 if isinstance(one, dict)]  # fmt: skip
    return [
        Section("Five properties", ["Weakest and strongest among the own models."], [table(heads, properties_rows)]),
        Section("Scores without the question", [], [table(["benchmark", "what answers", "score"], artefact_rows)]),
        Section(
            "The same score again",
            ["The largest own model; the smallest difference that this many items detect four times in five."],
            [table(["benchmark", "score ± standard error", "detectable", "formats", "batch sizes"], again_rows)],
        ),
        Section(
            "Planted leaks",
            [bullets([f"13-grams find {leak['recall']:.3f} of {leak['planted']} planted questions of GSM8K, and "
                      f"{leak['others']} others."])],
            [table(["model", "AUC of Min-K%++, planted against others"], leak_rows)],
        ),
    ]  # fmt: skip


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "models": len(ORDERS) * len(AMOUNTS), "orders": ", ".join(map(str, ORDERS)), "vocabulary": f"{VOCABULARY:,}",
        "amounts": ", ".join(f"{amount:.0%}" for amount in AMOUNTS), "limit": LIMIT, "few": FEW,
    }  # fmt: skip
