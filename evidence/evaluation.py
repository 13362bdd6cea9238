"""What thirteen benchmarks say about a small model, and about themselves.

SmolLM2-135M-Instruct (4-bit weights, greedy decoding, prompts without the chat template) answered items that were
taken at equal distances from each benchmark's file. `LLMANAC_SHARED_DATA` names the folder of the files; QuAC's has
two articles only, DROP's are its contrast sets. The model is small: many of its scores are near chance or near 0, and
so few items settle large differences only. What is said here of a benchmark holds for this model.

- Artefacts: with the question or the passage hidden, {artefacts}. Of {settled_of} benchmarks with such a baseline, the
  full prompt is better beyond the 95% interval of the paired difference on {settled}.
- Noise: with these items the smallest true difference from 0 that is found four times in five is {detect[0]:.2f} to
  {detect[1]:.2f}.
- StrategyQA: accuracy {strategy[acc]:.3f}, the majority answer {strategy[majority]:.3f} (difference
  {strategy[difference]:+.3f}, 95% interval {strategy[low]:+.3f} to {strategy[high]:+.3f}): the accuracy alone does not
  tell a model that knows something from one that always gives the same answer. This one says Yes to
  {strategy[yes]:.0%}.
- Imbalance: where {rare[share]:.0%} of the texts are positive, always answering "positive" has the accuracy
  {rare[majority]:.3f} and a classifier of sentiment {rare[accuracy]:.3f}; their macro F1 are {rare[majority_f1]:.3f}
  and {rare[f1]:.3f}. Accuracy has no type of error: that rule finds {rare[majority_recall]:.0%} of the negative texts,
  the classifier {rare[recall]:.0%}.
- Exact match: it has no doubt, and is strict. Of SQuAD's answers it accepts {strict[squad]:.0%}, while
  {strict[squad_holds]:.0%} contain a right answer. The model solves none of the GSM8K items, so strictness was
  measured on the benchmark's own solutions with other endings: the number after #### is found in the form of the first
  only, the last number in all but one, where another number follows it.
- Verifiable: GSM8K's own solutions are judged right {gsm8k[own]:,} of {gsm8k[of]:,} times, those of the next question
  {gsm8k[other]:,}; MATH-500's {math[own]:,} of {math[of]} and {math[other]} (of which {gsm8k[equal]} and {math[equal]}
  have the same answer).
- TriviaQA by contamination: half of the questions were added to a text that the model then was trained on for {epochs}
  passes. The search for shared n-grams found {leak[found]} of {leak[leaked]} leaked and {leak[wrong]} other questions.
  The accuracy on what it found went from {leak[before_leaked]:.2f} to {leak[after_leaked]:.2f}, on the rest from
  {leak[before_other]:.2f} to {leak[after_other]:.2f}: the same model's score depends on which half is asked.
- DROP by type of answer: without the chat template the model continues the passage and answers nothing ({drop}); with
  it, {chat_drop}. That says nothing of DROP's own claim, that its questions take several steps: a model that answers
  nothing does not tell one step from several.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks._corpora import needed_data
from evidence._answers import by_type, endings, first, imbalance, mean, strictness, verifiable
from evidence._pretrained import needed
from llmanac.core.pages import Section, table
from llmanac.core.types import Batch
from llmanac.data.documents import Document
from llmanac.data.evaluation_items import Item as Searched
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate._judging import judge_generated
from llmanac.evaluate.answering import Local, load_local
from llmanac.evaluate.benchmark import Benchmark
from llmanac.evaluate.contamination_files import contamination
from llmanac.evaluate.evaluation import Evaluation, evaluate
from llmanac.evaluate.load import load_benchmark
from llmanac.metrics.statistics.estimates import detectable_effect, paired
from llmanac.models.pairs import encode

ROWS = (
    "use/answer", "metric/accuracy", "metric/exact-match", "benchmark/squad", "benchmark/quac", "benchmark/hellaswag",
    "benchmark/piqa", "benchmark/mmlu", "benchmark/triviaqa", "benchmark/gsm8k", "benchmark/math", "benchmark/drop",
    "benchmark/strategyqa",
)  # fmt: skip
CLAIM = "a score means something only with its error, and next to what the same benchmark gives without its question"
SEEDS = 1

# items, and the prompt that hides the question or the passage (None where nothing would be left)
SETS: dict[str, tuple[int, str | None]] = {
    "strategyqa": (229, None), "piqa": (80, "Answer:"), "triviaqa": (80, None), "hellaswag": (32, ""),
    "mmlu": (20, "A. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"),
    "lambada": (32, "{{before.split('. ')[-1]}}"),
    "squad": (32, "Title: {{title|default('')}}\n\nQuestion: {{question}}\n\nAnswer:"),
    "drop": (32, "{{question}}"), "quac": (100, "Q: {{question}}\n\nA:"), "humaneval": (32, None), "mbpp": (16, None),
    "gsm8k": (12, None), "math": (6, None),
}  # fmt: skip
CHAT = ("triviaqa", "drop")  # also asked through the chat template
TOGETHER = {"mmlu": 5}  # neighbors that are taken together: they share examples
FORMS = {"gsm8k": "#### {}", "math": "\\boxed{{{}}}"}  # how a constant answer is written
LEAKED = 40  # questions of TriviaQA, of which half leak
KEPT = Path("studies") / "answers"  # a run that was stopped goes on
EPOCHS, EACH, RATE = 5, 8, 1e-4  # of the training that leaks


def measure(seed: int, size: str) -> dict[str, Any]:
    """Scores of every benchmark with its baselines, and what their parts show."""
    if size == "small":
        return small()
    data = needed_data()
    torch.set_num_threads(1)
    model = load_local(str(needed()), device="cpu", runner="native")
    out: dict[str, Any] = {"benchmarks": {}}
    found: dict[str, Evaluation] = {}
    everything: dict[str, list[BenchmarkItem]] = {}
    for name, (count, hidden) in SETS.items():
        _, own = load_benchmark(name)
        everything[name] = items_of(own, data)
        found[name], out["benchmarks"][name] = with_baselines(model, name, own, everything[name], count, hidden, data)
    yes = [one.answer for one in found["strategyqa"].verdicts]
    truth = [item.choices[item.golds[0]] for item in found["strategyqa"].items]
    out["strategyqa"] = {"answers": dict(Counter(yes)), "truth": dict(Counter(truth))}
    most = out["benchmarks"]["strategyqa"]["constant"]["answer"]
    gain = paired([float(a == b) for a, b in zip(yes, truth, strict=True)], [float(most == b) for b in truth])
    out["majority_gain"] = [gain.mean, gain.low, gain.high]
    out["strict"] = strictness(found["squad"], found["triviaqa"])
    out["drop"] = by_type(found["drop"])
    out["chat"] = {}
    for name in CHAT:
        made = evaluate(model, name, found[name].items, load_benchmark(name)[1], cache=KEPT, chat=True)
        out["chat"][name] = {"scores": scores(made), **({"types": by_type(made)} if name == "drop" else {})}
    out["endings"] = endings(everything["gsm8k"])
    out["verifiable"] = {name: verifiable(name, everything[name], data) for name in ("gsm8k", "math")}
    lines = (data / "sst2" / "stsa.binary.dev").read_text("utf-8").splitlines()
    out["imbalance"] = imbalance([line[2:] for line in lines], [line[0] for line in lines])
    wiki = (data / "text" / "wikitext2_valid.txt").read_text("utf-8").split("\n = ")
    out["leak"] = leak(str(needed()), found["triviaqa"].items[:LEAKED], wiki, seed)
    return out


def spread(total: int, count: int, together: int = 1) -> list[int]:
    """Places at equal distances, or runs of neighbors."""
    count = min(count, total) // together
    return [i * total // count + k for i in range(count) for k in range(together)]


def with_baselines(
    model: Any, name: str, own: Benchmark, everything: list[BenchmarkItem], count: int, hidden: str | None, data: Any
) -> tuple[Evaluation, dict[str, Any]]:
    """An evaluation; its scores, those with the question hidden, and those of the most frequent answer."""
    places = spread(len(everything), count, TOGETHER.get(name, 1))
    kept = None if data is None else KEPT
    made = evaluate(model, name, [everything[i] for i in places], own, cache=kept)
    row: dict[str, Any] = {"items": len(places), "of": len(everything), "scores": scores(made)}
    if own.choices and hidden is None:
        golds = Counter(item.choices[item.golds[0]] for item in everything)
        most = golds.most_common(1)[0][0]
        row["constant"] = {"answer": most, "value": mean([most == i.choices[i.golds[0]] for i in made.items])}
    elif own.generation and "code" not in own.generation.metrics:
        row["constant"] = constant(own, name, everything, made.items)
    if hidden is not None:
        other = replace(own, prompt=hidden)
        listed = items_of(other, data) if data is not None else [replace(i, prompt=hidden) for i in everything]
        blind = evaluate(model, name, [listed[i] for i in places], other, cache=kept)
        row["hidden"] = scores(blind)
        metric = main_metric(made)
        one, two = ([v.scores.get(metric) for v in e.verdicts] for e in (made, blind))
        both = [(a, b, i.cluster) for a, b, i in zip(one, two, made.items, strict=True) if None not in (a, b)]
        shared = [c for _, _, c in both] if made.items[0].cluster is not None else None
        gain = paired([a for a, _, _ in both], [b for _, b, _ in both], shared)
        row["gain"] = [gain.mean, gain.low, gain.high]
    return made, row


def scores(made: Evaluation) -> dict[str, Any]:
    """Each metric: value, standard error, interval."""
    return {s.metric: [s.value, s.standard_error, s.low, s.high] for s in made.scores}


def main_metric(made: Evaluation) -> str:
    """The metric that is shown first."""
    names = [s.metric for s in made.scores]
    return next((name for name in ("acc_norm", "F1") if name in names and made.benchmark != "mmlu"), names[0])


def constant(
    own: Benchmark, name: str, everything: Sequence[BenchmarkItem], items: Sequence[BenchmarkItem]
) -> dict[str, Any]:
    """The score of giving every item the answer that is most frequent in the benchmark."""
    assert own.generation is not None
    golds = Counter(first(item) for item in everything)
    answer = golds.most_common(1)[0][0]
    verdicts = [judge_generated(own.generation, item, FORMS.get(name, "{}").format(answer)) for item in items]
    metric = next((n for v in verdicts for n in v.scores if n == "F1"), next(iter(verdicts[0].scores), ""))
    return {"answer": answer[:40], "value": mean([v.scores[metric] for v in verdicts if metric in v.scores])}


def leak(place: str, items: Sequence[BenchmarkItem], texts: Sequence[str], seed: int) -> dict[str, Any]:
    """Half of the questions are put into a training text, found there again, and the model is trained on them."""
    rng = random.Random(seed)
    leaked = set(rng.sample(range(len(items)), len(items) // 2))
    told = [f"{items[i].prompt} {first(items[i])}\n" for i in sorted(leaked)]
    corpus = list(texts)
    for text in told:
        corpus.insert(rng.randrange(len(corpus) + 1), text)
    documents = [Document(str(i), text, "") for i, text in enumerate(corpus)]
    asked = [Searched(str(i), (item.prompt,)) for i, item in enumerate(items)]
    found = {i for i, one in enumerate(contamination(documents, asked).items) if one.fraction == 1.0}
    model = load_local(place, device="cpu", dtype="float32")  # packed matrices would not be trained
    _, own = load_benchmark("triviaqa")
    before = [v.right for v in evaluate(model, "triviaqa", items, own).verdicts]
    trained(model, told, seed)
    after = [v.right for v in evaluate(model, "triviaqa", items, own).verdicts]
    rest = set(range(len(items))) - found
    out: dict[str, Any] = {
        "items": len(items), "leaked": len(leaked), "found": len(found & leaked), "wrong": len(found - leaked),
    }  # fmt: skip
    for name, values in (("before", before), ("after", after)):
        for part, chosen in (("leaked", found), ("other", rest)):
            out[f"{name}_{part}"] = mean([values[i] for i in sorted(chosen)])
    return out


def trained(model: Local, texts: Sequence[str], seed: int) -> None:
    """Passes over the texts, every token predicted, as in pretraining."""
    tokenizer, network = model.engine.tokenizer, model.engine.model
    assert isinstance(network, torch.nn.Module)
    ids = [encode(tokenizer, text) for text in texts]
    rng = random.Random(seed)
    network.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    for _ in range(EPOCHS):
        order = rng.sample(range(len(ids)), len(ids))
        for at in range(0, len(order), EACH):
            rows = [ids[i] for i in order[at : at + EACH]]
            width = max(map(len, rows))
            full = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            targets = torch.tensor([row + [-100] * (width - len(row)) for row in rows])[:, 1:]
            logits = network(Batch(ids=full[:, :-1])).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()


class Made:
    """Answers by rule, for the small measurement: likelihood falls with length, every answer is the prompt's end."""

    name = identity = "made"

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        return [(-len(b) - (len(a) * 7 + len(b)) % 5, False) for a, b in pairs]

    def generate(self, prompts: Sequence[str], stop: Sequence[str], length: int, chat: bool) -> list[str]:
        return [prompt[-2:] for prompt in prompts]


