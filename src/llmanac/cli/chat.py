"""The bodies of `llmanac generate` and `llmanac chat`: text on the terminal, as it comes."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO, Unpack

from llmanac.core import interrupts
from llmanac.core.errors import LlmanacError, RequestError
from llmanac.generate.answers import Answer, Assistant, ask, citation_texts, nearest_texts
from llmanac.generate.engine import Engine, Options

HELP = "/exit leaves, /new starts over; anything else is sent."
NO_CHAT = (
    "{path}: this model was not tuned to chat: it has no assistant, and its tokenizer no chat template. "
    "`llmanac generate {quoted} --prompt TEXT` continues text; a recipe makes a run that chats by a [finetune] section "
    '(pairs = "docstrings" for the documentation assistant, or a file of rows with `messages`)'
)
PASSAGE = 600  # characters of a source that are shown


OpenAssistant = Callable[[Path, Engine], Assistant | None]


def generate_command(path: str | Path, prompt: str, **options: Unpack[Options]) -> None:
    """Print the prompt and its continuation, piece by piece; several samples (`n`) one after the other."""
    from llmanac.generate.load import load_engine

    print_completions(load_engine(path), prompt, **options)


def print_completions(engine: Engine, prompt: str, **options: Unpack[Options]) -> None:
    """What `llmanac generate` prints, for an engine that is there."""
    count = options.get("n", 1)
    if count == 1:
        engine.request(prompt, **options)  # what is wrong with it is said before anything else
        _write(prompt)
        for piece in engine.stream(prompt, **options):
            _write(piece.text)
        _write("\n")
        return
    for completion in engine.generate(prompt, **options):
        _write(f"--- sample {completion.index + 1} of {count}\n{prompt}{completion.text}\n")


def chat_command(path: str | Path, *, open_assistant: OpenAssistant | None = None) -> None:
    """Talk to a run or a model.

    Args:
        open_assistant: gives the run's assistant, if it has one; its answers are shown with their sources.
    """
    from llmanac.generate.load import load_engine

    engine = load_engine(path)
    assistant = open_assistant(Path(path), engine) if open_assistant else None
    if assistant is None and getattr(engine.tokenizer, "chat_template", None) is None:
        raise RequestError(NO_CHAT.format(path=path, quoted=shlex.quote(str(path))))
    chat(engine, assistant)


def chat(engine: Engine, assistant: Assistant | None = None, *, lines: TextIO | None = None) -> None:
    """A conversation on the terminal; when standard input is not one, each of its lines is a message.

    An assistant is asked one question at a time, with the earlier ones where it reads them; without one, the
    conversation so far is the prompt, and its oldest turns are left out once it no longer fits the context.
    """
    interactive = lines is None and sys.stdin.isatty()
    messages: list[dict[str, str]] = []
    asked: list[str] = []
    if interactive:
        _write(f"{HELP}\n")
    for text in _messages(lines or sys.stdin, interactive):
        if text == "/exit":
            return
        if text == "/new":
            messages, asked = [], []
        elif text == "/help":
            _write(f"{HELP}\n")
        else:
            try:
                if assistant is not None:
                    _show_answer(ask(assistant, text, asked))
                    asked.append(text)
                else:
                    messages.append({"role": "user", "content": text})
                    messages = _reply(engine, messages)
            except LlmanacError as error:
                print(f"error: {error}", file=sys.stderr, flush=True)
                messages = messages[:-1] if messages and messages[-1]["role"] == "user" else messages


def _messages(lines: TextIO, interactive: bool) -> Iterator[str]:
    """The user's messages, without blank ones, until the input ends (Ctrl-D or Ctrl-C on a terminal)."""
    if interactive:
        with contextlib.suppress(ImportError):  # input() gets its history and line editing from it, where there is one
            import readline  # noqa: F401
    while True:
        try:
            text = input("> ") if interactive else lines.readline()
        except (EOFError, KeyboardInterrupt):
            interrupts.answered()
            _write("\n")
            return
        if not interactive and not text:
            return
        if text.strip():
            yield text.strip()


def _reply(engine: Engine, messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Stream the model's answer; returns the conversation with it (Ctrl-C ends the answer, not the conversation)."""
    kept, ids = fitting(engine, list(messages))
    answer = ""
    try:
        for piece in engine.stream(ids, max_new_tokens=_room(engine, len(ids)), temperature=0.7, seed=len(ids)):
            answer += piece.text
            _write(piece.text)
    except KeyboardInterrupt:
        interrupts.answered()
        _write(" [stopped]")
    _write("\n")
    return [*kept, {"role": "assistant", "content": answer}]


def fitting(engine: Engine, messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[int]]:
    """The newest turns that leave a quarter of the context for the answer, and their token ids.

    Raises:
        RequestError: not even the last message fits.
    """
    tokenizer, context = engine.tokenizer, engine.model.max_length
    if tokenizer is None:
        raise RequestError("chat: the engine has no tokenizer")
    system = [m for m in messages[:1] if m["role"] == "system"]
    turns = messages[len(system) :]
    while True:
        kept = [*system, *turns]
        ids = list(tokenizer.encode_chat(kept, add_generation_prompt=True)[0])
        if context is None or len(ids) <= context * 3 // 4 or len(turns) <= 1:
            break
        turns = turns[2:] if len(turns) > 2 else turns[-1:]  # a question goes with its answer
    if context is not None and len(ids) >= context:
        raise RequestError(f"prompt: {len(ids)} tokens do not fit the model's context of {context}; shorten it")
    return kept, ids


def _room(engine: Engine, prompt: int) -> int:
    return 1024 if engine.model.max_length is None else max(1, engine.model.max_length - prompt)


def _show_answer(answer: Answer) -> None:
    _write(f"{answer.text}\n")
    for citation in map(citation_texts, answer.citations):
        text = " ".join(citation["text"].split())
        _write(f"  source: {citation['title']}\n    {text[:PASSAGE]}{' …' if len(text) > PASSAGE else ''}\n")
    for entry in nearest_texts(answer):
        _write(f"  nearest: {entry['signature'] or entry['name']}\n    {entry['summary'][:PASSAGE]}\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
