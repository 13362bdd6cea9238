"""The generation engine: text in, text out, over any `LanguageModel`.

    engine = Engine(model, tokenizer)
    engine.generate("Once upon a time", max_new_tokens=32)          # greedy, a list of one Completion
    engine.generate(prompts, temperature=0.8, top_p=0.9, seed=7)    # one batch, each prompt with its own random stream
    engine.generate(prompts, beams=4, n=2)                          # beam search; each Completion has a score
    for piece in engine.stream("Once upon a time"):
        print(piece.text, end="", flush=True)

The rules that hold everywhere (`llmanac serve` included):

- A text begins with the begin-of-text token where the tokenizer's convention says so; token ids are taken as they are.
- An empty prompt means the model's own beginning: the tokenizer's begin-of-text token, else its end-of-text token.
- A prompt may fill the context; one that is longer is refused. When a sequence fills it, it ends with "length".
- `Completion.ids` holds every generated token, the one that ended the sequence included; `text` does not hold it.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from llmanac.core.errors import RequestError, nearest, shown, too_long
from llmanac.core.progress import progress
from llmanac.core.spec import make_method
from llmanac.core.types import LanguageModel, capabilities, evaluating
from llmanac.generate._native_file import FileModel
from llmanac.generate._options import Allowed
from llmanac.generate._text import TextStream
from llmanac.generate.constrain import Matchers, constraint_of
from llmanac.generate.drafters import DrafterSpec
from llmanac.generate.prefix_cache import PrefixCache
from llmanac.generate.requests import Completion, Options, Piece, Request, TokenLogprob, check_names, completions
from llmanac.generate.scheduler import Choose, Scheduler
from llmanac.generate.speculative import Speculation
from llmanac.models.folder import FORCED
from llmanac.models.state.pool import pageable

if TYPE_CHECKING:
    from llmanac.adapters import AdapterRegistry, Transform
    from llmanac.generate.native import NativeModel
    from llmanac.tokenizers import Tokenizer

__all__ = ["Completion", "Engine", "Options", "Piece", "Request", "TokenLogprob", "completions"]

Prompt = str | Sequence[int]
SMALL = 20_000_000  # parameters up to which `auto` does not compile anything
RUNNERS = ("auto", "native", "torch")


class Engine:
    """Generates text with a model and its tokenizer.

    Args:
        model: any `LanguageModel`; only `start`, `forward` and its state are used.
        tokenizer: turns text into ids and back; `None` for a model that is used with ids alone.
        rows: how many sequences run at once.
        prefix_cache_bytes: keep the states of prompts and answers in so many bytes, so that a later prompt which
            begins like one of them is not computed from its start; None keeps nothing. Rows that run may take as many
            bytes again, for what they gathered from it.
        drafter: speculative decoding: the name of a drafter (`llmanac list drafter`), its Spec, or a draft model with
            the same vocabulary. The tokens are those without it.
        draft_model: the model that a drafter needs, where `drafter` is a name or a Spec.
        max_num_batched_tokens: that the sequences which run may hold together; where they need more, the youngest
            request waits and is read again later. A request that alone needs more runs alone. None sets no bound.
        runner: computes the model: `torch` (any model, any device), `native` (compiled; Llama-shaped models on a CPU),
            `auto` (native where it can run a model of at least 20 million parameters: smaller ones are not worth the
            seconds of compiling), or a `NativeModel` with choices of its own (quantized weights, threads).
            `native:float32`, `native:float16` and `native:q8_0` say what keys and values are kept in.

        adapters: by name, folders in PEFT's layout, or Transforms on another model of this shape; a request names one
            (`adapter`), and requests with different ones run in one batch. The native runner computes LoRA of a
            layer's products, torch all of them.

    Attributes:
        prefix_cache: those states and their counters, or None.
        speculation: how many drafted tokens were accepted.
        native: what the native runner runs, or None where torch does.

    Raises:
        RequestError: fewer than one row or token, a prefix cache for a model whose state cannot be kept in blocks, or a
            runner that does not exist or cannot run this model.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer | None = None,
        *,
        rows: int = 32,
        prefix_cache_bytes: int | None = None,
        drafter: str | DrafterSpec | LanguageModel | None = None,
        draft_model: LanguageModel | None = None,
        max_num_batched_tokens: int | None = None,
        runner: str | NativeModel = "torch",
        adapters: Mapping[str, str | Path | Transform] | None = None,
    ) -> None:
        if rows < 1:
            raise RequestError(f"rows: {rows} is not at least 1")
        if max_num_batched_tokens is not None and max_num_batched_tokens < 1:
            raise RequestError(
                f"max_num_batched_tokens: {max_num_batched_tokens} is not at least 1; leave it out to set no bound"
            )
        if max_num_batched_tokens is not None and capabilities(model).reads_source:
            raise RequestError("max_num_batched_tokens: an encoder-decoder's answers cannot be put back; leave it out")
        self.max_num_batched_tokens = max_num_batched_tokens
        self.model, self.tokenizer, self.rows = model, tokenizer, rows
        self.make_runner: Callable[[], Any] | None = None  # in place of the torch runner (parallel/serving.py)
        self.lost: Callable[[], str | None] = lambda: None  # why it cannot go on: a rank has stopped
        self.registry: AdapterRegistry | None = None
        if adapters:
            from llmanac.adapters import AdapterRegistry

            self.registry = AdapterRegistry(model, adapters)
            weakref.finalize(self, self.registry.detach)
        self.native = _native(model, runner, self.registry)
        self.prefix_cache: PrefixCache | None = None
        if prefix_cache_bytes is not None:
            self.keep_prefixes(prefix_cache_bytes)
        if isinstance(drafter, str):
            drafter = cast(DrafterSpec, make_method("drafter", drafter))
        elif drafter is not None and not isinstance(drafter, DrafterSpec):
            draft_model, drafter = drafter, cast(DrafterSpec, make_method("drafter", "model"))
        self.drafter: DrafterSpec | None = drafter
        self._matchers: Matchers = {}
        self.draft_model, self.speculation = draft_model, Speculation()
        if draft_model is not None and draft_model.vocab_size != model.vocab_size:
            sizes = f"{draft_model.vocab_size} tokens, the model has {model.vocab_size}"
            raise RequestError(f"drafter: the draft model has a vocabulary of {sizes}; both must have the same tokens")
        if self.drafter is not None:
            if capabilities(model).reads_source or capabilities(draft_model).reads_source:
                raise RequestError("drafter: an encoder-decoder cannot be drafted for, and drafts for no other model")
            if capabilities(draft_model).soft_prompts and cast(Any, draft_model).soft_prompt is not None:
                raise RequestError("drafter: the draft model has a prefix or a prompt before its tokens; remove() it")
            self.drafter.build(model=draft_model)

    @property
    def chat_template(self) -> str | None:
        """Its tokenizer's, None where it has none."""
        return None if self.tokenizer is None else self.tokenizer.chat_template

    @property
    def generation(self) -> Mapping[str, Any]:
        """What the generation_config.json of the model holds; empty for a model without files."""
        return getattr(self.model, "generation", None) or {}

    @property
    def runs_on(self) -> str:
        """The runner and its threads, for people."""
        runner = "torch" if self.native is None else f"native ({self.native.form})"
        return f"{runner} runner, {self.threads} {'thread' if self.threads == 1 else 'threads'}"

    @property
    def threads(self) -> int:
        """How many threads compute the model."""
        if self.native is not None:
            return self.native.threads
        import torch

        return torch.get_num_threads()

    @property
    def keeps_prefixes(self) -> bool:
        """Whether the states of its rows can be kept in blocks, as a prefix cache does."""
        return self.native is not None or pageable(self.model.start(1))

    def keep_prefixes(self, size: int) -> None:
        """Keep the states of prompts and answers in `size` bytes from now on."""
        if self.native is not None:
            self.prefix_cache = PrefixCache(self.native.pool, self.native.source.stamp, size)
            return
        from llmanac.generate.runner import prefix_cache

        self.prefix_cache = prefix_cache(self.model, size)

    def sync(self) -> float:
        """Read the model's weights again after they have changed, and forget kept states; returns the seconds it took.

        Writes to parameters are noticed by themselves when the next request starts, but those through
        `parameter.data` are not.
        """
        start = time.perf_counter()
        if self.native is not None:
            self.native.sync()
        if self.prefix_cache is not None:
            self.prefix_cache.clear()
        return time.perf_counter() - start

    def scheduler(self, slower: float | None = None) -> Scheduler:
        """A scheduler of this engine's model, runner, rows and prefix cache; `slower` as `Scheduler` takes it."""
        runner: Any
        if self.native is not None:
            from llmanac.generate.native import NativeRunner

            runner = NativeRunner(self.native, self.prefix_cache, self.registry)
        elif self.make_runner is not None:
            runner = self.make_runner()
        else:
            from llmanac.generate.runner import TorchRunner

            runner = TorchRunner(self.model, self.prefix_cache, self.registry)
        drafter = None if self.drafter is None else self.drafter.build(model=self.draft_model)
        return Scheduler(
            self.model,
            rows=self.rows,
            prefix_cache=self.prefix_cache,
            runner=runner,
            drafter=drafter,
            speculation=self.speculation,
            max_num_batched_tokens=self.max_num_batched_tokens,
            slower=slower,
        )

    def generate(self, prompts: Prompt | Sequence[Prompt], **options: Unpack[Options]) -> list[Completion]:
        """Continue prompts; `n` completions each, in the order of the prompts. See `Options` for what can be asked.

        Of beams there are fewer than `n` where fewer texts are possible.

        Args:
            prompts: a text, a list of token ids, or a list of either.

        Raises:
            RequestError: an option that does not exist or is out of range, an unknown token id, an empty prompt with
                no token to begin from, or a prompt longer than the context.
        """
        return self.run([self.request(prompt, **options) for prompt in as_prompts(prompts)])

    def run(
        self, requests: Sequence[Request], choose: Choose | None = None, ended: Callable[[int], object] = lambda _: None
    ) -> list[Completion]:
        """Answer checked requests; `choose` takes the place of their own decoding methods (see `draws.py`), `ended` is
        told how many sequences a step ended."""
        scheduler = self.scheduler()
        scheduler.choose = choose
        for request in requests:
            scheduler.submit(request)
        with evaluating(self.model, self.draft_model):
            while scheduler.busy:
                ended(sum(sequence.finish_reason is not None for sequence in scheduler.step()))
        return [completion for request in requests for completion in completions(request)]

    def sample(
        self, asked: Sequence[tuple[Sequence[int], Mapping[str, Any]]], **options: Any
    ) -> list[tuple[list[Completion], int]]:
        """The completions of each prompt (ids, and options of its own), and how many of its tokens had to be read."""
        requests = [self.request(list(ids), **{"logprobs": 0, **options, **own}) for ids, own in asked]
        with progress("sample", sum(len(r.sequences) for r in requests), "samples") as bar:
            self.run(requests, ended=bar.advance)
        return [(completions(r), len(r.prompt) - (r.cached_tokens or 0)) for r in requests]

    def stream(self, prompt: Prompt, **options: Unpack[Options]) -> Iterator[Piece]:
        """Continue one prompt and yield its text as it comes; the last piece of each sample says why it ended.

        Joined by `index`, the pieces' texts are exactly the texts of `generate`. Checks the request at once, before
        the first piece is asked for. Raises RequestError as `generate` does.
        """
        return self._pieces(self.request(prompt, **options))

    def _pieces(self, request: Request) -> Iterator[Piece]:
        scheduler = self.scheduler()
        scheduler.submit(request)
        with evaluating(self.model, self.draft_model):
            while scheduler.busy:
                for sequence in scheduler.step():
                    if sequence.error is not None:
                        raise sequence.error
                    piece = sequence.take()
                    if piece.text or piece.token_logprobs or piece.finish_reason:
                        yield piece

    def request(self, prompt: Prompt, **options: Unpack[Options]) -> Request:
        """A checked request, for a `Scheduler`. Raises RequestError as `generate` does."""
        check_names(cast(dict[str, Any], options))
        ids = self._prompt_ids(prompt)
        context, adapter = self.model.max_length, options.get("adapter")
        names = () if self.registry is None else self.registry.names
        if adapter is not None and adapter not in names:
            known = f"known: {', '.join(names)}" if names else "this engine has none"
            raise RequestError(f"adapter: {shown(adapter)} is not known{nearest(str(adapter), names)} ({known})")
        if (
            adapter is not None
            and self.registry is not None
            and adapter in self.registry.soft_prompts
            and context is not None
        ):
            context -= self.registry.soft_prompts[adapter].tokens
        if context is not None and len(ids) > context:
            raise too_long("prompt", len(ids), context)
        if options.get("images") is not None and not capabilities(self.model).sees:
            raise RequestError("images: this model reads text alone; leave them out")
        chosen = options.get("stop_ids")
        stop_ids = self.eos_ids if chosen is None else frozenset(int(i) for i in chosen)
        able = capabilities(self.model)
        if able.reads_source and options.get("prompt_logprobs") is not None:
            raise RequestError("prompt_logprobs: an encoder-decoder reads its prompt as a whole and gives it no score")
        size = self.model.vocab_size
        constraint = constraint_of(cast(dict[str, Any], options), self.tokenizer, stop_ids, size, self._matchers)
        made = Request(
            ids, options, stop_ids=stop_ids, context=context, tokenizer=self.tokenizer, constraint=constraint,
            start_id=able.start_id, forced=self._forced if able.reads_source else (None, None),
        )  # fmt: skip
        for method in made.decoding:
            if method.ids and max(method.ids) >= size:
                named, option = method.ids, "allowed_ids" if isinstance(method, Allowed) else "logit_bias"
                raise RequestError(f"{option}: {max(named)} is not in the vocabulary of {size} tokens")
        return made

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end a text: the tokenizer's, and those of the model's generation_config.json."""
        listed = self.generation.get("eos_token_id")
        found = [self.tokenizer.eos_id if self.tokenizer else None, *(listed if isinstance(listed, list) else [listed])]
        return frozenset(int(i) for i in found if i is not None)

    @property
    def _forced(self) -> tuple[int | None, int | None]:
        """The first and the last token that the model's generation_config.json gives an answer."""
        found: list[int | None] = []
        for key in FORCED:
            listed = self.generation.get(key)
            token: Any = listed[0] if isinstance(listed, list) and listed else listed
            if token is not None and token >= self.model.vocab_size:
                raise RequestError(f"{key}: {token} is not in the vocabulary of {self.model.vocab_size} tokens")
            found.append(token if token != -1 else None)
        return found[0], found[1]

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, as a completion has it: without special tokens."""
        stream = TextStream(self.tokenizer)
        for i in ids:
            stream.push(i)
        stream.close()
        return stream.text

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise RequestError("prompt: this engine has no tokenizer; give token ids instead of text")
            framed = capabilities(self.model).reads_source  # what an encoder reads ends as its tokenizer says
            ids = list(map(int, self.tokenizer.framed(prompt)[0] if framed else self.tokenizer.encode(prompt)))
            bos = self.tokenizer.bos_id
            if ids and bos is not None and self.tokenizer.adds_bos and ids[0] != bos:
                ids = [bos, *ids]
        else:
            ids = [int(i) for i in prompt]
        if not ids:
            begin = [] if self.tokenizer is None else [self.tokenizer.bos_id, self.tokenizer.eos_id]
            ids = [i for i in begin if i is not None][:1]
            if not ids:
                raise RequestError("prompt: it is empty, and the tokenizer has no begin-of-text token to start from")
        if min(ids) < 0 or max(ids) >= self.model.vocab_size:
            wrong = next(i for i in ids if not 0 <= i < self.model.vocab_size)
            size = self.model.vocab_size
            raise RequestError(f"prompt: token id {wrong} is not in the model's vocabulary of {size} tokens")
        return ids


def _native(model: Any, runner: str | NativeModel, registry: AdapterRegistry | None) -> NativeModel | None:
    """What the native runner runs where it is chosen."""
    name, colon, keys = runner.partition(":") if isinstance(runner, str) else ("native", "", "")
    if name not in RUNNERS or (colon and (name != "native" or not keys)):
        from llmanac.generate._native_model import KEYS

        known = (*RUNNERS, *(f"native:{kind}" for kind in KEYS))
        raise RequestError(f"runner: {runner!r} is not one of {', '.join(known)}{nearest(name, RUNNERS)}")
    if isinstance(model, FileModel):
        from llmanac.generate.native import NativeModel

        return NativeModel(model, keys=keys or None) if isinstance(runner, str) else runner
    if runner == "torch":
        return None
    from llmanac.generate import _native_terms
    from llmanac.generate.native import NativeModel
    from llmanac.generate.native_torch import refusal

    unread = None if registry is None or refusal(model) is not None else _native_terms.refusal(registry)
    if runner == "auto" and (unread or refusal(model) is not None or model.parameter_count() < SMALL):
        return None
    if unread:
        raise RequestError(f"runner: native cannot compute these adapters ({unread}); use torch, or merge() one")
    return NativeModel(model, keys=keys or None) if isinstance(runner, str) else runner


def as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several, as a list; a flat list of ids is one prompt."""
    if isinstance(prompts, str) or (len(prompts) and isinstance(prompts[0], (int, np.integer))):
        return [cast(Prompt, prompts)]
    return list(cast(Sequence[Prompt], prompts))
