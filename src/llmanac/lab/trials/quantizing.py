"""A trial that quantizes: one finished model, the same held-out text, and only the quantizer differs.

    loss   nats a token of the quantized model                                             lower is better
    KL     KL(model as it is || quantized) of the next token, nats                         lower is better

over the first tokens of each held-out document, so the replicate is the document. Costs: bits a parameter, bytes of
the files, and tokens a CPU second of decoding one row and eight, each in rounds that alternate with the model as it is.
Arms: the quantizers by name, `gguf{type=q8_0}` for the blocks of a .gguf file, `none` for the model as it is.
"""

import copy
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from llmanac.core.errors import DataError, LlmanacError, SpecError
from llmanac.core.spec import Spec, dump
from llmanac.data.split import fraction
from llmanac.evaluate.divergence import SHORTEST, Windows, divergence, windows
from llmanac.lab.arms import ArmText
from llmanac.lab.axis import Arm, methods_of
from llmanac.lab.budget import RESERVE
from llmanac.lab.cache import digest
from llmanac.lab.prepare import text_of
from llmanac.lab.runner import Applied, RunnerRequest, Say
from llmanac.lab.sources import run_key
from llmanac.lab.stats import Metric
from llmanac.lab.study import Measurement
from llmanac.lab.trials.decoding import DecodedModel
from llmanac.models.gguf.write import export_gguf, fitting
from llmanac.models.load import load_model
from llmanac.models.quantized import stored_bytes
from llmanac.models.targets import find_targets
from llmanac.recipes.quantize import CALIBRATION, LENGTH, alternating_rates

MEASURE_VERSION, PROMPT = 2, 32
FEWEST_DOCUMENTS, MOST_DOCUMENTS = 15, 64
AS_IT_IS, BLOCKS = "none", "gguf"


@dataclass(frozen=True, kw_only=True)
class AsItIs(Spec):
    """The model without a quantizer."""

    kind: ClassVar[str] = "quantizer"
    name = AS_IT_IS


@dataclass(frozen=True, kw_only=True)
class GGUFBlocks(Spec):
    """type: of the matrices in a .gguf file."""

    kind: ClassVar[str] = "quantizer"
    name = BLOCKS
    type: Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_1", "q4_0"] = "q8_0"


def spec_of(text: ArmText) -> Spec:
    """The Spec that an arm names. Raises SpecError for an unknown method or field."""
    own: type[Spec] | None = {AS_IT_IS: AsItIs, BLOCKS: GGUFBlocks}.get(text.name)
    if own is None:
        return methods_of("quantizer", text)
    return own.from_data(dict(text.fields), f"arm {text.label!r}")


def check_arms(arms: Sequence[Arm], subject: DecodedModel) -> None:
    """Raises SpecError for an arm that cannot hold the model, before anything is measured."""
    for arm in arms:
        try:
            if isinstance(arm.spec, GGUFBlocks):
                fitting(subject.model)
            elif not isinstance(arm.spec, AsItIs):
                find_targets(subject.model, arm.spec.targets)
        except LlmanacError as error:
            raise SpecError(f"arm {arm.label!r}: {error}; leave it out") from error


