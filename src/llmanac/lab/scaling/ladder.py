"""A ladder: small models of several sizes on several numbers of tokens, the law of their losses, and a larger run.

    sizes N_1 < ... < N_4 x tokens D_1 < ... < D_4 (each twice the one before)  ->  law  ->  the loss of (N_5, 2 D_4)

The prediction is written before the larger run starts, with the interval in which it should lie; then that run is
trained and compared. Each run is trained to its own number of tokens, so that its schedule ends with it, and everything
but size and tokens is one recipe: where its optimizer and head can, one learning rate is carried over the widths
(`base_dim`). The seconds of a step are measured for each size, and the tokens are chosen to fill the budget.

Runs are kept as they finish: the same command continues. Losses are nats a token of held-out text.
"""

import dataclasses
import json
import math
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmanac.core.device import resolve_device
from llmanac.core.errors import SpecError
from llmanac.core.files import read_table, write_json, write_text
from llmanac.core.lock import locked
from llmanac.core.spec import dump, patch
from llmanac.lab.budget import format_duration
from llmanac.lab.cache import digest
from llmanac.lab.prepare import PreparedArms, prepare
from llmanac.lab.scaling.compute import non_embedding
from llmanac.lab.scaling.law import fit_law
from llmanac.recipes.parts import RecipeParts
from llmanac.recipes.plan import SHAPES, shaped
from llmanac.train.loop import train
from llmanac.train.metrics import read_log, read_metrics

RUNGS, LENGTHS = 4, 4
SMALL = ((16, 2, 1, 1), (24, 2, 1, 1), (32, 2, 2, 1), (48, 2, 2, 1))  # below those that a run is planned from
LADDER = (*SMALL, *SHAPES)
USED = 0.85  # of the budget, in training steps
TOKENS_PER_PARAMETER = 8.0  # of the middle run, that the sizes are chosen for
LEAST_STEPS = 40
TIMED = 5  # steps that a size is timed by; the first only allocates
PLAN, RUNS, FIT, RESULT = "plan.json", "runs.jsonl", "fit.json", "result.json"


@dataclass(frozen=True)
class Rung:
    """One run: a shape of `LADDER` and its steps; `held_out` is the larger one that is predicted."""

    shape: tuple[int, int, int, int]
    steps: int
    held_out: bool = False

    @property
    def name(self) -> str:
        return f"{self.shape[0]}x{self.shape[1]}-{self.steps}"


def carried(recipe: Any) -> Any:
    """The recipe with its rate carried over widths from its own width, where optimizer and head have `base_dim`."""
    parts = {"train.optimizer.base_dim": recipe.train.optimizer, "model.head.base_dim": recipe.model.head}
    changes = {path: recipe.model.dim for path, part in parts.items() if part.base_dim is None}
    return patch(recipe, changes) if len(changes) == 2 else recipe


def run_ladder(
    recipe: Any, folder: Path, budget: float, report: Callable[[str], object] = print, samples: int = 400
) -> dict[str, Any]:
    """Train the ladder, or go on with it; returns what result.json holds.

    Raises:
        SpecError: a model without sizes, a budget that is too small, or a folder with another ladder.
        DataError: no text.
    """
    if recipe.model.name != "transformer":
        raise SpecError(f"model: a ladder needs a transformer with sizes, not {recipe.model.name}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", busy=f"{folder}: another process is running this ladder"):
        ladder = _Ladder(carried(recipe), folder, report)
        rungs = ladder.rungs(budget)
        done = {row["name"]: row for row in read_log(folder / RUNS)}
        for rung in rungs:
            if rung.held_out:
                _fitted(folder, [done[one.name] for one in rungs if not one.held_out], rung, ladder, samples, report)
            if rung.name not in done:
                done[rung.name] = ladder.train(rung)
                lines = [json.dumps(row) for row in done.values()]
                write_text(folder / RUNS, "\n".join(lines) + "\n")
        return _result(folder, done[rungs[-1].name], report)


