"""`llmanac chat` and `serve`: a model's answers on the terminal, as they come, or over HTTP."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TextIO, Unpack

import typer

from llmanac.cli.documents import Budget, Encoder, Method, Mode, Place, Threshold, assistant_of, updated
from llmanac.cli.generate import divided, say_drafts, write
from llmanac.cli.options import Draft, DraftTokens, Include, Pipeline, Rope, SomeModel, SomeRunner, Tensor, Threads
from llmanac.core import interrupts
from llmanac.core.errors import LlmanacError, RequestError, for_terminal
from llmanac.models.locate import ADAPTER, size_of

if TYPE_CHECKING:
    from llmanac.evaluate.embed import Embedder
    from llmanac.generate.answers import Answer, Assistant
    from llmanac.generate.engine import Engine, Options
    from llmanac.retrieve.memory import Memory

Facts = Literal["model", "asked"]
More = Annotated[list[str] | None, typer.Argument(help="Further models, loaded when first asked.")]
Count = Annotated[int | None, typer.Option("-k", min=1, max=1000, help="Passages to find [6].")]
HELP = "/exit quits, /new starts a new conversation; anything else is sent."
MEMORY_HELP = '"remember ..." and "forget ..." change the memory; with a / before it, the message is not sent.'
NO_CHAT = (
    "{path}: this model was not tuned to chat: it has no assistant, and its tokenizer no chat template. "
    "`llmanac generate {quoted} --prompt TEXT` continues text; a recipe makes a run that chats by a [finetune] section "
    '(pairs = "docstrings" for the documentation assistant, or a file of rows with `messages`)'
)
WISHES = ("/remember ", "/forget ")
SAMPLING = ("top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "no_repeat_ngram_size")  # of transformers
SHOWN = 5  # facts of a message that are named
PASSAGE = 600  # characters of a source that are shown


def chat_command(
    path: SomeModel, draft: Draft = None, draft_tokens: DraftTokens = None, runner: SomeRunner = "auto",
    temperature: float | None = None, top_p: float | None = None, max_new_tokens: int = 512, seed: int = 0,
    system: str | None = None, memory: Path | None = None, facts: Facts | None = None, encoder: str | None = None,
    rope: Rope = None,
    threads: Threads = None,
) -> None:  # fmt: skip
    """Chat with a model by its template, or with a run's assistant, which answers and shows its source.

    Args:
        temperature (from 0.0): 0 is greedy [0.7 for a run; else what generation_config.json says, or 0].
        top_p (0.0 to 1.0):
        max_new_tokens (from 1): Longest answer, in tokens.
        seed:
        system: System message before the conversation.
        memory (FILE): Keep across chats what you ask to remember.
        facts (asked|model): Keep what you ask for alone, or also what the model takes from your messages [asked].
        encoder (MODEL): Find facts by meaning too, as all-MiniLM-L6-v2's folder.
    """
    from llmanac.generate.load import load_assistant, load_writer

    if encoder is not None and memory is None:
        raise RequestError("--encoder: finds facts of a memory; name its file with --memory FILE")
    engine = load_writer(path, draft=draft, draft_tokens=draft_tokens, runner=runner, rope=rope)
    assistant = load_assistant(path, engine)
    if assistant is None and engine.chat_template is None:
        raise RequestError(NO_CHAT.format(path=path, quoted=shlex.quote(str(path))))
    options: Options = {"temperature": 0.7} if (Path(path) / "base").is_dir() else sampling(engine)
    if temperature is not None:
        options["temperature"] = temperature
    if top_p is not None:
        options["top_p"] = top_p
    options |= {"max_new_tokens": max_new_tokens, "seed": seed}
    print(engine.runs_on, file=sys.stderr, flush=True)
    if memory is None:
        chat(engine, assistant, system=system, **options)
    else:
        from llmanac.generate.prefix_cache import DEFAULT_BYTES
        from llmanac.retrieve.dense import Spec
        from llmanac.retrieve.memory import Memory
        from llmanac.retrieve.memory.extract import FactExtractor

        if assistant is not None:
            raise RequestError("--memory: this run's assistant answers from its documentation; leave it out")
        encode = None if encoder is None else Spec(model=encoder).encoder()
        reader = FactExtractor(engine) if facts == "model" else None
        if reader is not None and engine.prefix_cache is None and engine.keeps_prefixes:
            engine.keep_prefixes(DEFAULT_BYTES)  # its two prompts begin alike for every message
        with Memory(memory, encode, encoder or "", reader) as kept:
            chat(engine, system=system, memory=kept, **options)
        print(f"Next: llmanac memory list {shlex.quote(str(memory))}")
    say_drafts(engine)


def sampling(engine: Engine) -> Options:
    """What a pretrained model's generation_config.json asks for; greedy where it draws nothing."""
    own = {name: value for name, value in engine.generation.items() if type(value) in (int, float)}
    asked: Any = {name.removesuffix("_size"): own[name] for name in SAMPLING if own.get(name)}  # 0: none
    drawn = engine.generation.get("do_sample") is True
    return {**asked, "temperature": own.get("temperature", 1.0) if drawn else 0.0}


