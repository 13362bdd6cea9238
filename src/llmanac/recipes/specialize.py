"""Rows or documents to a specialist: a small model tuned on a CPU, exported, and proved to be the model it was.

    look -> choose -> tune -> merge -> export -> evaluate -> verify -> report

OUT is a run's folder (`core/run_folder.py`). Each stage leaves a file or a folder under its final name, so a run that
was killed goes on with the first that is missing; the tuning has a folder of its own and goes on at its checkpoint.

    data/train.jsonl, data/test.jsonl     the rows; those that are asked at the end are not trained on
    lint.json                             what `recipes/linting` says of them
    sweep-*/, sweep.json                  with choose = "sweep": each rate and rank, and why one was taken
    tuned/, merged/                       the adapter; the model with it
    model-KIND.gguf, Modelfile            the exports, and what Ollama reads; exports.json has their sizes
    asked.json, verified.json
    results.json, report.html, merged/README.md

A model and its tokenizer in a Hugging Face family's own layout, or as a GGUF file.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from llmanac.adapters import AdapterSpec
from llmanac.core import files, spec
from llmanac.core.errors import CheckpointError, DataError, LlmanacError, SpecError
from llmanac.core.files import atomic_folder
from llmanac.core.outputs import check_new
from llmanac.core.progress import Report
from llmanac.core.ranges import COUNT, INSIDE, POSITIVE, seconds, within
from llmanac.core.run_folder import NothingKept, RunFolder, RunSpec
from llmanac.core.spec import make_method
from llmanac.data.command_problems import CommandProblems
from llmanac.evaluate.divergence import SHORTEST, windows
from llmanac.evaluate.embed import copy_settings
from llmanac.models.gguf.write import TYPES, export_gguf
from llmanac.models.lm.transformer import Transformer
from llmanac.models.load import export_model, load_model
from llmanac.models.locate import GGUF, locate, model_folder
from llmanac.quant.gptq import importance
from llmanac.recipes import specialist
from llmanac.recipes.chat_rows import can_chat
from llmanac.recipes.linting import lint
from llmanac.recipes.linting.rows import messages_of
from llmanac.recipes.merge import merge
from llmanac.recipes.quantize import CALIBRATION, LENGTH
from llmanac.recipes.report import heading
from llmanac.recipes.tune import TUNING, TuneSpec, tune
from llmanac.recipes.tune_rows import RowsSpec, encode_rows, held_out, read_rows
from llmanac.recipes.tuned import Tuned, paired_change
from llmanac.recipes.tuned import results as tuned_results
from llmanac.recipes.verifying import verify
from llmanac.recipes.verifying.answers import compared, held_rows
from llmanac.recipes.verifying.sides import LocalSide
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.questions import questions_of
from llmanac.tokenizers.load import load_tokenizer
from llmanac.train import TrainSpec


def convert(
    source: str,
    target: Path,
    family: str | None,
    kind: str = "f16",
    ignore: Sequence[str] = (),
    calibration: Sequence[str] | None = None,
) -> Any:
    """Load `source` (a run's or model's folder, a .gguf file, or a hub model), write `target`; returns the model.

    Args:
        family: of the folder to write, None for that of the source (llama where it is llmanac's own), or gguf for a
            file, whose name ends in .gguf.
        kind: of the file's weights: one of `models.gguf.write.TYPES`.
        calibration: texts; errors in a column weigh as much as what it is multiplied with there.
        ignore: keys of config.json; see `load_model`.

    Raises:
        LlmanacError: the target exists, or the model does not fit the family.
    """
    free = partial(check_new, target, "TARGET")
    free()
    if (family == "gguf") != (target.suffix == GGUF):
        raise LlmanacError(f"{target}: a GGUF file ends in {GGUF}, and nothing else does")
    place, tokens = locate(source)
    model = load_model(place, ignore=ignore)
    tokenizer = load_tokenizer(tokens)
    try:
        if family == "gguf":
            seen = None
            if calibration is not None:
                length = min(LENGTH, model.max_length or LENGTH)
                texts = windows(calibration, tokenizer, length, CALIBRATION, "--calibration")
                seen = importance(model, texts.batches())
            export_gguf(model, tokenizer, target, kind, seen, ready=free)
            return model
        with atomic_folder(target) as folder:
            export_model(model, folder, family=family or model.family or "llama")
            tokenizer.save(folder)
            copy_settings(model_folder(place), folder)
            free()  # again: another command may have written it meanwhile
    except CheckpointError as error:
        if not isinstance(model, Transformer) or model.spec.head is None or model.spec.head.name != "pointer":
            raise
        raise CheckpointError(
            f"{error}; only llmanac reads a pointer head: train with -s model.head=linear to export the model"
        ) from None
    return model


STOPS = ("mixed-forms", "no-answer", "unknown-role", "unreadable-row")  # what lint says that tuning must not go on with
TUNED, SWEPT = 0.6, 0.2  # shares of a budget
RATES, RANKS, SHARE = (3e-4, 1e-3), (8, 32), 0.2  # of a sweep; its part of the epochs
FINE = ("f32", "f16", "bf16", "q8_0")  # exports that rounding hardly changes
ASKED, WATCHED = 300, 0.05  # held-out prompts, at most; share of the training rows that is measured while it is tuned


@dataclass(frozen=True, kw_only=True)
class SpecializeSpec(RunSpec):
    """What is specialized, and on what.

    Attributes:
        model: a run, a folder, a .gguf file or a hub model's name.
        data: rows as `tune` takes them, or a folder of documents, from which `questions` rows are made.
        choose: "sweep" tries each rate and rank on the same rows for a fifth of the epochs and keeps the default
            unless another one's loss is lower with an interval that excludes 0.
        patience: evaluations of held-out rows without a better loss after which tuning ends; the best is kept.
        test: share of the rows that are asked before and after, and not trained on.
        exports: types of .gguf files. budget: time; most of it is for tuning (see `tune`).
    """

    free = ("budget",)

    model: str
    data: str
    adapter: AdapterSpec = field(default_factory=lambda: make_method("adapter", "lora"))
    train: TrainSpec = field(default_factory=lambda: TrainSpec(optimizer=make_method("optimizer", TUNING)))
    epochs: float = 3.0
    patience: int = 3
    choose: Literal["stated", "sweep"] = "stated"
    test: float = 0.1
    questions: int = 400
    exports: tuple[str, ...] = ("q4_k_m", "q8_0")
    budget: str | None = None
    seed: int = 0

    ranges = within(INSIDE, "test") | within(POSITIVE, "epochs") | within(COUNT, "questions patience")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.budget is not None:
            seconds(self.budget, "budget")
        if unknown := [kind for kind in self.exports if kind not in TYPES]:
            raise SpecError(f"exports: {unknown[0]!r} is none of {', '.join(TYPES)}")
        if self.choose == "sweep" and not self.adapter.rank:
            raise SpecError(f"choose: a sweep is of rates and ranks, and {self.adapter.name} has no rank")


def is_specializing(data: Any) -> bool:
    """Whether a recipe's data is of this form."""
    return isinstance(data, Mapping) and isinstance(data.get("model"), str) and isinstance(data.get("data"), str)


class Specializing:
    """A run in its folder, which is held, and its stages in their order."""

    def __init__(self, held: RunFolder, report: Report) -> None:
        self.held, self.place, self.report = held, held.place, report
        self.asked: SpecializeSpec = held.asked.spec
        self.rows = {side: self.place / "data" / f"{side}.jsonl" for side in ("train", "test")}
        self.exports = [self.place / f"model-{kind}{GGUF}" for kind in self.asked.exports]

    def run(self) -> dict[str, Any]:
        """Every stage that is not done yet; what `results.json` holds.

        Raises:
            DataError, SpecError, CheckpointError: what cannot be used, by file, line or field.
        """
        stages: dict[str, Callable[[], object]] = {
            "look": self.look, "choose": self.choose, "tune": self.tune, "merge": self.merge, "export": self.export,
            "evaluate": lambda: self._once("asked", self._ask), "verify": lambda: self._once("verified", self._verify),
        }  # fmt: skip
        try:
            return self.held.carry_out(stages, self.results, report=self.report)
        except NothingKept:  # of a stage's own folder; this one holds a run
            raise KeyboardInterrupt from None

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        """What a stage found, from its file where it is there."""
        place = self.place / f"{name}.json"
        if not place.is_file():
            files.write_json(place, make())
        try:
            return files.read_json(place)
        except DataError as error:
            raise DataError(f"{error}; delete it, and --resume makes it again") from None

    def look(self) -> None:
        """Make the rows of a folder of documents, look for faults, and take some out to be asked."""
        source = Path(self.asked.data)
        if source.is_dir():
            source = self._documents(source)
        for one in self._once("lint", lambda: self._looked(source)):
            self.report(f"lint: {one['name']}: {one['said']}")
        if source.is_file() and (now := files.file_sha256(source)) != self._once("source", lambda: now):
            raise DataError(
                f"{source}: has changed since {self.place} was begun; put it back, or give another --output"
            )

    def _looked(self, source: Path) -> list[dict[str, str]]:
        """What `lint` says of the rows, which are divided. Raises DataError for what cannot be tuned on or asked."""
        found = lint(str(source), model=self.asked.model)
        if stops := [one.said for one in found if one.name in STOPS]:
            raise DataError(stops[0])
        place, words = locate(self.asked.model)
        tokenizer, longest = can_chat(load_tokenizer(words), source), load_model(place, device="cpu").max_length
        rows = []
        for line, row, (ids, _) in encode_rows(make_method("objective", "chat").reader(tokenizer), source):
            if longest is None or len(ids) <= longest:
                rows.append(row)
            elif source.parent != self.place / "data":  # of a document they are left out
                raise DataError(
                    f"{source}:{line}: has {len(ids):,} tokens, the model reads {longest:,}; shorten or drop it"
                )
        out = held_out(rows, self.asked.test, self.asked.seed + 1)  # other rows than the tuning holds out
        if not any(out):
            raise DataError(f"{source}: of {len(rows)} rows none can be held out to be asked; give more, or other ones")
        for side, path in self.rows.items():
            _write(path, [row for row, asked in zip(rows, out, strict=True) if asked == (side == "test")])
        if not set(self.asked.exports) <= set(FINE):
            windows(self._texts(), tokenizer, SHORTEST, 1, f"{source}: what errors are weighed by")
        return [asdict(one) for one in found]

    def _texts(self) -> list[str]:
        """What is trained on, as texts."""
        return ["\n".join(str(one["content"]) for one in messages_of(row)) or "".join(row.values())
                for _, row in read_rows(self.rows["train"])]  # fmt: skip

    def _documents(self, folder: Path) -> Path:
        """Rows from documents: a passage and a question, answered by the sentence that does."""
        place = self.place / "data" / "rows.jsonl"
        index = FolderIndex.update(folder, self.place / "index", problems=CommandProblems("skip"))
        now = {one["file"]: one["sha256"] for one in index.data["records"]}
        if now != self._once("documents", lambda: now):
            raise DataError(
                f"{folder}: documents have changed since {self.place} was begun; put them back, or give another -o"
            )
        if not place.is_file():
            asked = questions_of(index, self.asked.questions, self.asked.seed)
            pairs = ((f"{one.passage.text.strip()}\n\nQuestion: {one.text}", one.gold) for one in asked if one.passage)
            rows = [{"question": question, "answer": answer} for question, answer in pairs]
            _write(place, rows)
        return place

    def choose(self) -> None:
        """Rate and rank: those of the recipe, or of a short paired sweep."""
        self.adapter, self.train = self.asked.adapter, self.asked.train
        if self.asked.choose == "sweep":
            taken = self._once("sweep", self._sweep)["taken"]
            self.adapter, self.train = self._with(taken["rate"], taken["rank"])
            self.report(f"sweep: rate {taken['rate']:g}, rank {taken['rank']}: {taken['why']}")

    def _with(self, rate: float, rank: int) -> tuple[AdapterSpec, TrainSpec]:
        """The recipe's own with another rate and rank; its scale, alpha over rank, stays."""
        adapter: Any = self.asked.adapter
        patched = spec.patch(adapter, {"rank": rank, "alpha": adapter.alpha * rank / adapter.rank})
        return patched, spec.patch(self.asked.train, {"optimizer.lr": rate})

    def _sweep(self) -> dict[str, Any]:
        default = (self.asked.train.optimizer.lr, self.asked.adapter.rank)  # type: ignore[attr-defined]
        arms = list(dict.fromkeys([default, *((rate, rank) for rate in RATES for rank in RANKS)]))
        found = {}
        for rate, rank in arms:
            how = dict(zip(("adapter", "train"), self._with(rate, rank), strict=True))
            found[rate, rank] = self._tune(f"sweep-rate-{rate:g}-rank-{rank}", SHARE, SWEPT / len(arms), **how)
        rows, base = [], found[default].after
        best, why = default, "the default; no other was better with an interval that excludes 0"
        for (rate, rank), one in found.items():
            change = None if base is None or one.after is None else paired_change(base, one.after)
            loss = math.nan if one.after is None else one.after.mean
            rows.append({"rate": rate, "rank": rank, "loss": loss, "change": change})
            if change is not None and change[2] < 0 and (best == default or loss < found[best].after.mean):  # type: ignore[union-attr]
                best, why = (rate, rank), f"loss {change[0]:+.4f} ({change[1]:+.4f} to {change[2]:+.4f}), same rows"
        return {"arms": rows, "taken": {"rate": best[0], "rank": best[1], "why": why}}

    def _tune(self, name: str, part: float, share: float, **how: Any) -> Tuned:
        """A tuning in a folder of its own, of a part of the epochs, in a share of the budget."""
        place, limit = self.place / name, self.asked.budget and share * seconds(self.asked.budget)
        rows = RowsSpec(file=str(self.rows["train"]), held_out=WATCHED, epochs=part * self.asked.epochs)
        asked = TuneSpec(model=self.asked.model, rows=rows, seed=self.asked.seed, **how)
        begun = RunFolder(place).read() is not None
        return tune(asked, place, resume=begun, budget=limit or None, report=self._told)

    def _told(self, line: str) -> None:
        """What the tuning says, without the option of `tune` that it ends with."""
        self.report(line.partition("; hold out more")[0])

    def tune(self) -> None:
        """The tuning of the recipe, or of what the sweep took."""
        how = {"adapter": self.adapter, "train": self.train, "patience": self.asked.patience}
        self.tuned = self._tune("tuned", 1.0, TUNED, **how)

    def merge(self) -> None:
        if not (self.place / "merged").is_dir():
            merge(self.place / "tuned", self.place / "merged")

    def export(self) -> None:
        texts, sizes = self._texts(), self.place / "exports.json"
        known = files.read_json(sizes) if sizes.is_file() else {}
        for kind, path in zip(self.asked.exports, self.exports, strict=True):
            if path.is_file() and known.get(path.name) not in (None, path.stat().st_size):  # cut short since
                path.unlink()
                (self.place / "verified.json").unlink(missing_ok=True)
            if not path.is_file():  # below 8 bits errors weigh as much as what they are multiplied with on the rows
                convert(str(self.place / "merged"), path, "gguf", kind, calibration=None if kind in FINE else texts)
        files.write_json(sizes, {path.name: path.stat().st_size for path in self.exports})

    def _ask(self) -> dict[str, Any]:
        """The rows that were taken out, asked before and after."""
        before, after = LocalSide(self.asked.model), LocalSide(str(self.place / "merged"))
        can_chat(before.tokenizer, self.rows["test"])
        held = held_rows(after, self.rows["test"], ASKED)
        return asdict(compared(after, before, held, held.length)[0]) | {"length": held.length}

    def _verify(self) -> list[dict[str, Any]]:
        """Whether the exports are the tuned model."""
        found = verify(str(self.place / "tuned"), list(map(str, self.exports)), rows=self.rows["test"])
        return [one.as_json() for one in found]

    def results(self) -> dict[str, Any]:
        """What the stages left, with the report, the model card and the Modelfile."""
        found: dict[str, Any] = {
            **heading(self.place.name, self.asked.seed),
            "recipe": spec.dump(dataclasses.replace(self.asked, adapter=self.adapter, train=self.train)),
            "sweep": self._once("sweep", dict) if self.asked.choose == "sweep" else None,
            "tuned": tuned_results(self.tuned),
            "stopped_early": self.tuned.training.steps < (self.tuned.training.spec.steps or 0),
            **{name: self._once(name, dict) for name in ("lint", "asked", "verified")},
            "exports": [{"file": str(path), "bytes": path.stat().st_size} for path in self.exports],
            "seconds": self.held.state["seconds"],
        }
        found["next"] = specialist.commands(self.exports)
        specialist.write_pages(self.place, found, self.exports)
        return found


def _write(place: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    files.write_text(place, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
