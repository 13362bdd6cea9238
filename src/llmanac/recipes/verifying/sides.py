"""What is compared: a model in our runner, a .gguf file in llama.cpp, or an OpenAI-compatible server."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmanac.core.errors import CheckpointError, TokenizerError, shown
from llmanac.evaluate.server import ServedModel
from llmanac.generate.load import load_engine
from llmanac.kernels.gguf import GGUF
from llmanac.kernels.gguf.blocks import KINDS
from llmanac.models.load import load_model
from llmanac.models.locate import GGUF as SUFFIX
from llmanac.models.locate import base_of, find_adapter, locate
from llmanac.models.quantized import Quantized

Prompt = str | Sequence[Mapping[str, Any]]  # a text to go on with, or messages

CONTEXT = 1024  # tokens that llama.cpp keeps scores of


@dataclass(frozen=True)
class SideAnswer:
    """An answer.

    Attributes:
        prompt: tokens of the prompt, where they are known.
        ids: of its tokens; margins: by how many nats each won over the next one.
    """

    text: str
    prompt: int | None
    ids: Sequence[int] = ()
    margins: Sequence[float] = ()


class LocalSide:
    """A folder, an adapter on its model, or a .gguf file, in the engine of this package.

    Attributes:
        bits: of a weight, the fewest of a matrix but the embedding's; size: of the vocabulary, 0 where it is not known.
    """

    runner = "llmanac"

    def __init__(self, path: str, base: str | None = None) -> None:
        self.name, self.engine = path, load_engine(path)
        self.model: Any = self.engine.model
        self.tokenizer: Any = self.engine.tokenizer
        self.size = int(self.model.vocab_size)
        adapter = find_adapter(path)
        self._base = base or (None if adapter is None else base_of(adapter))

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The parameters by name; the head is there too where it is the embedding."""
        return dict(self.model.named_parameters(remove_duplicate=False))

    @cached_property
    def base(self) -> dict[str, Tensor]:
        """The parameters of the model that was tuned; none where it is not known."""
        if self._base is None:
            return {}
        return dict(load_model(locate(self._base)[0], device="cpu").named_parameters(remove_duplicate=False))

    @cached_property
    def bits(self) -> float:
        kinds = [kind_of(weight) for name, weight in self.weights.items() if weight.ndim == 2 and "embed" not in name]
        return min((bits_of(kind) for kind in kinds), default=32.0)

    def ids(self, prompt: Prompt) -> list[int]:
        """Tokens of a prompt, as this package would ask it; of a chat without a template the last message alone."""
        if not isinstance(prompt, str):
            ids = tried(self.tokenizer.chat_ids, prompt, add_generation_prompt=True)
            return self.ids(str(prompt[-1].get("content"))) if ids is None else list(ids)
        before = [self.tokenizer.bos_id] if self.tokenizer.adds_bos else []
        return [*before, *self.tokenizer.encode(prompt)]

    def answers(self, prompts: Sequence[Prompt], length: int) -> list[SideAnswer]:
        """The greedy answer to each prompt."""
        ids = [self.ids(prompt) for prompt in prompts]
        done = self.engine.generate(ids, max_new_tokens=length, temperature=0)
        return [
            SideAnswer(
                one.text, len(own), *zip(*((token.id, token.margin) for token in one.token_logprobs), strict=True)
            )
            for one, own in zip(done, ids, strict=True)
        ]


class LlamaCpp:
    """A .gguf file in llama.cpp; `model` gives its logits to whoever compares two models."""

    runner = "llama.cpp"

    def __init__(self, peer: Any, path: str) -> None:
        self.name, self.path, self.peer = path, path, peer
        kinds = GGUF(path).kinds()
        self.bits = min((bits_of(kind) for kind in kinds), default=32.0)
        try:
            self.llm = peer.Llama(path, n_ctx=CONTEXT, n_threads=1, logits_all=True, verbose=False, seed=0)
        except Exception as error:
            raise CheckpointError(f"{path}: llama.cpp does not load it ({str(error)[:200]})") from error
        self.size = int(self.llm.n_vocab())

    def model(self, batch: Any) -> Any:
        """Logits (1, T, V) of a row of tokens."""
        ids = batch.ids[0].tolist()
        self.llm.reset()
        self.llm.eval(ids)
        return SimpleNamespace(logits=torch.from_numpy(np.array(self.llm.scores[: len(ids)]))[None])

    def answers(self, prompts: Sequence[Prompt], length: int) -> list[SideAnswer]:
        """The greedy answer to each prompt; llama.cpp renders and tokenizes it by the file alone."""
        ask = {True: self.llm.create_completion, False: self.llm.create_chat_completion}
        replies = (ask[isinstance(one, str)](one, max_tokens=length, temperature=0.0) for one in prompts)
        return [_said(reply, self.name) for reply in replies]


class Remote(ServedModel):
    """A server by its address."""

    runner, bits, size = "server", 32.0, 0

    def answers(self, prompts: Sequence[Prompt], length: int) -> list[SideAnswer]:
        """The greedy answer to each prompt. Raises RequestError where the server refuses."""
        out = []
        for prompt in prompts:
            path, field = ("completions", "prompt") if isinstance(prompt, str) else ("chat/completions", "messages")
            body = {"model": self.model, "max_tokens": length, "temperature": 0, field: prompt}
            out.append(_said(self._send(path, body), f"{self.url}/{path}"))
        return out


def _said(answer: Any, place: str) -> SideAnswer:
    """The text of an answer in OpenAI's form, and the tokens of its prompt where it says them.

    Raises:
        CheckpointError: it is of another form; an answer that cannot be read is none that is empty.
    """
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        text = choice["message"]["content"] if "message" in choice else choice["text"]
        count = usage.get("prompt_tokens")
    except (AttributeError, IndexError, KeyError, TypeError):
        text, count = None, None
    if not isinstance(text, str) or not isinstance(count, int | None):
        raise CheckpointError(f"{place}: answers {shown(answer)}, not in OpenAI's form; name another server")
    return SideAnswer(text, count)


def tried(call: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """What a call gives; None where a tokenizer or its chat template refuses."""
    try:
        return call(*given, **options)
    except TokenizerError:
        return None


def opened_sides(place: str, with_llama_cpp: bool) -> list[Any]:
    """What is to be compared of a place: a file in each runner that is installed and reads it, or a server."""
    if place.startswith(("http://", "https://")):
        return [Remote(place)]
    sides: list[Any] = [LocalSide(place)]
    if with_llama_cpp and place.endswith(SUFFIX) and importlib.util.find_spec("llama_cpp"):
        sides.append(LlamaCpp(importlib.import_module("llama_cpp"), place))
    return sides


def kind_of(weight: Any) -> str:
    """How a matrix is stored: a kind of GGUF files, a quantizer's name, or a dtype."""
    if not isinstance(weight, Quantized):
        return str(weight.dtype).removeprefix("torch.")
    return weight.form.name


def bits_of(kind: str) -> float:
    """Bits of a weight that is stored so."""
    if kind in KINDS:
        return 8 * KINDS[kind].bytes / KINDS[kind].size
    return {"float64": 64.0, "float32": 32.0, "bfloat16": 16.0, "float16": 16.0, "int8": 8.0}.get(kind, 4.0)