def chat(
    engine: Engine,
    assistant: Assistant | None = None,
    *,
    lines: TextIO | None = None,
    system: str | None = None,
    memory: Memory | None = None,
    **options: Unpack[Options],
) -> None:
    """A conversation on the terminal; from a pipe or file, each line is a message.

    An assistant answers one question at a time and may read the earlier ones. Without an assistant the prompt is the
    conversation so far, after the `system` message and without its oldest turns once it no longer fits the context;
    `options` are those of the answers. With a `memory` each message may change it, and the facts that it means are told
    in the system message.
    """
    from llmanac.generate.answers import ask

    interactive = lines is None and sys.stdin.isatty()
    if lines is None and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is not UTF-8 spoils one message, not the chat
    first = [] if system is None else [{"role": "system", "content": system}]
    messages: list[dict[str, str]] = [*first]
    asked: list[str] = []
    for text in _messages(lines or sys.stdin, interactive):
        if text == "/exit":
            return
        if text == "/new":
            messages, asked = [*first], []
        elif text == "/help":
            write(f"{HELP}\n{MEMORY_HELP if memory is not None else ''}\n")
        elif memory is not None and text.startswith(WISHES):
            _change(memory, text)
        else:
            try:
                if assistant is not None:
                    _show_answer(ask(assistant, text, asked))
                    asked.append(text)
                else:
                    readable = re.sub("[\ud800-\udfff]", "\ufffd", text)
                    messages.append({"role": "user", "content": readable})
                    if memory is not None:
                        told = "\n\n".join(filter(None, [system, _remembered(memory, text)]))
                        past = messages[len(first) :]
                        first = [{"role": "system", "content": told}] if told else []
                        messages = [*first, *past]
                    messages = _reply(engine, messages, options)
            except LlmanacError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                messages = messages[:-1] if messages and messages[-1]["role"] == "user" else messages


def _change(memory: Memory, text: str) -> None:
    """Carry out a message; a memory that is full or in use does not end the chat."""
    try:
        done = memory.read(text)
        for verb, facts in (("forgot", done.forgot), ("kept", done.kept), ("still kept:", done.unmet or [])):
            for fact in facts[:SHOWN]:
                print(for_terminal(f"note: {verb} {fact.id} {fact.text}"), file=sys.stderr, flush=True)
            if len(facts) > SHOWN:
                print(f"note: {verb} {len(facts) - SHOWN} more", file=sys.stderr, flush=True)
        if done.unmet is not None:
            why = "several facts have these words: forget NUMBER" if done.unmet else "no fact has these words"
            print(f"note: nothing was deleted; {why}", file=sys.stderr, flush=True)
    except LlmanacError as error:
        print(f"note: nothing of this message is kept: {error}", file=sys.stderr, flush=True)


def _remembered(memory: Memory, text: str) -> str:
    """What is known that a message means, once it is carried out."""
    _change(memory, text)
    try:
        return memory.prompt(text)
    except LlmanacError as error:
        print(f"note: answered without memory: {error}", file=sys.stderr, flush=True)
        return ""