def texts_of(
    subject: DecodedModel, calibration: Sequence[str], documents: Sequence[str], most: int
) -> tuple[Windows, list]:
    """Windows to calibrate on, and a window of each of at most `most` documents.

    Raises:
        SpecError: the model reads fewer than 8 tokens. DataError: no document is long enough.
    """
    length = min(LENGTH, subject.model.max_length or LENGTH)
    if length < SHORTEST:
        raise SpecError(f"--artefact {subject.path}: reads {length} tokens at most; at least {SHORTEST} are needed")
    found = []
    for text in documents:
        ids = subject.tokenizer.encode(text[: 16 * length])[:length]
        if len(ids) >= min(length, 64):
            found.append(Windows(torch.tensor([ids]), len(subject.tokenizer.decode(ids).encode()) / len(ids)))
        if len(found) == most:
            break
    if not found:
        raise DataError(f"no held-out document has {min(length, 64)} tokens; add text")
    return windows(calibration, subject.tokenizer, length, CALIBRATION * LENGTH // length), found


class QuantizingTrial(Applied):
    """Quantizes the model as an arm says, and reads every document with both."""

    metrics: tuple[Metric, ...] = (
        Metric("loss", "nat/token", "lower"),
        Metric("kl", "nat/token", "lower", "KL from the model as it is"),
    )
    costs: tuple[Metric, ...] = (
        Metric("perplexity", "", "lower"),
        Metric("bits", "bit", "lower", "bits a parameter"),
        Metric("model_bytes", "B", "lower", "weights in memory"),
        Metric("decode_tokens_per_second", "token/s", "higher", "tokens a CPU second, 1 row"),
        Metric("decode_8", "token/s", "higher", "tokens a CPU second, 8 rows"),
        Metric("decode_ratio", "", "higher", "speed over the model as it is, 1 row"),
        Metric("decode_ratio_8", "", "higher", "speed over the model as it is, 8 rows"),
    )
    replicate = "document"

    def __init__(self, question: RunnerRequest, say: Say) -> None:
        """Raises SpecError: no artefact, or an arm that cannot hold it."""
        if question.artefact is None:
            raise SpecError(
                "--artefact: a comparison of quantizers needs a finished model; give a run, a model or a .gguf"
            )
        self.arms = question.arms(spec_of)
        self.subject = DecodedModel.load(question.artefact, "cpu")
        check_arms(self.arms, self.subject)
        corpus, _ = text_of(question, say)
        held_out = [d.text for d in sorted(corpus.held_out, key=lambda d: fraction(d.id, seed=1))]
        train = list(corpus.train.texts())
        self.calibration, self.items = texts_of(self.subject, train, held_out, MOST_DOCUMENTS)
        self.words = f"{{}} held-out documents of up to {max(one.ids.shape[1] for one in self.items)} tokens."
        self.about = {
            "data": {"source": dump(question.base.data.source)},
            "artefact": f"{self.subject.path}, sha256 {self.subject.sha256}",
        }

    def fitting(self, question: RunnerRequest, started: float, work: Path) -> int:
        """How many documents every arm has time to read, 15 at least."""
        short = copy.copy(self)
        short.items = self.items[:1]
        begin = time.perf_counter()
        short.measure(self.arms[0], 0, work)
        once = time.perf_counter() - begin  # a document with both models, and what an arm costs besides
        divergence(self.subject.model, self.subject.model, self.items[0])
        a_document = time.perf_counter() - begin - once
        left = question.budget * (1 - RESERVE) - (time.monotonic() - started) - len(self.arms) * once
        return min(len(self.items), max(FEWEST_DOCUMENTS, int(left / (len(self.arms) * a_document))))

    def parts(self, arm: Arm, seed: int) -> dict[str, Any]:
        """Everything that decides an arm's numbers."""
        return run_key(
            "quantizing", [arm.spec], (__name__, divergence.__module__), measure=MEASURE_VERSION,
            quantizer=dump(arm.spec), artefact=self.subject.sha256,
            text=digest([one.ids.tolist() for one in (self.calibration, *self.items)]),
        )  # fmt: skip

    def quantized(self, spec: Any, work: Path) -> tuple[Any, float]:
        """The model as an arm has it, and its bits a parameter."""
        original = self.subject.model
        if isinstance(spec, AsItIs):
            return original, 8 * stored_bytes(original) / original.parameter_count()
        if isinstance(spec, GGUFBlocks):
            path = export_gguf(original, self.subject.tokenizer, work / "model.gguf", spec.type)
            return load_model(path, device="cpu"), 8 * path.stat().st_size / original.parameter_count()
        changed = copy.deepcopy(original)
        spec.build().apply(changed, list(self.calibration.batches()))
        return changed, 8 * stored_bytes(changed) / original.parameter_count()

    def measure(self, arm: Arm, seed: int, work: Path) -> Measurement:
        """Quantize, compare on every document, and time both models in turns."""
        changed, bits = self.quantized(arm.spec, work)
        found = [divergence(self.subject.model, changed, one) for one in self.items]
        models, prompt = (changed, self.subject.model), self.items[0].ids[0, :PROMPT].tolist()
        speeds = {rows: alternating_rates(models, prompt, rows, time.process_time) for rows in (1, 8)}
        ratio = {rows: statistics.median(a / b for a, b in zip(*one, strict=True)) for rows, one in speeds.items()}
        costs: dict[str, float | None] = {
            "perplexity": math.exp(statistics.fmean(one.after for one in found)), "bits": bits,
            "model_bytes": bits * self.subject.model.parameter_count() / 8,
            "decode_tokens_per_second": statistics.median(speeds[1][0]), "decode_8": statistics.median(speeds[8][0]),
            "decode_ratio": ratio[1], "decode_ratio_8": ratio[8],
        }  # fmt: skip
        return Measurement({"loss": [one.after for one in found], "kl": [one.kl for one in found]}, costs)
