"""A ladder of scales: one base, one change an arm, the same text; shared by `ladder_xs`, `ladder_s` and `ladder_m`.

A study of a scale has a cell for each arm and seed. An arm's rate is the best of a sweep on other held-out documents
with a seed that is no replicate; the sweep is a cell too, made before the arm's first. At a scale where only the base
and the optimizers are swept, any other arm's rate is its rate at the scale below, moved as far as the base's was.
"""

from __future__ import annotations

import functools
import itertools
import re
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from evidence import _cells
from evidence._compared import SMALL, WORK, made_up
from evidence._page import with_interval
from llmanac.core.errors import DataError
from llmanac.core.pages import Section, table
from llmanac.core.spec import patch
from llmanac.data.pack import PackedStream
from llmanac.data.tokens import TokenDataset
from llmanac.evaluate.baselines import ngram_bits
from llmanac.evaluate.bits_per_byte import score_texts
from llmanac.lab.arms import parse_arms
from llmanac.lab.axis import Arm, find_axis, resolve
from llmanac.lab.compare import BASE
from llmanac.lab.complexity import one_thread
from llmanac.lab.hold import hold_parameters
from llmanac.lab.prepare import PreparedArms, prepare, seen_in
from llmanac.lab.trials.training import TrainingTrial
from llmanac.recipes.spec import load_recipe
from llmanac.tokenizers._sampled import Sampled
from llmanac.train.loop import train

ARMS = {  # name -> (kind, what it is there); "" is the base
    "base": ("", ""),
    "learned": ("position", "learned"), "sinusoidal": ("position", "sinusoidal"), "none": ("position", "none"),
    "layernorm": ("norm", "layernorm"), "post-norm": ("block", "post-norm"),
    "relu": ("ffn", "relu"), "geglu": ("ffn", "geglu"),
    "grouped-query": ("mixer", "grouped-query{kv_heads=2}"), "multi-query": ("mixer", "multi-query"),
    "window": ("mixer", "sliding-window{window=64}"), "linear": ("mixer", "linear"),
    "gru": ("mixer", "gru"), "mamba2": ("mixer", "mamba2"), "feedforward": ("lm", "feedforward"),
    "sgd": ("optimizer", "sgd"), "muon": ("optimizer", "muon"), "cosine": ("schedule", "cosine"),
    "bpe-dropout": ("", ""), "no deduplication": ("", ""),
}  # fmt: skip
BASES = {
    "position": "rope", "norm": "rmsnorm", "block": "pre-norm", "ffn": "swiglu", "mixer": "multi-head",
    "lm": "transformer", "optimizer": "adamw", "schedule": "wsd",
}  # fmt: skip
POSITIONS = ("base", "learned", "sinusoidal", "none")
OPTIMIZERS = ("sgd", "muon")
LONGER = (512, 1024)  # rows that arms of positions are read at; all train at 256, with places for 1,024
DROPOUT, WIDE, RATIO, MOST = 0.1, 3.0, 2.0, 7  # of bpe-dropout; ratios of swept rates, and how many are tried
SWEPT = 10_000  # the seed of sweeps
METRIC = "bits per byte"


@dataclass(frozen=True)
class Scale:
    """A scale: width, layers, tokens, a step's tokens, base rate; which arms are swept there, and the scale below."""

    name: str
    dim: int
    layers: int
    tokens: int
    batch: int
    rate: float
    arms: tuple[str, ...]
    swept: tuple[str, ...]
    below: str = ""

    @property
    def patches(self) -> dict[str, Any]:
        return {
            "data.related": 0.3, "data.stages": ["clean", "exact", "minhash"],
            "data.source": {"name": "files", "paths": library(), "include": ["*.py"], "on_error": "skip"},
            "model.dim": self.dim, "model.layers": self.layers, "model.max_length": LONGER[-1],
            "train.batch_tokens": self.batch, "train.steps": self.tokens // self.batch, "train.dtype": "float32",
            "train.attention": "sdpa", "train.compile": "never", "train.optimizer.lr": self.rate,
            "evaluate.held_out_bytes": 300_000,
        }  # fmt: skip


def library() -> list[str]:
    """The standard library of this Python, with its tests and the topics of its documentation."""
    own = Path(sysconfig.get_paths()["stdlib"])
    of_machine = re.compile(r"site-packages|__pycache__|sitecustomize|config-|_sysconfigdata")
    found = [path for path in sorted(own.iterdir()) if not of_machine.match(path.name)]
    return [str(path) for path in found if path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))]


