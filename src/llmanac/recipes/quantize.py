"""A model in fewer bits: quantized, compared with the original on text, and written as a folder or a .gguf file."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llmanac.core import registry
from llmanac.core.errors import DataError, RequestError, SpecError, nearest
from llmanac.core.files import atomic_folder
from llmanac.core.outputs import check_new
from llmanac.core.pages import table
from llmanac.core.progress import progress
from llmanac.core.shown import Shown
from llmanac.core.spec import make_method
from llmanac.core.types import Batch, LanguageModel, evaluating
from llmanac.evaluate.divergence import SHORTEST, Divergence, Windows, divergence, windows
from llmanac.evaluate.embed import copy_settings
from llmanac.generate.engine import Engine
from llmanac.models.gguf.write import TYPES, export_gguf
from llmanac.models.load import load_model
from llmanac.models.locate import GGUF, fetched, model_folder
from llmanac.models.save import save_model
from llmanac.quant.gptq import importance
from llmanac.tokenizers.load import load_tokenizer

LENGTH, CALIBRATION, EVALUATION = 512, 16, 8  # tokens of a window; windows, of short ones as many as hold that text
PROMPT, DECODED = 32, 48  # tokens
ROUNDS, FEWEST, SECONDS = 5, 3, 10.0  # of timing: no further round after so long


@dataclass(frozen=True, repr=False)
class QuantizedFolder(Shown):
    """What a quantization cost.

    Attributes:
        method: the quantizer, or the type of the file.
        before, after: bytes of the files of weights.
        bits: of a number of what was quantized, scales included; of a .gguf file, its bits over the parameters.
        part: the quantized numbers over the parameters.
        quality: on text that was not used for calibration.
        speeds: tokens a second of one request, before and after, in each round of timing.
    """

    method: str
    before: int
    after: int
    bits: float
    part: float
    quality: Divergence
    speeds: tuple[list[float], list[float]]

    def title(self) -> str:
        return f"{self.method}, {self.bits:.3f} bits a weight"

    def tables(self) -> list[dict[str, Any]]:
        own = self.quality
        losses = (own.before, own.after)
        rows = [
            ("bytes", f"{self.before:,}", f"{self.after:,}"),
            ("perplexity", *(f"{math.exp(min(loss, 700.0)):.4g}" for loss in losses)),
            ("bits a byte", *(f"{own.bits_per_byte(loss):.4f}" for loss in losses)),
            ("KL, nats a token", "0", f"{own.kl:.3g}"),
            ("tokens a second, median", *(f"{statistics.median(speeds):.1f}" for speeds in self.speeds)),
            ("lowest to highest", *(f"{min(speeds):.1f} to {max(speeds):.1f}" for speeds in self.speeds)),
        ]
        return [table(["", "before", "after"], rows)]


def check_target(source: str, target: Path, method: str) -> None:
    """Raises SpecError for a method that is not known, or a target that is taken or of the wrong kind."""
    known, others = (TYPES, _names()) if target.suffix == GGUF else (_names(), TYPES)
    if method not in known:
        if method in others:
            what = f"a folder; a {GGUF} file has {', '.join(TYPES)}" if known is TYPES else f"a file, NAME{GGUF}"
            raise SpecError(f"--output: {method} is written as {what}")
        either = (*known, *others)
        raise SpecError(f"--method: {method!r} is not known{nearest(method, either)} ({', '.join(either)})")
    check_new(target, "--output")
    if Path(source).exists() and Path(source).resolve() in target.resolve().parents:
        raise SpecError(f"--output: {target} is inside of {source}; write it elsewhere")


def _names() -> list[str]:
    return sorted(registry.methods("quantizer"))


def quantize(
    source: str,
    target: Path,
    method: str,
    *,
    targets: Sequence[str] = (),
    texts: Sequence[str] | None = None,
    calibration: Sequence[str] | None = None,
) -> QuantizedFolder:
    """Load `source`, write `target`.

    Args:
        method: a quantizer's name, or the type of a .gguf file.
        targets: patterns of the matrices, by default the quantizer's.
        texts: for comparison, by default Python's own documentation.
        calibration: for methods that look at activations, by default the first half of `texts`, which is then not
            compared on. A .gguf file is written without where it is not given.

    Raises:
        SpecError, DataError, CheckpointError: what cannot be done; nothing is written then.
    """
    check_target(source, target, method)
    file = target.suffix == GGUF
    if targets and file:
        raise SpecError(f"--targets: {method} is of all matrices of the file")
    fields = {"targets": list(targets)} if targets else {}
    quantizer = None if file else make_method("quantizer", {"name": method, **fields}).build()
    place, tokens = fetched(source)
    original: Any = load_model(place, dtype="float32", device="cpu")
    tokenizer = load_tokenizer(tokens)
    if not any(p.ndim == 2 for p in original.parameters()):
        raise SpecError(f"{source}: an n-gram model has no matrices to quantize")
    length = min(LENGTH, original.max_length or LENGTH)
    if length < SHORTEST:
        raise SpecError(f"{source}: reads {length} tokens at most; losses are compared over at least {SHORTEST}")
    train, held_out = _split(texts, calibration, tokenizer, length)
    try:
        original(Batch(ids=held_out.ids[:1, :2]))
    except RequestError as error:
        raise SpecError(f"{source}: is no causal model, and losses cannot be compared ({error})") from error
    if quantizer is None:
        seen = None if calibration is None else importance(original, train.batches())
        export_gguf(original, tokenizer, target, method, seen, ready=lambda: check_new(target, "--output"))
        bits, part = 8 * _bytes(target) / original.parameter_count(), 1.0
        changed: Any = load_model(target, device="cpu")
        quality = divergence(original, changed, held_out)
    else:
        changed = copy.deepcopy(original)
        report = quantizer.apply(changed, list(train.batches()))
        bits = report.bits
        part = sum(numbers for numbers, _, _ in report.layers.values()) / original.parameter_count()
        quality = divergence(original, changed, held_out)
        with atomic_folder(target) as folder:
            save_model(changed, folder)
            tokenizer.save(folder)
            copy_settings(model_folder(place), folder)
            check_new(target, "--output")  # again: another command may have written it meanwhile
    prompt = held_out.ids[0, : min(PROMPT, held_out.ids.shape[1] // 2)].tolist()
    speeds = alternating_rates([original, changed], prompt)
    return QuantizedFolder(method, _bytes(Path(place)), _bytes(target), bits, part, quality, speeds)


def _bytes(place: Path) -> int:
    """Of a .gguf file, or of the weights in a folder."""
    return sum(path.stat().st_size for path in ([place] if place.is_file() else place.glob("*.safetensors")))


def _split(
    texts: Sequence[str] | None, calibration: Sequence[str] | None, tokenizer: Any, length: int
) -> tuple[Windows, Windows]:
    """Windows for calibration, and others for the comparison."""
    if texts is None:
        topics = make_method("source", {"name": "python-docs", "parts": ["topics"]})
        texts = [document.text for document in topics.documents()]
    if calibration is None and len(texts) == 1:  # one text: its halves
        middle = len(texts[0]) // 2
        texts = [texts[0][:middle], texts[0][middle:]]
    if not texts:
        raise DataError("--text: holds no text")
    rows = EVALUATION * LENGTH // length
    if calibration is not None:
        train = windows(calibration, tokenizer, length, CALIBRATION, "--calibration")
        return train, windows(texts, tokenizer, length, rows, "--text")
    middle = len(texts) // 2
    train = windows(texts[:middle], tokenizer, length, CALIBRATION, "--text: its first half")
    return train, windows(texts[middle:], tokenizer, length, rows, "--text: its second half")


def alternating_rates(
    models: Sequence[Any], prompt: list[int], rows: int = 1, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], list[float]]:
    """Tokens a second of both models in alternating rounds, so that another process slows both; the prompt not counted.

    A round of each comes first and is not counted: it compiles and reads the weights.
    """
    engines = [Engine(cast(LanguageModel, model), runner="auto", rows=rows) for model in models]
    found: tuple[list[float], list[float]] = ([], [])
    with progress("speed", total=ROUNDS, unit="rounds") as bar:
        for engine in engines:
            decoding_rate(engine, prompt, rows, clock)
        start = time.perf_counter()
        while len(found[0]) < FEWEST or (len(found[0]) < ROUNDS and time.perf_counter() - start < SECONDS):
            for engine, speeds in zip(engines, found, strict=True):
                speeds.append(decoding_rate(engine, prompt, rows, clock))
            bar.advance()
    return found


def decoding_rate(
    engine: Engine, prompt: list[int], rows: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Tokens a second that `rows` equal requests get, greedily, once all prompts are read."""
    count = max(2, min(DECODED, (engine.model.max_length or 1 << 30) - len(prompt)))
    tokens = 0
    with evaluating(engine.model):
        scheduler = engine.scheduler()
        for _ in range(rows):
            scheduler.submit(engine.request(prompt, max_new_tokens=count, temperature=0.0, stop_ids=()))
        while not scheduler.step() or scheduler.waiting:  # the prompts, and the first tokens
            pass
        start = clock()
        while scheduler.busy:
            tokens += len(scheduler.step())
    return tokens / max(clock() - start, 1e-9)
