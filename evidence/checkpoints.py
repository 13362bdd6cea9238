"""What three benchmarks say of ten checkpoints of real models, and whether they say it again.

The checkpoints are SmolLM2-135M-Instruct (Q4_1), Gemma 3 270M (base, Q4_K_M) and Qwen2.5-Coder-0.5B-Instruct (Q4_K_M;
its header says that it was made from AWQ weights): as they are, with their layers rounded once more to int4 or nf4,
and, of the two smaller ones, after {passes} passes of full tuning over {length} tokens of {texts} articles of
WikiText-2's validation part. Each answered {items} items of PIQA, HellaSwag and MMLU (no examples), taken at equal
distances, by the likelihood of the choices in float32. {made} of {checkpoints} checkpoints are made so far.
`LLMANAC_SHARED_DATA` names the folder.

SmolLM2 then answered again: MMLU's items after five examples in {orders} other orders, SQuAD's at a temperature of
{temperature} from {samples} seeds, PIQA's in batches of {batches} tokens.

{findings}

The gap of the weakest and the strongest is of every other item; the two were chosen on the rest. Ten checkpoints are
three models: a rank correlation over them is mostly one of three, and its interval, which takes them for ten, is too
narrow. Which items are right at 135M to 500M parameters says little about larger models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks._corpora import needed_data
from evidence._page import bullets
from evidence._pretrained import needed
from evidence._verdicts import Estimate
from evidence.evaluation import EPOCHS, Made, main_metric, spread, trained
from evidence.quantized_models import articles
from llmanac.core.pages import Section, table
from llmanac.core.spec import make_method
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate.answering import Local, load_local
from llmanac.evaluate.evaluation import Evaluation, evaluate
from llmanac.evaluate.load import load_benchmark
from llmanac.lab.complexity import one_thread
from llmanac.metrics.item_rest import item_rest
from llmanac.metrics.rank_correlation import rank_correlation
from llmanac.metrics.statistics.estimates import estimate, paired

ROWS = ("benchmark/difficulty", "benchmark/usefulness", "benchmark/reproducibility")
CLAIM = "items separate models, two benchmarks rank them alike, and a score comes out again"
METRIC = "accuracy (normalised for HellaSwag and PIQA), F1 for SQuAD"
MARGIN = (
    "0.01 for the item-rest correlation, the gap and the rank correlation; another order or seed moves a score by less "
    "than its items detect four times in five"
)
SEEDS, REPLICATE = 1, "model: checkpoints, items and repeated runs are the replicates"
SETS = {"piqa": 200, "hellaswag": 200, "mmlu": 171}
FORMS = {"smollm2": ("", "int4", "nf4", "tuned"), "gemma": ("", "int4", "nf4", "tuned"), "qwen": ("", "int4")}
CHECKPOINTS = tuple(f"{model}-{form}".rstrip("-") for model, forms in FORMS.items() for form in forms)
ARMS = CHECKPOINTS
ORDERS, SAMPLES, BATCHES = 5, 5, (1, 4096, 16384)
TEMPERATURE, ANSWERED, TEXTS, LENGTH = 0.7, 100, 32, 128
RUNS = {"order": range(ORDERS + 1), "sample": range(SAMPLES), "batch": BATCHES}
AGAIN = tuple(f"{kind}-{k}" for kind, runs in RUNS.items() for k in runs)
PIECES = (*CHECKPOINTS, *AGAIN)
PARTIAL = True
Seeds = Sequence[dict[str, Any]]


class Sampled(Local):
    """Answers are drawn."""

    def __init__(self, model: Local, seed: int) -> None:
        super().__init__(model.engine, model.name, model.identity)
        self.seed = seed

    def generate(self, prompts: Sequence[str], stop: Sequence[str], length: int, chat: bool) -> list[str]:
        ids, length = self._ids(prompts, length, chat)
        asked = [
            self.engine.request(own, max_new_tokens=length, stop=tuple(stop), temperature=TEMPERATURE,
                                seed=1000 * self.seed + i) for i, own in enumerate(ids)
        ]  # fmt: skip
        return [one.text for one in self.engine.run(asked)]


@one_thread()
def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
    """The score of each item: of a checkpoint on all three benchmarks, or of a repeated run."""
    if size == "small":
        items = [BenchmarkItem(f"{i}", "x" * i, ("yes", "no way", "a" * (i % 4 + 1)), (i % 3,)) for i in range(12)]
        return {CHECKPOINTS[0]: {"piqa": scored(evaluate(Made(), "piqa", items, load_benchmark("piqa")[1]))}}
    kind, _, form = piece.partition("-")
    data = needed_data()
    model = load_local(str(needed(kind if kind in FORMS else "smollm2")), device="cpu", dtype="float32", runner="torch")
    if kind in FORMS:
        if form == "tuned":
            read = articles(data / "text" / "wikitext2_valid.txt")[:TEXTS]
            tokenizer = model.engine.tokenizer
            trained(model, [tokenizer.decode(list(tokenizer.encode(text))[:LENGTH]) for text in read], seed)
        elif form:
            make_method("quantizer", form).build().apply(model.engine.model)
        return {name: asked(model, name, count, data, shots=0) for name, count in SETS.items()}
    if kind == "order":
        return asked(model, "mmlu", SETS["mmlu"], data, shuffle=int(form) or None)
    if kind == "sample":
        return asked(Sampled(model, int(form)), "squad", ANSWERED, data)
    return asked(Local(model.engine, "", "", batch_tokens=int(form)), "piqa", SETS["piqa"], data)


def asked(model: Local, name: str, count: int, data: Any, shots: int | None = None, shuffle: int | None = None) -> Any:
    """The scores of a model on items at equal distances."""
    own = load_benchmark(name)[1]
    own = replace(own, shots=replace(own.shots, shuffle=shuffle))
    items = items_of(own, data, shots=shots)
    return scored(evaluate(model, name, [items[i] for i in spread(len(items), count)], own))


def scored(found: Evaluation) -> list[float]:
    metric = main_metric(found)
    return [round(verdict.scores.get(metric, 0.0), 3) for verdict in found.verdicts]


def made(seeds: Seeds) -> list[str]:
    return [name for name in CHECKPOINTS if name in seeds[0]]


def matrix(seeds: Seeds, name: str) -> np.ndarray:
    """(M, N): the scores of the checkpoints on a benchmark's items."""
    return np.array([seeds[0][one][name] for one in CHECKPOINTS])