def small() -> dict[str, Any]:
    """The same parts on rows made by rule."""
    items = [
        BenchmarkItem(f"{i}", "x" * i, ("yes", "no way", "a" * (i % 4 + 1)), (i % 3,)) for i in range(12)
    ]  # fmt: skip
    asked = [BenchmarkItem(f"{i}", f"What is {i}0?", (), (), (f"0{'?' * (i % 2)}", "b"), f"{i % 4}") for i in range(12)]
    _, choices = load_benchmark("hellaswag")
    _, squad = load_benchmark("squad")
    one, row = with_baselines(Made(), "hellaswag", choices, items, 8, "", None)
    two, other = with_baselines(Made(), "squad", squad, asked, 8, "?", None)
    texts = ["good", "bad", "a great film", "not good", "dull and bad"] * 8
    return {
        "benchmarks": {"hellaswag": row, "squad": other}, "strict": strictness(two, two),
        "endings": endings([replace(asked[0], references=("3 + 4 = 7\n#### 7",))]),
        "imbalance": imbalance(texts, ["1", "0", "1", "0", "0"] * 8), "names": main_metric(one),
    }  # fmt: skip


def refused(seeds: Sequence[dict[str, Any]]) -> list[float]:
    """1 for each answer of SQuAD that contains a right one and does not match, else 0."""
    found, n = seeds[0]["strict"], seeds[0]["benchmarks"]["squad"]["items"]
    return [float(i < round(n * (found["squad_holds"] - found["squad"]))) for i in range(n)]