class _Ladder:
    def __init__(self, recipe: Any, folder: Path, report: Callable[[str], object]) -> None:
        self.recipe, self.folder, self.report = recipe, folder, report
        self.device = resolve_device(recipe.device)
        self.prepared: PreparedArms = prepare(recipe, folder / "text")
        texts = self.prepared.report
        self.tokens = sum(len(self.prepared.tokenizer.encode_array(text)) for text in texts)
        self.bytes = sum(len(text.encode("utf-8")) for text in texts)

    def of(self, shape: tuple[int, int, int, int]) -> Any:
        return dataclasses.replace(self.recipe, model=shaped(self.recipe.model, shape))

    def parts(self, shape: tuple[int, int, int, int]) -> RecipeParts:
        return RecipeParts(self.of(shape), self.prepared, self.device)

    def rungs(self, budget: float) -> list[Rung]:
        """Those of the plan that is there, or of a new one, the held-out run last."""
        key = digest({"recipe": dump(self.recipe), "text": self.prepared.identity})
        if (self.folder / PLAN).is_file():
            data = read_table(self.folder / PLAN)
            if data.get("key") != key:
                raise SpecError(
                    f"{self.folder}: holds a ladder of another recipe or text; give another --folder, or delete it"
                )
            self.recipe = patch(self.recipe, data["settled"])
            return [Rung(tuple(r["shape"]), r["steps"], r["held_out"]) for r in data["rungs"]]
        start, unit, settled = self._sizes(budget)
        self.recipe = patch(self.recipe, settled)
        shapes = LADDER[start : start + RUNGS]
        rungs = [Rung(shape, unit << at) for shape in shapes for at in range(LENGTHS)]
        rungs.append(Rung(LADDER[start + RUNGS], unit << LENGTHS, True))
        data = {"key": key, "settled": settled, "rungs": [dataclasses.asdict(r) for r in rungs]}
        write_json(self.folder / PLAN, data)
        sizes = ", ".join(f"{s[0]}x{s[1]}" for s in shapes)
        tokens = self.recipe.train.batch_tokens
        self.report(
            f"{len(rungs) - 1} runs of width x layers {sizes}, {unit * tokens:,} to {(unit << LENGTHS - 1) * tokens:,} "
            f"tokens each; then {rungs[-1].name} is predicted and trained, in about {format_duration(budget)}"
        )
        return rungs

    def _sizes(self, budget: float) -> tuple[int, int, dict[str, Any]]:
        """The first shape, the steps of the shortest runs, and settings measured once on the largest shape tried.

        Of the shapes that start at each rung, those are taken whose middle run is nearest `TOKENS_PER_PARAMETER`.
        """
        found: list[tuple[float, int, int, dict[str, Any]]] = []
        seconds: dict[int, float] = {}
        spent = 0.0
        for start in range(len(LADDER) - RUNGS):
            settled: dict[str, Any] = {}
            for at in range(start, start + RUNGS + 1):
                if at not in seconds:
                    seconds[at], settled = self._measure(LADDER[at])
            cost = sum(seconds[start + i] for i in range(RUNGS)) * ((1 << LENGTHS) - 1)
            cost += seconds[start + RUNGS] * (1 << LENGTHS)
            unit = int((USED * budget - spent) / cost)
            middle = sum(self._count(LADDER[start + i]) for i in range(RUNGS)) / RUNGS
            tokens = max(unit, 1) * self.recipe.train.batch_tokens * 2**1.5
            found.append((abs(math.log(tokens / middle / TOKENS_PER_PARAMETER)), start, unit, settled))
            if unit < LEAST_STEPS or (len(found) > 1 and found[-1][0] > found[-2][0]):
                break
        good = [row for row in found if row[2] >= LEAST_STEPS]
        if not good:
            raise SpecError(
                f"--budget: {format_duration(budget)} gives the shortest runs {found[0][2]} steps, and they need "
                f"{LEAST_STEPS}; give more time, or lower train.batch_tokens"
            )
        _, start, unit, settled = min(good)
        return start, unit, settled

    def _count(self, shape: tuple[int, int, int, int]) -> int:
        with torch.device("meta"):
            model = self.of(shape).model.build(vocab_size=self.prepared.tokenizer.vocab_size)
        return int(model.parameter_count())

    def _measure(self, shape: tuple[int, int, int, int]) -> tuple[float, dict[str, Any]]:
        """Seconds of a step, and the settings that were left open."""
        parts, work = self.parts(shape), self.folder / "work" / "measure"
        spec = dataclasses.replace(parts.recipe.train, steps=TIMED, compile="never")
        done = train(parts.model(0), parts.rows(0), parts.objective, spec, work, seed=0, resume=False, label="measure")
        taken = [line["seconds"] for line in read_metrics(work) if "seconds" in line]
        names = ("dtype", "attention", "micro_batch", "compile")
        return statistics.median(taken[1:]), {f"train.{name}": getattr(done.spec, name) for name in names}

    def train(self, rung: Rung) -> dict[str, Any]:
        """Train and measure one run."""
        parts, work = self.parts(rung.shape), self.folder / "work" / rung.name
        seed = self.recipe.seed
        spec = dataclasses.replace(parts.recipe.train, steps=rung.steps)
        model = parts.model(seed)
        done = train(
            model, parts.rows(seed), parts.objective, spec, work, seed=seed, label=rung.name, report=self.report
        )
        model.eval()
        (bits,) = [i.mean for n, i in parts.measure(model, parts.held_out(self.prepared.report)).items()
                   if n == "bits_per_byte"]  # fmt: skip
        shutil.rmtree(work, ignore_errors=True)
        return {
            "name": rung.name, "parameters": model.parameter_count(), "non_embedding_parameters": non_embedding(model),
            "tokens": done.tokens, "loss": bits * math.log(2) * self.bytes / self.tokens, "bits_per_byte": bits,
            "steps": rung.steps, "seconds": done.seconds, "epochs": done.tokens / max(1, len(self.prepared.dataset)),
            "flops": model.flops_per_token(spec.length) * done.tokens, "held_out": rung.held_out,
        }  # fmt: skip


