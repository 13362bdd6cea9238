"""A trial that decodes: one finished model, the same prompts, and only the decoding method differs.

Each prompt is the beginning of a passage from a held-out document; the passage's own continuation is the reference.

    reference F1      word F1 of the continuation against the reference                              higher is better
    rep-4             1 - distinct 4-grams / 4-grams of the continuation's tokens                    lower is better
    distinct-2        distinct 2-grams / 2-grams                                                     higher is better
    likelihood gap    | mean log p(continuation) - mean log p(reference) | under the model, a token  lower is better

Repetition and diversity as in Welleck et al. 2020 and Li et al. 2016. The gap is Holtzman et al. 2020's observation as
a number: people do not write the most probable text, so text far more probable than theirs is as odd as far less.

Every arm writes the same number of tokens (nothing ends a continuation early). A prompt's value is its mean over the
sampling seeds. Passages of one document are alike, so the replicate is the document, as long as there are ten.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, SpecError
from llmanac.core.named import READ
from llmanac.core.spec import dump
from llmanac.data.split import fraction
from llmanac.generate.engine import Engine
from llmanac.lab.axis import Arm
from llmanac.lab.budget import MIN_STEPS, RESERVE, format_duration, round_up
from llmanac.lab.cache import digest
from llmanac.lab.prepare import text_of
from llmanac.lab.runner import Applied, RunnerRequest, Say
from llmanac.lab.sources import run_key
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement
from llmanac.metrics.answers import f1
from llmanac.models.load import load_model
from llmanac.models.locate import fetched, model_folder
from llmanac.tokenizers.load import load_tokenizer

MEASURE_VERSION = 1
PROMPT_TOKENS, NEW_TOKENS = 32, 64
FEWEST_PASSAGES, MOST_PASSAGES = 32, 512
CALIBRATED = 4  # passages that each arm continues to measure its speed
FEWEST_GROUPS = 10  # with fewer documents than this, each passage is a replicate of its own and the page says so
CODE = (Engine.__module__, f1.__module__)


@dataclass(frozen=True)
class DecodingPassage:
    """A prompt, its true continuation, and the document it is from."""

    document: str
    prompt: tuple[int, ...]
    reference: tuple[int, ...]


@dataclass(frozen=True)
class DecodedModel:
    """A finished model and its tokenizer, with the hash of the files they were read from."""

    path: str
    model: Any
    tokenizer: Any
    sha256: str

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> DecodedModel:
        """Read a run, a model's folder, a .gguf file or a hub model. Raises CheckpointError as `load_model`."""
        place, tokens = fetched(path)
        model = load_model(place, dtype="float32", device=device)  # arms may pack it
        return cls(str(path), model, load_tokenizer(tokens), hash_model(place))


def hash_model(path: str | Path) -> str:
    """sha256 of a model's files."""
    place = model_folder(path)
    return hash_files(place) if place.is_dir() else file_hash(place)


