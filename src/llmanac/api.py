"""The commands as functions of the same names; results of runs and measurements show themselves as tables.

    tuned = llmanac.tune("HuggingFaceTB/SmolLM2-135M-Instruct", "rows.jsonl", output="tuned")
    llmanac.evaluate("model", tuned.folder / "model", benchmarks="bench.toml")

`changes` are patches by path, as `-s` of the commands: `{"train.steps": 100}`. Errors are `LlmanacError`s, whose text
names the option as the command writes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from llmanac.core.extras import naming
from llmanac.core.spec import make_method

if TYPE_CHECKING:
    from llmanac.evaluate.benchmarking import Evaluated
    from llmanac.generate.engine import Completion
    from llmanac.recipes.finished import Run
    from llmanac.recipes.merge import Merged
    from llmanac.recipes.quantize import QuantizedFolder
    from llmanac.retrieve.folder import FolderIndex
    from llmanac.retrieve.folder.answers import FolderAnswer

Place = str | Path
Changes = Mapping[str, Any]
Given = ParamSpec("Given")
Made = TypeVar("Made")


def _named(function: Callable[Given, Made]) -> Callable[Given, Made]:
    """A function that says what to install where it needs a package of an extra."""

    @functools.wraps(function)
    def called(*given: Given.args, **named: Given.kwargs) -> Made:
        with naming(f"llmanac.{function.__name__}"):
            return function(*given, **named)

    return called


def _run(kind: Any, fields: dict[str, Any], data: Place, output: Place, resume: bool, changes: Changes | None) -> Run:
    from llmanac.recipes.asked import asked_with
    from llmanac.recipes.run import run

    asked = asked_with(kind, fields, str(data), changes or {})
    return run(asked, folder=Path(output), resume=resume, flag="output")


@_named
def tune(
    model: Place, data: Place, *, adapter: str = "lora", output: Place = "tuned", resume: bool = False,
    changes: Changes | None = None,
) -> Run:  # fmt: skip
    """Fine-tune a model on rows: an adapter, or with `adapter="full"` its own weights; loss before and after."""
    from llmanac.recipes.tune import TuneSpec

    return _run(TuneSpec, {"model": str(model), "adapter": adapter}, data, output, resume, changes)


@_named
def align(
    model: Place, data: Place, *, method: str = "grpo", reward: str | Sequence[str] | None = None,
    adapter: str = "lora", output: Place = "aligned", resume: bool = False, changes: Changes | None = None,
) -> Run:  # fmt: skip
    """Align a model to preferences or to a reward of its own answers, or train a reward model."""
    from llmanac.recipes.align import AlignSpec
    from llmanac.rewards import read_rewards

    named = read_rewards([reward] if isinstance(reward, str) else list(reward or ()))
    fields = {
        "model": str(model), "adapter": adapter, "objective": make_method("objective", method), "reward": named
    }  # fmt: skip
    return _run(AlignSpec, fields, data, output, resume, changes)


@_named
def specialize(
    model: Place, data: Place, *, output: Place = "specialist", auto: bool = False, resume: bool = False,
    changes: Changes | None = None,
) -> Run:  # fmt: skip
    """Tune on rows or on a folder of documents, export to .gguf files, and verify that they are the model.

    Args:
        auto: choose rate and rank by a short paired sweep.
    """
    from llmanac.core import spec
    from llmanac.recipes.run import run
    from llmanac.recipes.specialize import SpecializeSpec

    fields = {"model": str(model), "data": str(data), "choose": "sweep" if auto else "stated"}
    asked = spec.patch(spec.make(SpecializeSpec, fields), changes or {})
    return run(asked, folder=Path(output), resume=resume, flag="output")


@_named
def distill(
    teacher: Place, student: Place, data: Place, *, level: str = "token", adapter: str = "full", samples: int = 1,
    temperature: float = 0.0, max_tokens: int = 256, verify: str = "squad", output: Place = "distilled",
    resume: bool = False, changes: Changes | None = None,
) -> Run:  # fmt: skip
    """Train a student on a teacher's distributions (token), features, texts (sequence) or right answers (response)."""
    from llmanac.recipes.asked import distilling
    from llmanac.recipes.tune import TuneSpec

    how = {"samples": samples, "temperature": temperature, "max_tokens": max_tokens, "verify": verify}
    return _run(TuneSpec, distilling(str(teacher), str(student), level, adapter, how), data, output, resume, changes)


@_named
def merge(adapter: Place, output: Place, *, base: str | None = None, dtype: str | None = None) -> Merged:
    """Write a model with an adapter's change in its weights."""
    from llmanac.recipes.merge import merge as merged

    return merged(adapter, Path(output), base=base, dtype=dtype)


@_named
def quantize(
    model: Place, output: Place, method: str, *, targets: Sequence[str] = (), texts: Sequence[str] | None = None,
    calibration: Sequence[str] | None = None,
) -> QuantizedFolder:  # fmt: skip
    """Write a model with fewer bits a weight; size, loss and speed before and after."""
    from llmanac.recipes.quantize import quantize as quantized

    return quantized(str(model), Path(output), method, targets=targets, texts=texts, calibration=calibration)


@_named
def evaluate(model: Place, other: Place | None = None, **options: Any) -> Evaluated:
    """Run benchmarks on one model or two; the options are those of `evaluate.benchmarking.run_benchmarks`."""
    from llmanac.evaluate.benchmarking import run_benchmarks

    return run_benchmarks(model, other, **options)


@_named
def generate(model: Place, prompt: str, *, runner: str = "auto", **options: Any) -> list[Completion]:
    """Continue a text; the options are those of `Engine.generate`. To ask more than once, keep an `Engine`."""
    from llmanac.generate.load import load_writer

    return load_writer(str(model), runner=runner).generate(prompt, **options)


@_named
def index(
    folder: Place, *, place: Place | None = None, encoder: str | None = None, include: Sequence[str] = ()
) -> FolderIndex:  # fmt: skip
    """Index a folder of documents, or renew its index."""
    from llmanac.retrieve.folder import FolderIndex

    spec = None if encoder is None else make_method("retriever", {"name": "dense", "model": encoder})
    return FolderIndex.update(Path(folder), None if place is None else Path(place), encoder=spec, include=include)


@_named
def ask(
    folder: Place, question: str, *, model: Place | None = None, runner: str = "auto", place: Place | None = None,
    encoder: str | None = None, include: Sequence[str] = (), **options: Any,
) -> FolderAnswer:  # fmt: skip
    """Answer a question from a folder of documents, or refuse; the options are those of `FolderAssistant`."""
    from llmanac.generate.load import load_writer
    from llmanac.retrieve.folder.answers import FolderAssistant

    engine = None if model is None else load_writer(str(model), runner=runner)
    found = index(folder, place=place, encoder=encoder, include=include)
    return FolderAssistant(found, engine, **options).answer(question)