def judged(seeds: Sequence[dict[str, Any]], name: str, whose: str) -> list[float]:
    """1 for each solution that is judged wrongly: the item's own, or the next item's where its answer differs."""
    found = seeds[0]["verifiable"][name]
    wrong, of = (found["other"] - found["equal"], found["of"] - found["equal"]) if whose == "other" else (
        found["of"] - found["own"], found["of"])  # fmt: skip
    return [float(i < wrong) for i in range(of)]


def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
    (found,) = seeds
    rows = []
    for name, row in found["benchmarks"].items():
        for at, (metric, (value, error, low, high)) in enumerate(row["scores"].items()):
            count = f"{row['items']} of {row['of']:,}" if not at else ""
            line = [name if not at else "", count, metric, f"{value:.3f}"]
            line += ["", "", ""] if error is None else [
                f"{error:.3f}", f"{low:.3f} to {high:.3f}", f"{detectable_effect(error):.2f}" if error else ""
            ]  # fmt: skip
            hidden = row.get("hidden", {}).get(metric)
            line.append("" if hidden is None else f"{hidden[0]:.3f}")
            fixed = row.get("constant")
            line.append(f"{fixed['value']:.3f} ({fixed['answer']})" if fixed and not at else "")
            rows.append(line)
    head = ["benchmark", "items", "metric", "value", "standard error", "95% interval", "smallest effect found",
            "question or passage hidden", "most frequent answer"]  # fmt: skip
    uneven = [
        [f"{r['share']:.0%}", f"{r['texts']}", *(f"{r[k]:.3f}" for k in ("accuracy", "f1", "recall", "majority",
         "majority_f1", "majority_recall"))] for r in found["imbalance"]
    ]  # fmt: skip
    titles = ["positive", "texts", "rules: accuracy", "macro F1", "recall of negative"]
    return [
        Section(
            "Scores",
            ["Hidden: the context of HellaSwag's endings, PIQA's goal, MMLU's question (also of its examples), the "
             "passage of SQuAD, QuAC and DROP, and all but the last sentence's beginning of LAMBADA. "
             "The most frequent answer of the benchmark's file is scored by the first metric, or by F1 where there is "
             "one. Code runs in the sandbox."],
            [table(head, rows)],
        ),
        Section(
            "Through the chat template", ["The same items of two benchmarks."],
            [table(["benchmark", "metric", "value", "95% interval"], [
                [name, metric, f"{value:.3f}", f"{low:.3f} to {high:.3f}"] for name, one in found["chat"].items()
                for metric, (value, _, low, high) in one["scores"].items()
            ])],
        ),
        Section(
            "GSM8K's own solutions with other endings", ["The share that each rule accepts."],
            [table(["ending", "after ####", "last number"], [
                [row["form"], f"{row['gsm8k']:.3f}", f"{row['gsm8k-flexible']:.3f}"] for row in found["endings"]
            ])],
        ),
        Section(
            "Accuracy where labels are uneven",
            ["SST-2's development sentences with fewer negative ones; the project's rules for sentiment, and the "
             "answer \"positive\" always."],
            [table([*titles, "always positive: accuracy", "macro F1", "recall of negative"], uneven)],
        ),
    ]  # fmt: skip