def file_hash(path: str | Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(folder: Path) -> str:
    """sha256 over the names and bytes of what a model and its tokenizer are read from."""
    found = sorted(path for path in folder.glob("*") if path.suffix in READ)
    return digest([[path.name, file_hash(path)] for path in found])


def passages(artefact: DecodedModel, documents: Sequence[tuple[str, str]], most: int) -> list[DecodingPassage]:
    """At most `most` passages, one of each document in turn, so that every document has a part.

    Args:
        documents: (name, text) of held-out documents.

    Raises:
        DataError: no document is long enough for one passage.
    """
    context = artefact.model.max_length or PROMPT_TOKENS + NEW_TOKENS
    new = min(NEW_TOKENS, max(1, context - PROMPT_TOKENS))
    length = PROMPT_TOKENS + new
    by_document: list[list[DecodingPassage]] = []
    for name, text in documents:
        ids = [int(i) for i in artefact.tokenizer.encode_array(text)]
        starts = range(0, len(ids) - length + 1, length)
        found = [
            DecodingPassage(name, tuple(ids[s : s + PROMPT_TOKENS]), tuple(ids[s + PROMPT_TOKENS : s + length]))
            for s in starts
        ]
        if found:
            by_document.append(found)
    if not by_document:
        raise DataError(f"no held-out document has the {length} tokens of one prompt and its continuation; add text")
    out: list[DecodingPassage] = []
    for turn in range(max(map(len, by_document))):
        out += [found[turn] for found in by_document if turn < len(found)]
        if len(out) >= most:
            break
    return out[:most]


class DecodingTrial(Applied):
    """Continues every prompt with the arm's decoding method."""

    metrics: tuple[Metric, ...] = (
        Metric("reference_f1", "", "higher", "reference F1"),
        Metric("rep_4", "", "lower", "rep-4"),
        Metric("distinct_2", "", "higher", "distinct-2"),
        Metric("likelihood_gap", "nat/token", "lower"),
    )
    costs: tuple[Metric, ...] = (
        Metric("decode_tokens_per_second", "token/s", "higher", "decoding speed"),
        Metric("mean_logprob", "nat/token", "higher", "mean log p under the model"),
        Metric("reference_logprob", "nat/token", "higher", "mean log p of the reference"),
    )

    seeds = None

    def __init__(self, artefact: DecodedModel, found: Sequence[DecodingPassage]) -> None:
        self.artefact = artefact
        self.items = list(found)
        self.take(len(found))

    @classmethod
    def of(cls, question: RunnerRequest, say: Say) -> DecodingTrial:
        """The trial of a question. Raises SpecError where there is no artefact."""
        if question.artefact is None:
            raise SpecError(
                "--artefact: decoding methods need a finished model; give the folder of a run or of a model"
            )
        arms, artefact = question.arms(), DecodedModel.load(question.artefact, question.base.device)
        corpus, notes = text_of(question, say)
        documents = sorted(((d.id, d.text) for d in corpus.held_out), key=lambda d: fraction(d[0], seed=1))
        trial = cls(artefact, passages(artefact, documents, MOST_PASSAGES))
        trial.arms = arms
        trial.about = {
            "data": {"source": dump(question.base.data.source)},
            "artefact": f"{artefact.path}, sha256 {artefact.sha256}",
            **({"notes": notes} if notes else {}),
        }  # fmt: skip
        return trial

    def fitting(self, question: RunnerRequest, started: float, work: Path) -> int:
        """How many passages every arm can continue under every seed. Raises SpecError: too few for a verdict."""
        short, a_passage = DecodingTrial(self.artefact, self.items[:CALIBRATED]), 0.0
        for arm in self.arms:
            short.measure(arm, 0, work)  # the first call warms up
            begin = time.perf_counter()
            short.measure(arm, 0, work)
            a_passage += (time.perf_counter() - begin) / len(short.items)
        spent = time.monotonic() - started
        count = min(len(self.items), int((question.budget * (1 - RESERVE) - spent) / (a_passage * question.seeds)))
        fewest = min(FEWEST_PASSAGES if question.min_steps >= MIN_STEPS else CALIBRATED, len(self.items))
        if count < fewest:
            needed = (spent + fewest * a_passage * question.seeds) / (1 - RESERVE)
            raise SpecError(
                f"--budget {format_duration(question.budget)} leaves {max(0, count)} passages, and a verdict needs at "
                f"least {fewest}; use --budget {round_up(needed)} or fewer arms"
            )
        return count

    def take(self, count: int) -> None:
        """Keep the first passages, and group them by document."""
        self.passages = self.items = list(self.items[:count])
        names = list(dict.fromkeys(p.document for p in self.passages))
        self.words = f"{{}} passages of {len(names)} documents, each sampled under every seed."
        self.replicate = "document" if len(names) >= FEWEST_GROUPS else "prompt"
        self.groups = (
            [[i for i, p in enumerate(self.passages) if p.document == name] for name in names]
            if self.replicate == "document"
            else [[i] for i in range(len(self.passages))]
        )
        self._reference: list[float] | None = None

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers; a method that draws nothing is the same under every seed."""
        model = self.artefact.model.spec
        return run_key(
            "decoding", [arm.spec, *([model] if model is not None else [])], CODE, measure=MEASURE_VERSION,
            decoding=dump(arm.spec), seed=seed if arm.spec.stochastic else 0, artefact=self.artefact.sha256,
            passages=digest([[list(p.prompt), list(p.reference), p.document] for p in self.passages]),
            device=str(next(self.artefact.model.parameters()).device),
        )  # fmt: skip

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Decode, then score every continuation."""
        engine = Engine(self.artefact.model, self.artefact.tokenizer)
        new = len(self.passages[0].reference)
        start = time.perf_counter()
        done = engine.generate(
            [p.prompt for p in self.passages], max_new_tokens=new, decoding=(arm.spec,), stop_ids=(), seed=seed
        )
        taken = time.perf_counter() - start
        reference = self.reference_logprobs(engine)
        logprobs = [math.fsum(c.arrays.logprobs) / len(c.ids) for c in done]
        decode = self.artefact.tokenizer.decode
        values = {
            "reference_f1": [f1(decode(c.ids), decode(p.reference)) for c, p in zip(done, self.passages, strict=True)],
            "rep_4": [1.0 - distinct(c.ids, 4) for c in done],
            "distinct_2": [distinct(c.ids, 2) for c in done],
            "likelihood_gap": [abs(a - b) for a, b in zip(logprobs, reference, strict=True)],
        }
        costs: dict[str, float | None] = {
            "decode_tokens_per_second": sum(len(c.ids) for c in done) / taken,
            "mean_logprob": math.fsum(logprobs) / len(logprobs),
            "reference_logprob": math.fsum(reference) / len(reference),
        }
        return Measurement({name: self._grouped(v) for name, v in values.items()}, costs)

    def reference_logprobs(self, engine: Engine) -> list[float]:
        """Mean log-probability a token of each passage's own continuation, read once."""
        if self._reference is None:
            complete = [(*p.prompt, *p.reference) for p in self.passages]
            done = engine.generate(complete, max_new_tokens=0, prompt_logprobs=0, stop_ids=())
            new = len(self.passages[0].reference)
            self._reference = [
                math.fsum(s.logprob for s in c.prompt_token_logprobs[-new:] if s.logprob is not None) / new
                for c in done
            ]
        return self._reference

    def _grouped(self, values: list[float]) -> list[float]:
        return [math.fsum(values[i] for i in group) / len(group) for group in self.groups]


def distinct(ids: Sequence[int], n: int) -> float:
    """Distinct n-grams / n-grams; 1 if there are none."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0