@functools.cache
def text(scale: Scale, deduplicated: bool = True) -> tuple[Any, PreparedArms]:
    """The base recipe of a scale and its text; the files are read once a process."""
    changes = scale.patches | ({} if deduplicated else {"data.stages": ["clean"]})
    recipe = load_recipe(str(BASE), changes).spec
    if deduplicated:
        return recipe, prepare(recipe, WORK / "ladder")
    base = text(scale)[1]
    recipe = replace(recipe, data=unseen(recipe.data, {*base.report, *base.tuning}))
    return recipe, prepare(recipe, WORK / "ladder", base)


def unseen(data: Any, held_out: set[str]) -> Any:
    """The same data, whose documents to train on leave out copies of those that the base holds out."""

    class Unseen(type(data)):  # type: ignore[misc]
        def collect(self, seed: int, folder: Path | None = None) -> Any:
            corpus = super().collect(seed, folder)
            copies = set(seen_in(corpus.train, held_out))
            return replace(corpus, train=[d for d in corpus.train if d.id not in copies])

    return Unseen(**{field.name: getattr(data, field.name) for field in fields(data)})


@functools.cache
def small(scale: Scale) -> tuple[Any, PreparedArms]:
    """The same recipe on a few made-up documents."""
    folder = Path(tempfile.mkdtemp(prefix="llmanac-ladder-"))
    for number, one in enumerate(made_up()):
        (folder / f"{number}.txt").write_text(one, "utf-8")
    more = {"data.source": {"name": "files", "paths": [str(folder)]}, "model.max_length": 128, "train.steps": 3}
    recipe = load_recipe(str(BASE), {**SMALL, **more}).spec
    return recipe, prepare(recipe, folder / "prepared")


def arm_of(name: str, recipe: Any, prepared: PreparedArms, factor: float) -> Any:
    """An arm's recipe: the base with its one change, and its rate times a factor."""
    kind, what = ARMS[name]
    spec = recipe
    if kind:
        axis = find_axis(kind, recipe)
        arms = resolve(recipe, axis, parse_arms(f"{BASES[kind]},{what}"))
        if kind == "ffn":
            arms = hold_parameters(arms, recipe, axis, BASES[kind], prepared.tokenizer.vocab_size)
        spec = arms[-1].spec
    return patch(spec, {"train.optimizer.lr": factor * spec.train.optimizer.lr})


def trained(name: str, recipe: Any, prepared: PreparedArms, seed: int, factor: float, texts: Sequence[str]) -> Any:
    """The bits per byte of an arm after its training, on some texts; of positions also in longer rows."""
    spec, dataset = arm_of(name, recipe, prepared, factor), prepared.dataset
    with tempfile.TemporaryDirectory() as work:
        trial = TrainingTrial(prepared, "cpu")
        model, stream, objective = trial.build(Arm(name, spec, {}, {}), seed)
        if name == "bpe-dropout":
            reader = Sampled(prepared.tokenizer, seed=10_000_001 + seed, dropout=DROPOUT)
            rows = [
                prepared.tokenizer.decode(
                    dataset.read(0, min(len(dataset), spec.train.steps * spec.train.batch_tokens)).tolist()
                )
            ]
            dataset = TokenDataset.write(Path(work) / "sampled", rows, reader)
            stream = PackedStream(dataset, length=spec.train.length, rows=spec.train.rows, seed=seed)
        done = train(model, stream, objective, spec.train, Path(work) / "run", seed=seed, label=f"{name}, seed {seed}")
        model.eval()
        lengths = [n for n in LONGER if name in POSITIONS and n <= recipe.model.max_length]
        found = {str(n): score_texts(model, prepared.tokenizer, texts, window=n).bits_per_byte
                 for n in (spec.train.length, *lengths)}  # fmt: skip
    own = sum(p.numel() for p in model.parameters()) - recipe.model.dim * prepared.tokenizer.vocab_size
    return {METRIC: found[str(spec.train.length)], "by length": found, "parameters": own, "tokens": done.tokens,
            "rate": spec.train.optimizer.lr, "seconds": round(done.seconds, 1)}  # fmt: skip


def sweep(name: str, scale: Scale, recipe: Any, prepared: PreparedArms) -> dict[str, Any]:
    """Bits per byte by factor of the rate: three factors, and further ones while an edge is the best."""
    ratio, found = WIDE if name in OPTIMIZERS else RATIO, {}
    todo = [1 / ratio, 1.0, ratio]
    while todo:
        factor = todo.pop(0)
        try:
            found[factor] = trained(name, recipe, prepared, SWEPT, factor, prepared.tuning)[METRIC]
        except DataError:
            raise
        except Exception as error:  # a rate that diverges
            found[factor] = float("inf")
            print(f"{name} at {factor:g}: {error}", flush=True)
        if not todo and len(found) < MOST:
            best = min(found, key=found.__getitem__)
            todo = [best / ratio] if best == min(found) else [best * ratio] if best == max(found) else []
    best = min(found, key=found.__getitem__)
    return {"factors": {f"{k:.4g}": v for k, v in sorted(found.items())}, "best": best}