def separation(seeds: Seeds) -> list[float]:
    """By item that not all checkpoints do equally well on, its correlation with the other items of its benchmark."""
    found = np.concatenate([item_rest(matrix(seeds, name)).correlation for name in SETS])
    return [float(one) for one in found[~np.isnan(found)]]


def gap(seeds: Seeds, name: str) -> Estimate:
    """The strongest less the weakest on the items of odd place; chosen on those of even place."""
    scores = matrix(seeds, name)
    order = scores[:, ::2].mean(1).argsort(kind="stable")
    held = scores[:, 1::2]
    one = paired(held[order[-1]], held[order[0]])
    return Estimate(one.mean, one.low, one.high, held.shape[1])


def ranked(seeds: Seeds, one: str, other: str) -> Estimate:
    """Spearman's correlation of two benchmarks over the checkpoints."""
    found = rank_correlation(matrix(seeds, one).mean(1), matrix(seeds, other).mean(1))
    assert found.low is not None and found.high is not None
    return Estimate(found.value, found.low, found.high, found.systems)


def moved(seeds: Seeds, kind: str) -> list[float]:
    """By repeated run, how far its score is from the first run's, less the difference that its items detect."""
    first, *others = (seeds[0][name] for name in AGAIN if name.startswith(kind))
    detected = estimate(np.array(first)).detectable
    return [abs(float(np.mean(one)) - float(np.mean(first))) - detected for one in others]


def findings(seeds: Seeds) -> list[str]:
    """A sentence a property whose cells are there."""
    found = seeds[0]
    out = []
    if len(made(seeds)) == len(CHECKPOINTS):
        rest = separation(seeds)
        out.append(f"Difficulty: the mean item-rest correlation of {len(rest)} items is {np.mean(rest):+.2f}; "
                   f"{np.mean(np.array(rest) < 0):.0%} of them are below 0.")  # fmt: skip
        ranks = (
            (a, b, ranked(seeds, a, b)) for a, b in (("piqa", "hellaswag"), ("piqa", "mmlu"), ("hellaswag", "mmlu"))
        )
        out.append("Usefulness: rank correlation over the checkpoints, " + ", ".join(
            f"{a} with {b} {r.value:+.2f} ({r.low:+.2f} to {r.high:+.2f})" for a, b, r in ranks) + ".")  # fmt: skip
    for kind, what in (("order", "other orders of examples"), ("sample", "other seeds"), ("batch", "other batches")):
        names = [name for name in AGAIN if name.startswith(kind) and name in found]
        if len(names) > 1:
            values = [np.mean(found[name]) for name in names]
            noise = estimate(np.array(found[names[0]])).detectable
            out.append(f"Reproducibility, {what}: {len(names)} scores from {min(values):.3f} to {max(values):.3f}; "
                       f"these items detect a difference of {noise:.3f} four times in five.")  # fmt: skip
    return out or ["Too few cells are made for a finding."]


def show(seeds: Seeds) -> list[Section]:
    rows = [[name, *(f"{np.mean(seeds[0][name][one]):.3f}" for one in SETS)] for name in made(seeds)]
    sections = [Section("Scores by checkpoint", [], [table(["checkpoint", *SETS], rows)])]
    again = [[name, f"{np.mean(seeds[0][name]):.3f}", str(len(seeds[0][name]))] for name in AGAIN if name in seeds[0]]
    if again:
        sections.append(Section("SmolLM2 again", [], [table(["run", "score", "items"], again)]))
    return sections


def facts(seeds: Seeds) -> dict[str, Any]:
    counts = sorted(set(SETS.values()))
    return {
        "texts": TEXTS, "passes": EPOCHS, "length": LENGTH, "items": " and ".join(map(str, counts)),
        "made": len(made(seeds)), "checkpoints": len(CHECKPOINTS), "orders": ORDERS, "temperature": TEMPERATURE,
        "samples": SAMPLES, "batches": ", ".join(f"{one:,}" for one in BATCHES), "findings": bullets(findings(seeds)),
    }  # fmt: skip