def typed(types: dict[str, Sequence[float]]) -> str:
    return ", ".join(f"{kind} F1 {value:.2f} ({count} items)" for kind, (value, count) in types.items())


def facts(seeds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    (found,) = seeds
    rows = found["benchmarks"]
    hidden, settled = [], 0
    for name, row in rows.items():
        if "hidden" in row:
            metric = "acc_norm" if name in ("hellaswag", "piqa") else "F1" if "F1" in row["scores"] else ""
            metric = metric or next(iter(row["scores"]))
            _, low, high = row["gain"]
            values = f"{row['scores'][metric][0]:.2f} against {row['hidden'][metric][0]:.2f} hidden"
            hidden.append(f"{name} {metric} {values} ({low:+.2f} to {high:+.2f})")
            settled += low > 0
    errors = [detectable_effect(score[1]) for row in rows.values() for name, score in row["scores"].items()
              if score[1] and name != "perplexity"]  # fmt: skip
    said, truth = found["strategyqa"]["answers"], found["strategyqa"]["truth"]
    asked = rows["strategyqa"]
    accuracy = asked["scores"]["acc"][0]
    majority = asked["constant"]["value"]
    return {
        "artefacts": "; ".join(hidden), "settled": settled, "settled_of": len(hidden),
        "detect": (min(errors), max(errors)),
        "strategy": {
            "acc": accuracy, "majority": majority, "difference": accuracy - majority,
            "low": found["majority_gain"][1], "high": found["majority_gain"][2],
            "yes": said.get("Yes", 0) / sum(truth.values()),
        },
        "rare": next(row for row in found["imbalance"] if row["share"] == 0.95),
        "strict": found["strict"],
        **found["verifiable"], "epochs": EPOCHS, "leak": found["leak"],
        "drop": typed(found["drop"]), "chat_drop": typed(found["chat"]["drop"]["types"]),
    }  # fmt: skip