def best(name: str, scale: str) -> float:
    """The best factor that a scale's sweep of an arm found. Raises DataError where the sweep is not there yet."""
    return float(_cells.kept(f"ladder_{scale}", f"sweep {name}.0")["best"])


def factor_of(name: str, scale: Scale) -> float:
    """The factor of an arm's rate: of its own sweep, or of the scale below's, times what the base's moved since."""
    if name in scale.swept:
        return best(name, scale.name)
    return best(name, scale.below) * best("base", scale.name) / best("base", scale.below)


def grown(seeds: Sequence[Any], name: str, other: str = "") -> list[float]:
    """How much an arm's loss grows from the trained rows to the longest ones, as a share; less another arm's."""

    def growth(one: Any, arm: str) -> float:
        found = one[arm]["by length"]
        return float(found[str(LONGER[-1])] / found["256"] - 1)

    both = [one for one in seeds if name in one and (not other or other in one)]
    return [growth(one, name) - (growth(one, other) if other else 0.0) for one in both]


def study(scale: Scale) -> tuple[Callable[..., list[str]], Callable[..., Any], Callable[..., str], Callable[..., Any]]:
    """`cells`, `measure`, `text_hash` and `show` of a scale's study."""

    def cells(seeds: int) -> list[str]:
        sweeps = {name: [f"sweep {name}.0"] for name in scale.swept}
        if scale.below:  # all replicates of an arm in a row, so that a part of the study has verdicts
            by_arm = ((*sweeps.get(name, ()), *(f"{name}.{seed}" for seed in range(seeds))) for name in scale.arms)
            return ["count.0", *itertools.chain(*by_arm)]
        by_seed = (f"{name}.{seed}" for seed in range(seeds) for name in scale.arms)
        return ["count.0", *itertools.chain(*sweeps.values()), *by_seed]

    @one_thread()
    def measure(seed: int, size: str, piece: str = "") -> dict[str, Any]:
        if size == "small":
            recipe, prepared = small(scale)
            names = ("base", "learned", "relu", "grouped-query")
            return {name: trained(name, recipe, prepared, seed, 1.0, prepared.report)[METRIC] for name in names}
        recipe, prepared = text(scale, piece != "no deduplication")
        if piece == "count":
            seen = prepared.tokenizer.decode(prepared.dataset.read(0, scale.tokens).tolist())
            about = {k: v for k, v in prepared.record().items() if k not in ("source", "licenses")}
            return {METRIC: ngram_bits([seen], prepared.report), "text": about}
        if piece.startswith("sweep "):
            name = piece.removeprefix("sweep ")
            return sweep(name, scale, *text(scale, name != "no deduplication"))
        return trained(piece, recipe, prepared, seed, factor_of(piece, scale), prepared.report)

    def text_hash() -> str:
        return text(scale)[1].identity[:16]

    def show(seeds: Sequence[dict[str, Any]]) -> list[Section]:
        found = {name: [one[name] for one in seeds if name in one] for name in scale.arms}
        rows = []
        for name, some in found.items():
            if some:
                pairs = [one[name][METRIC] / one["base"][METRIC] - 1 for one in seeds if name in one and "base" in one]
                against = f"{with_interval([100 * p for p in pairs], 2)}%" if name != "base" and pairs else ""
                rows.append([name, f"{some[0]['parameters']:,}", f"{some[0]['rate']:.3g}", str(len(some)),
                             with_interval([one[METRIC] for one in some]), against])  # fmt: skip
        count = next((one["count"][METRIC] for one in seeds if "count" in one), None)
        said = (
            []
            if count is None
            else [f"A byte 5-gram (Kneser-Ney) of the same training tokens: {count:.3f} bits a byte."]
        )
        head = ["arm", "parameters without embeddings", "rate", "seeds", METRIC, "against the base"]
        longer = [[name, *(with_interval([one["by length"][str(n)] for one in some]) for n in (256, *LONGER))]
                  for name in POSITIONS if (some := found.get(name))]  # fmt: skip
        return [
            Section("Arms", said, [table(head, rows)]),
            Section("Read in longer rows than trained", [], [table(["arm", "256", *map(str, LONGER)], longer)]),
        ]

    return cells, measure, text_hash, show
