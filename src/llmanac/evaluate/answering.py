"""What answers a benchmark: a model through the engine, or a server through OpenAI's completions."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from llmanac.core.errors import SpecError
from llmanac.generate.engine import Engine
from llmanac.models.locate import contents
from llmanac.models.pairs import encode

PREFIX_BYTES = 256 << 20  # of examples that prompts share


class Answerer(Protocol):
    """identity: what its answers depend on, apart from the request; kept: answers in a chat that are kept together."""

    name: str
    identity: str
    kept: int

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> Sequence[tuple[float, bool | None]]:
        """(sum of log-probabilities in nats, whether greedy decoding writes it, if known) of each continuation."""

    def generate(self, prompts: Sequence[str], stop: Sequence[str], length: int, chat: bool) -> list[str]:
        """The greedy continuation of each prompt up to the first stop; `chat` sends a prompt as a user's message."""

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        """The answer to each prompt as a user's message, held to one of its choices where the model can be."""


class Local:
    """A model in this process. What does not fit its context loses tokens on the left, as in lm-eval."""

    kept = 32

    def __init__(self, engine: Engine, name: str, identity: str, *, batch_tokens: int = 4096) -> None:
        self.engine, self.name, self.identity, self.batch_tokens = engine, name, identity, batch_tokens
        if engine.prefix_cache is None and engine.keeps_prefixes:
            engine.keep_prefixes(PREFIX_BYTES)

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        from llmanac.evaluate.likelihood import loglikelihood  # a server's answers need no torch

        model, tokenizer = self.engine.model, self.engine.tokenizer
        found = loglikelihood(model, tokenizer, pairs, batch_tokens=self.batch_tokens, label=None)
        return [(one.total, one.greedy) for one in found]

    def generate(self, prompts: Sequence[str], stop: Sequence[str], length: int, chat: bool) -> list[str]:
        ids, length = self._ids(prompts, length, chat)
        done = self.engine.generate(ids, max_new_tokens=length, stop=tuple(stop), temperature=0)
        return [one.text for one in done]

    def choose(self, prompts: Sequence[str], choices: Sequence[Sequence[str]]) -> list[str]:
        ids, length = self._ids(prompts, max(len(one.encode()) for own in choices for one in own), True)
        ways = ["|".join(map(re.escape, own)) for own in choices]
        asked = [self.engine.request(own, regex=way, max_new_tokens=length, temperature=0)
                 for own, way in zip(ids, ways, strict=True)]  # fmt: skip
        return [one.text for one in self.engine.run(asked)]

    def _ids(self, prompts: Sequence[str], length: int, chat: bool) -> tuple[list[list[int]], int]:
        """Tokens of prompts that leave room for an answer, and its length."""
        tokenizer, context = self.engine.tokenizer, self.engine.model.max_length
        if tokenizer is None:
            raise SpecError("model: has no tokenizer to read prompts with")
        ids: list[list[int]]
        if chat:
            turns = [([{"role": "user", "content": text}], True) for text in prompts]
            ids = [list(found) for found, _ in tokenizer.encode_chats(turns)]
        else:
            ids = [encode(tokenizer, text) for text in prompts]
        if context is not None:
            length = max(1, min(length, context - 1))
            ids = [one[-max(1, context - length) :] for one in ids]
        return ids, length


def load_local(path: str, *, dtype: str | None = None, device: str = "auto", runner: str | None = None) -> Local:
    """A model by its path; arguments and errors are those of `load_engine`."""
    from llmanac.generate.load import load_engine

    engine = load_engine(path, dtype=dtype, device=device, runner=runner)
    kind = str(getattr(engine.model, "compute_dtype", None) or dtype)
    return Local(engine, path, f"{contents(path)} {kind} {(runner or 'auto') if engine.native else 'torch'}")


def load_answerer(
    path: str, *, dtype: str | None = None, runner: str | None = None, rpm: float | None = None
) -> Answerer:
    """A model by its path, or a server by its address (http://...), which gets `rpm` requests a minute at most."""
    if path.startswith(("http://", "https://")):
        from llmanac.evaluate._requests import Requests
        from llmanac.evaluate.server import ServedModel

        return ServedModel(path, requests=Requests(rpm=rpm))
    return load_local(path, dtype=dtype, runner=runner)


@dataclass(frozen=True)
class RemoteAnswerer:
    """What an `Answerer` elsewhere is called, and what its answers depend on."""

    name: str
    identity: str
    kept: int

    @classmethod
    def of(cls, model: Answerer, chat: bool) -> "tuple[RemoteAnswerer, str | None]":
        """And what `chat_note` says of it."""
        return cls(model.name, model.identity, model.kept), chat_note(model, chat)


def chat_note(model: Answerer, chat: bool) -> str | None:
    """A hint where prompts are continued as they are by a model that has a chat template."""
    if chat or not isinstance(model, Local) or model.engine.chat_template is None:
        return None
    return f"note: {model.name} has a chat template; --chat sends prompts through it"