def _messages(lines: TextIO, interactive: bool) -> Iterator[str]:
    """The user's messages that are not blank, until the input ends (Ctrl-D or Ctrl-C on a terminal)."""
    if interactive:
        write(f"{HELP}\n")
        with contextlib.suppress(ImportError):  # gives input() history and line editing, where available
            import readline  # noqa: F401
    try:
        for text in iter(lambda: input("> "), None) if interactive else lines:
            if text.strip():
                yield text.strip()
    except (EOFError, KeyboardInterrupt):
        interrupts.answered()
        write("\n")


def _reply(engine: Engine, messages: Sequence[dict[str, str]], options: Options) -> list[dict[str, str]]:
    """Stream the model's answer; returns the conversation with it (Ctrl-C ends the answer, not the conversation)."""
    from llmanac.generate.answers import fitting, room

    kept, ids = fitting(engine, list(messages))
    answer = ""
    try:
        longest = min(options.get("max_new_tokens", 512), room(engine, len(ids)))
        seed = (options.get("seed") or 0) + len(ids)  # another for each turn
        given: Options = {"temperature": 0.7, **options, "max_new_tokens": longest, "seed": seed}
        for piece in engine.stream(ids, **given):
            answer += piece.text
            write(piece.text)
    except KeyboardInterrupt:
        interrupts.answered()
        write(" [stopped]")
    write("\n")
    return [*kept, {"role": "assistant", "content": answer}]


def _show_answer(answer: Answer) -> None:
    from llmanac.generate.answers import citation_texts, nearest_texts

    write(f"{answer.text}\n")
    for citation in map(citation_texts, answer.citations):
        text = " ".join(citation["text"].split())
        write(f"  source: {citation['title']}\n    {text[:PASSAGE]}{' …' if len(text) > PASSAGE else ''}\n")
    for entry in nearest_texts(answer):
        write(f"  nearest: {entry['signature'] or entry['name']}\n    {entry['summary'][:PASSAGE]}\n")


