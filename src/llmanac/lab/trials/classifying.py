"""A trial that classifies: an arm learns from more and more labelled texts, and is asked about texts held out.

    llmanac compare classifier --arms rules,bow,cbow --data TRAIN.jsonl --on TEST.jsonl
    llmanac compare start --arms pretrained,scratch,shuffled --data TRAIN.jsonl --on TEST.jsonl --artefact MODEL

`classifier` varies the method. The replicate is a test text: 1 where the answer is right, the mean over the seeds.

`start` varies the weights that the fine-tuning of a language model begins with, and nothing else: the same rows in the
same order, head, schedule and steps. The replicate is the seed, and the first metric is macro F1, which the most
frequent label alone does not raise.

`pretrained` is the checkpoint; `scratch` has the initial weights that its training began with, or those of another
seed; `shuffled` has the numbers of every tensor of the checkpoint in random order: its scales, nothing that it learned.

The smaller samples of a seed are a part of the larger ones. Costs are of the training on most rows, with the accuracy
on the plain and the changed sentences of each failure slice (`lab/slices.py`).

Howard & Ruder 2018 (https://arxiv.org/abs/1801.06146), section 5.1, for scores over the number of labels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from llmanac.core.errors import DataError, SpecError
from llmanac.core.rng import numpy_generator, parameter_generator
from llmanac.core.spec import Spec, dump, make, make_method, patch
from llmanac.data.command_problems import CommandProblems
from llmanac.data.labelled import Labelled, read_labelled
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.cache import digest
from llmanac.lab.pairing import hash_row
from llmanac.lab.runner import Applied, RunnerRequest, Say
from llmanac.lab.slices import PARTS, SliceRule, read_slices, sentiment_slices, tone_names
from llmanac.lab.sources import run_key
from llmanac.lab.stats import BOOTSTRAP, STUDENT, Metric
from llmanac.lab.study import Measurement
from llmanac.lab.trials.decoding import DecodedModel
from llmanac.metrics.accuracy import Report, report
from llmanac.models.classifiers import ClassifierSpec
from llmanac.recipes.classification import check_sizes, small_language_model, train_classifier
from llmanac.recipes.classifying.use import BOUNDS, build_classifier, check_known, needs_model

MEASURE_VERSION = 1
SIZES = (10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
TRAINED = "train"  # the language model that is trained on the training texts
TITLES = {"accuracy": "accuracy", "macro_f1": "macro F1"}
SCORES: dict[str, tuple[str, ...]] = {"text": ("accuracy",), "seed": ("macro_f1", "accuracy")}  # by replicate


@dataclass(frozen=True, kw_only=True)
class ClassifierStart(Spec):
    """The weights that a fine-tuning begins with."""

    kind: ClassVar[str] = "start"
    name: Literal["pretrained", "scratch", "shuffled"] = "pretrained"


@dataclass(frozen=True, kw_only=True)
class LabelledTexts(Spec):
    """What all arms learn from and are asked about.

    Attributes:
        train, test: files; text, label: their columns.
        model: folder of a language model, or `train` for a small one of the training texts.
        sizes: numbers of rows; methods are also trained on all.
        rules: a rulebook of one's own; slices: failure slices, as JSON Lines.
        method: the fine-tuning whose start varies.
    """

    train: str
    test: str
    text: str = "text"
    label: str = "label"
    model: str | None = None
    sizes: tuple[int, ...] = SIZES
    rules: str | None = None
    slices: str | None = None
    method: ClassifierSpec = field(default_factory=lambda: make_method("classifier", "fine-tuning"))

    def __post_init__(self) -> None:
        if min(self.sizes, default=0) < 2:
            raise SpecError(f"sizes: {list(self.sizes)}: give numbers of at least 2 labelled texts")
        check_sizes(self.method)


def labelled_of(data: str | None, on: Any, model: str | Path | None, changes: Mapping[str, Any]) -> LabelledTexts:
    """The base of a comparison of classifiers. Raises SpecError where a file is missing."""
    for flag, value, what in (("data", data, "learn from"), ("on", on, "be asked about")):
        if value is None:
            raise SpecError(f"--{flag}: classifiers need labelled texts to {what}; name the file")
    given = {"train": data, "test": str(on), "model": None if model is None else str(model)}
    return patch(make(LabelledTexts, given), changes)


def sample(labels: Sequence[str], size: int, seed: int) -> np.ndarray:
    """The numbers of `size` rows in a random order; the first of each label come first, so that none is missing.

    The samples of one seed are nested: a larger one holds the smaller ones.
    """
    order = numpy_generator(seed, "rows of a learning curve").permutation(len(labels))
    first: dict[str, int] = {}
    for number in order:
        first.setdefault(labels[number], int(number))
    leading = list(first.values())
    rest = order[~np.isin(order, leading)]
    return np.concatenate([np.array(leading, np.int64), rest])[: max(size, 2)]


@torch.no_grad()
def begun(model: Any, start: ClassifierStart, seed: int) -> Any:
    """A copy of a model with the weights that an arm starts from.

    Raises:
        SpecError: a model that cannot be initialised.
    """
    made = copy.deepcopy(model)
    if start.name == "scratch":
        if not hasattr(made, "initialise"):
            raise SpecError(f"model: {type(made).__name__} has no initial weights to start from scratch with")
        made.initialise(seed)
    if start.name == "shuffled":
        for name, parameter in made.named_parameters():
            generator = parameter_generator(seed, f"shuffled.{name}", tuple(parameter.shape))
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return made


class ClassifyingTrial(Applied):
    """Trains an arm on samples of the rows under a seed, and asks it about every test text.

    Args:
        sizes: numbers of rows, ascending.
        language_model: a model and its tokenizer, for arms that stand on one; identity: what it is.
        method: the fine-tuning whose start varies, where that is what varies.
    """

    seeds = None

    def __init__(
        self, arms: Sequence[Arm], train: Labelled, test: Labelled, sizes: Sequence[int], *,
        slices: Sequence[SliceRule] = (), language_model: tuple[Any, Any] | None = None, identity: str = "",
        method: ClassifierSpec | None = None,
    ) -> None:  # fmt: skip
        self.train, self.test, self.items, self.sizes = train, test, test.texts, list(sizes)
        self.slices, self.language_model, self.method, self.arms = slices, language_model, method, arms
        self.names = sorted({*train.labels, *test.labels})
        self.replicate, self.tests = ("text", BOOTSTRAP) if method is None else ("seed", STUDENT)
        self.metrics = tuple(
            Metric(f"{score}_{size}", "", "higher", f"{TITLES[score]} after {size:,} rows")
            for score in SCORES[self.replicate] for size in reversed(self.sizes)
        )  # fmt: skip
        self.costs = (
            Metric("macro_f1", "", "higher", "macro F1"), Metric("seconds", "s", "lower", "CPU time to train"),
            Metric("parameters", "", "lower", "trained parameters"),
            Metric("texts", "text/s", "higher", "texts a CPU second"),
            *(Metric(f"{one.name} {part}", "", "higher", f"{one.name}: {part}") for one in slices for part in PARTS),
        )  # fmt: skip
        changed = [text for one in slices if one.name == "negation" for text in one.texts("changed")]
        self.example = changed[-1] if changed else min(test.texts, key=lambda text: abs(len(text) - 60))
        self.learns = {arm.label: self.build(arm, 0).learned for arm in arms}  # also refuses what cannot be built
        self.words = f"Each arm learns from {', '.join(f'{n:,}' for n in self.sizes)} rows and answers {{}} texts."
        self.definition = digest(
            [train.texts, train.labels, test.texts, test.labels, self.sizes, [one.items for one in slices], identity]
        )

    @classmethod
    def of(cls, question: RunnerRequest, say: Say) -> ClassifyingTrial:
        """The trial of a question. Raises DataError: a test label that is in no training row."""
        base = question.base
        problems = CommandProblems(bounds=BOUNDS)
        train, test = (
            read_labelled(path, text=base.text, label=base.label, problems=problems) for path in (base.train, base.test)
        )
        check_known(set(train.labels), test, Path(base.test))
        starts = question.axis.kind == "start"
        arms = question.arms(lambda text: _start(text) if starts else _method(text, base, train))
        needing = [arm.label for arm in arms if starts or needs_model(arm.spec)]
        if needing and base.model is None:
            raise SpecError(f"arm {needing[0]!r}: needs a language model; give its folder as --artefact, or `train`")
        subject = None if not needing or base.model == TRAINED else DecodedModel.load(base.model, "cpu")
        pair = None if subject is None else (subject.model, subject.tokenizer)
        if needing and subject is None:
            pair = small_language_model(train.texts)
        slices = _our_slices(train.labels) if base.slices is None else read_slices(Path(base.slices))
        sizes = {min(size, len(train)) for size in (*base.sizes, *([] if starts else [len(train)]))}
        # the first training of a process compiles and imports; that is no method's time
        make_method("classifier", "bow").build().fit(["a b", "c d"], ["1", "2"])
        trial = cls(
            arms, train, test, sorted(sizes), slices=[] if starts else slices, language_model=pair,
            identity=subject.sha256 if subject else base.model or "", method=base.method if starts else None,
        )  # fmt: skip
        floor = trial.majority()
        note = f"The most frequent label alone: accuracy {floor.accuracy:.3f}, macro F1 {floor.macro_f1:.3f}."
        trial.about = {
            "data": {"train": base.train, "rows": len(train), "test": base.test, "labels": ", ".join(trial.names[:12])},
            "held": "the same rows", "curve": ("training rows", TITLES[SCORES[trial.replicate][0]]), "notes": [note],
        }  # fmt: skip
        say(f"text: {len(train):,} rows of {base.train}, {len(test):,} of {base.test}, {len(trial.names)} labels")
        return trial

    def majority(self) -> Report:
        """The scores of the most frequent label alone."""
        most = max(self.names, key=self.train.labels.count)
        return report(self.names, self.test.labels, [most] * len(self.test))

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers; what is not trained is the same under every seed."""
        return run_key(
            "classifying", [arm.spec, *filter(None, [self.method])], (__name__, train_classifier.__module__),
            measure=MEASURE_VERSION, arm=dump(arm.spec), method=self.method and dump(self.method),
            seed=seed if self.learns[arm.label] else 0, texts=self.definition,
        )  # fmt: skip

    def build(self, arm: Arm, seed: int) -> Any:
        """An arm's classifier before its training."""
        if self.method is None:
            return build_classifier(arm.spec, self.language_model)
        assert self.language_model is not None  # of an axis of starts
        model, tokenizer = self.language_model
        return self.method.build(model=begun(model, arm.spec, seed), tokenizer=tokenizer)

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Train on each number of rows, and answer; what is not trained answers once."""
        values, curve, learns = dict[str, list[float]](), list[dict[str, float]](), self.learns[arm.label]
        read: list[str] = []  # hashes of the samples, which must be the same for every arm
        for size in self.sizes if learns else self.sizes[-1:]:
            rows = sample(self.train.labels, size, seed) if learns else range(len(self.train))
            read += [hash_row(rows)] if learns else []
            classifier, begin = self.build(arm, seed), time.process_time()
            classifier.fit([self.train.texts[n] for n in rows], [self.train.labels[n] for n in rows], seed=seed)
            taken, begin = time.process_time() - begin, time.process_time()
            given = list(classifier.predict(self.test.texts))
            rate = len(given) / max(1e-9, time.process_time() - begin)
            found = report(self.names, self.test.labels, given)
            scores = {score: [float(getattr(found, score))] for score in TITLES}
            if self.replicate == "text":
                scores["accuracy"] = [float(a == b) for a, b in zip(given, self.test.labels, strict=True)]
            values |= {f"{score}_{size}": scores[score] for score in SCORES[self.replicate]}
            value = float(getattr(found, SCORES[self.replicate][0]))
            curve += [{"tokens": n, "seconds": taken, "value": value} for n in ([size] if learns else self.sizes)]
        for metric in self.metrics:
            values.setdefault(metric.name, values[f"{metric.name.rpartition('_')[0]}_{self.sizes[-1]}"])
        costs: dict[str, float | None] = {
            "macro_f1": found.macro_f1, "texts": rate, "seconds": taken if learns else 0.0, "parameters": 0,
            **self.look(arm, seed, classifier),
        }  # fmt: skip
        shown = "\n".join(classifier.explain(self.example).lines(8))
        return Measurement(values, costs, curve, {"parameters": {}, "rows": read} if read else {}, shown=shown)

    def look(self, arm: Arm, seed: int, classifier: Any) -> dict[str, float | None]:
        """Further costs, of a classifier that has learned from most rows."""
        network = classifier.network
        size = {} if network is None else {"parameters": sum(p.numel() for p in network.parameters())}
        found = {one.name: one.accuracies(classifier) for one in self.slices}
        return {**size, **{f"{name} {part}": value for name, own in found.items() for part, value in own.items()}}


def _start(text: ArmText) -> ClassifierStart:
    return ClassifierStart.from_data({"name": text.name, **dict(text.fields)}, f"arm {text.label!r}")


def _method(text: ArmText, base: LabelledTexts, train: Labelled) -> Any:
    """The Spec that an arm names, with the rules that were given, and words for sentiment where it is a prompt's."""
    spec: Any = methods_of("classifier", text)
    if spec.name == "rules":
        spec = spec if base.rules is None else patch(spec, {"rules": base.rules})
        build_classifier(spec).prepare([], sorted(set(train.labels)), 0)
    own = {name for name, _ in text.fields}
    words = prompt_choices(train.labels) if spec.name == "prompting" else {}
    return patch(spec, {name: value for name, value in words.items() if name not in own})


def _our_slices(labels: Sequence[str]) -> list[SliceRule]:
    """The built-in slices if the labels are those of sentiment; else none."""
    try:
        return sentiment_slices(labels)
    except DataError:
        return []


def prompt_choices(labels: Sequence[str]) -> dict[str, Any]:
    """The template and the words for sentiment; for other labels the method's own."""
    try:
        negative, positive = tone_names(labels)
    except DataError:
        return {}
    return {"template": "{text}\nthe film is", "verbalizer": [[negative, " bad"], [positive, " good"]]}