def _fitted(
    folder: Path, rows: Sequence[dict[str, Any]], rung: Rung, ladder: _Ladder, samples: int, report: Any
) -> None:
    """Write the fit and the prediction, once: before the larger run starts."""
    if (folder / FIT).is_file():
        return
    fit = fit_law(*([row[n] for row in rows] for n in ("parameters", "tokens", "loss")), samples=samples)
    parameters, tokens = ladder._count(rung.shape), rung.steps * ladder.recipe.train.batch_tokens
    value, interval = fit.predict(parameters, tokens)
    assert interval is not None  # a ladder has 16 runs
    low, high = interval
    said = {"parameters": parameters, "tokens": tokens, "loss": value, "low": low, "high": high}
    write_json(folder / FIT, {**fit.as_json(), "prediction": said, "largest": max(r["flops"] for r in rows)})
    report(f"predicted for {rung.name}: {value:.4f} nats a token, 95% interval {low:.4f} to {high:.4f}")


def _result(folder: Path, row: dict[str, Any], report: Any) -> dict[str, Any]:
    data = read_table(folder / FIT)
    said = data["prediction"]
    result = {
        "runs": read_log(folder / RUNS), "law": data["law"], "intervals": data["intervals"], "predicted": said,
        "measured": row["loss"], "inside": said["low"] <= row["loss"] <= said["high"],
        "error": said["loss"] / row["loss"] - 1,
    }  # fmt: skip
    write_json(folder / RESULT, result)
    words = "inside" if result["inside"] else "outside"
    report(f"measured: {row['loss']:.4f}, {words} the interval; the prediction is {result['error']:+.2%} off")
    return result