def serve_command(
    path: SomeModel, more: More = None, host: str = "127.0.0.1", port: int = 8000, allow_host: list[str] | None = None,
    allow_origin: list[str] | None = None, max_queue: int = 64, prefix_cache: int = 256,
    adapter: list[str] | None = None, memory: int | None = None, timeout: float | None = None,
    draft: Draft = None, draft_tokens: DraftTokens = None,
    runner: SomeRunner = "auto", threads: Threads = None, max_num_batched_tokens: int | None = None,
    embedding_model: str | None = None,
    documents: Path | None = None, mode: Mode = None, method: Method = None, passages: Count = None,
    threshold: Threshold = None, budget: Budget = None, place: Place = None, encoder: Encoder = None,
    include: Include = None, api_key: list[str] | None = None, tensor: Tensor = 1, pipeline: Pipeline = 1,
) -> None:  # fmt: skip
    """Serve models with an OpenAI-compatible API and a chat page.

    Args:
        adapter: NAME=FOLDER: requests for the model NAME are answered by the first model with this adapter; repeatable.
        memory (from 1): MiB that models may take together, by the size of their files; those that were used longest ago
            are unloaded [no bound].
        timeout (from 0.0): Seconds after which a request is given up [no limit].
        host: Address to listen on.
        port (0 to 65535):
        allow_host: Host name to accept; repeatable; * for any.
        allow_origin: Origin of web pages that may use it (https://app.example); repeatable; * for any.
        max_queue (from 1): Requests that may wait; further ones get status 429.
        prefix_cache (from 0): MiB of KV cache for shared prefixes; 0 for none.
        max_num_batched_tokens (--max-num-batched-tokens, --most-tokens, from 1): Tokens that requests in progress may
            hold together [no limit].
        embedding_model: Model for /v1/embeddings.
        documents: Answer from this folder, with citations.
        api_key (env LLMANAC_API_KEY): Key that requests must have; repeatable.
    """
    from llmanac.web.serve import Model, serve

    given = {"--mode": mode, "--method": method, "-k": passages, "--threshold": threshold, "--budget": budget,
             "--index": place, "--encoder": encoder, "--include": include or None}  # fmt: skip
    if documents is None and (flags := [flag for flag, value in given.items() if value is not None]):
        raise RequestError(f"{flags[0]}: is of answers from documents; name their folder with --documents FOLDER")

    named = [_named_adapter(given) for given in adapter or ()]
    adapters = dict(named)
    if len(adapters) < len(named):
        raise RequestError("--adapter: two have the same name; give each its own")
    one_only = {"--draft": draft, "--documents": documents, "--tensor": tensor > 1, "--pipeline": pipeline > 1}
    if more and (flags := [flag for flag, value in one_only.items() if value]):
        raise RequestError(f"{flags[0]}: is for one model; serve the others by a command of their own")
    text_only = {"--draft": draft, "--documents": documents, "--embedding-model": embedding_model,
                 "--tensor": tensor > 1, "--pipeline": pipeline > 1, "--adapter": adapters,
                 "--runner native": runner.startswith("native")}  # fmt: skip

    def sees(path: str) -> bool:
        from llmanac.generate.images import sees

        return sees(path)

    def load(path: str, adapters: dict[str, str]) -> tuple[Engine, Assistant | None]:
        from llmanac.generate.load import load_assistant, load_writer

        if not path.endswith(".gguf") and sees(path):
            from llmanac.generate.images import load_seeing

            if refused := [flag for flag, value in text_only.items() if value]:
                raise RequestError(f"{refused[0]}: is for models of text alone; {path} holds a model of images")
            from llmanac.generate.engine import Engine

            model = load_seeing(path)
            return Engine(model, model.tokenizer, max_num_batched_tokens=max_num_batched_tokens), None
        if tensor * pipeline > 1:
            engine = divided(
                ranks, path, tensor, pipeline, draft, runner, max_num_batched_tokens=max_num_batched_tokens
            )
        else:
            engine = load_writer(
                path,
                draft=draft,
                draft_tokens=draft_tokens,
                max_num_batched_tokens=max_num_batched_tokens,
                runner=runner,
                adapters=adapters,
            )
        print(engine.runs_on, file=sys.stderr, flush=True)
        if documents is None:
            return engine, load_assistant(path, engine)
        fields = {"mode": mode, "method": method, "k": passages, "threshold": threshold, "budget": budget}
        return engine, assistant_of(updated(documents, place, encoder, include), engine, **fields)

    def embedder() -> Embedder:
        from llmanac.evaluate.labels import open_embedder

        return open_embedder(str(embedding_model))

    # states of prompts are not kept over ranks
    kept = prefix_cache * 2**20 if tensor * pipeline == 1 else 0
    with contextlib.ExitStack() as ranks:
        models = [
            Model(_name_of(one), functools.partial(load, one, own), size_of(one) if more else 0, tuple(own))
            for one, own in zip((path, *(more or ())), (adapters, *({} for _ in more or ())), strict=True)
        ]
        serve(
            models, embedder=None if embedding_model is None else embedder, host=host, port=port,
            memory=None if memory is None else memory * 2**20, seconds=timeout or None,
            max_queue=max_queue, prefix_cache_bytes=kept, allow_hosts=allow_host or (),
            allow_origins=allow_origin or (), api_keys=api_key or (),
            embedding_name=_name_of(embedding_model or "embedding"),
        )  # fmt: skip


def _name_of(path: str) -> str:
    """What clients call a model."""
    return Path(path).resolve().name.removesuffix(".gguf") or "llmanac"


def _named_adapter(given: str) -> tuple[str, str]:
    name, _, folder = given.partition("=")
    if not (name and folder):
        raise RequestError(f"--adapter: {given!r} is not NAME=FOLDER")
    tuned = Path(folder) / "model"  # of the folder that `llmanac tune` writes
    return name, str(tuned) if (tuned / ADAPTER).is_file() else folder
