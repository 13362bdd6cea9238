"""`llmanac generate`: a model's continuation of one text as it comes, or of every text of a file."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import typer

from llmanac.cli.options import (
    Column,
    Draft,
    DraftTokens,
    Force,
    IgnoreConfig,
    OnEngine,
    Pipeline,
    Rope,
    Sinks,
    SomeModel,
    SomeRunner,
    Tensor,
    Threads,
    Workers,
    followed,
    on_ray,
    stopping,
)
from llmanac.core.errors import DataError, SpecError, for_terminal
from llmanac.core.files import read_json, read_text
from llmanac.core.types import capabilities

if TYPE_CHECKING:
    from llmanac.core.cluster import Each
    from llmanac.generate.engine import Engine, Options

EARLY = {"true": True, "false": False, "never": "never"}


def generate_command(
    path: SomeModel, text: str | None = None, prompt: str | None = None, prompts: str | None = None,
    output: Path | None = None, column: Column = "prompt", force: Force = False, max_new_tokens: int = 64, n: int = 1,
    temperature: float = 0.0, seed: int = 0, draft: Draft = None, draft_tokens: DraftTokens = None,
    runner: SomeRunner = "auto", threads: Threads = None, rope: Rope = None, sinks: Sinks = None,
    ignore: IgnoreConfig = None,
    tensor: Tensor = 1, pipeline: Pipeline = 1, engine: OnEngine = "local", workers: Workers = None,
    *, changes: dict[str, Any],
) -> None:  # fmt: skip
    """Continue a text, or every text of a file.

    Args:
        text (argument, PROMPT): Text to continue [standard input].
        prompt: The same as PROMPT.
        prompts (FILE): Continue every line of a text file, or row of a table.
        output (-o): A .jsonl file for them; stopped, the same command goes on.
        max_new_tokens (from 1):
        n (-n, --n, from 1): Texts a prompt.
        temperature (from 0.0): 0 takes the most probable token.
        top_k (int sets top_k, from 1):
        top_p (float sets top_p, 0.0 to 1.0):
        min_p (float sets min_p, 0.0 to 1.0):
        typical_p (float sets typical_p, 0.0 to 1.0):
        repetition_penalty (float sets repetition_penalty): Above 1: less of what the text has.
        presence_penalty (float sets presence_penalty, -2.0 to 2.0):
        frequency_penalty (float sets frequency_penalty, -2.0 to 2.0):
        no_repeat_ngram (int sets no_repeat_ngram, from 1): Never repeat this many tokens in a row.
        beams (int sets beams, from 1): Beam search with this many beams.
        length_penalty (float sets length_penalty): Beams: score / length to this power [1].
        early_stopping (text sets early_stopping, [false|true|never]): End of the search.
        beam_groups (int sets beam_groups, from 1): Diverse beam search in this many groups.
        diversity (float sets diversity, from 0.0): Between groups of beams [0.5].
        decoding (texts sets decoding, METHOD): `llmanac list decoding`, as top-k{k=5}; repeatable, in this order.
        regex (text sets regex): The text matches this regular expression.
        grammar (file sets grammar): A file with a grammar in Lark's form.
        schema (file sets schema): A file with a JSON Schema, or the schema itself.
        seed:
        stop (texts sets stop): Stop before this text; repeatable.
    """
    read: dict[str, Any] = {
        "early_stopping": lambda word: EARLY.get(word, word), "grammar": read_text, "schema": _schema, "stop": tuple,
        "decoding": lambda methods: [_method(one) for one in methods],
    }  # fmt: skip
    options: Any = {name: read.get(name, lambda value: value)(value) for name, value in changes.items()}
    options |= {"max_new_tokens": max_new_tokens, "n": n, "seed": seed}
    options |= {"temperature": temperature} if temperature else {}
    if sum(x is not None for x in (text, prompt, prompts)) > 1:
        raise SpecError("--prompts: give one of PROMPT, --prompt and --prompts")
    if output is not None and prompts is None:
        raise SpecError("--output: is for the texts of --prompts; a single text is printed")
    from llmanac.generate.load import load_writer

    if prompts is not None:
        from llmanac.generate.prompts import check_place

        if output is not None:
            check_place(output, prompts, force=force)
    how: dict[str, Any] = {"draft": draft, "draft_tokens": draft_tokens, "rope": rope, "sinks": sinks}
    kept = {**how, "runner": runner}
    if on_ray(engine, workers):
        if output is None or tensor * pipeline > 1:
            raise SpecError("--engine ray: continues --prompts into --output, without --tensor and --pipeline")
        from llmanac.models.locate import on_cluster

        with on_cluster(load_writer, path, workers, **kept, ignore=ignore or ()) as actors:
            _file(actors.results, path, _texts(prompts or "", column), output, options, force, kept)
        return
    with contextlib.ExitStack() as ranks:
        if tensor * pipeline > 1:
            made = divided(ranks, path, tensor, pipeline, draft, runner, rope=rope, sinks=sinks, ignore=ignore or ())
        else:
            made = load_writer(path, **kept, ignore=ignore or ())
        if prompts is not None:
            from llmanac.core.cluster import here
            from llmanac.generate.prompts import check

            texts = _texts(prompts, column)
            check(made, texts, options)
            _file(here(made), path, texts, output, options, force, kept)
        else:
            print_completions(made, text or prompt or sys.stdin.read(), **options)
    say_drafts(made)


def divided(
    ranks: contextlib.ExitStack, path: str, tensor: int, pipeline: int, draft: str | None, runner: str, **choices: Any
) -> Engine:
    """The engine of `--tensor` and `--pipeline`, whose processes end with `ranks`. Raises SpecError."""
    if draft is not None or runner.startswith("native"):
        flag = "--runner native" if draft is None else "--draft"
        raise SpecError(f"--tensor, --pipeline: do not go with {flag}; leave one of them out")
    from llmanac.parallel.serving import FOLLOWER, sharded_engine

    if followed(FOLLOWER):
        raise typer.Exit
    return ranks.enter_context(sharded_engine(path, tensor=tensor, pipeline=pipeline, **choices))


def _schema(path: Path) -> dict[str, Any]:
    """A JSON Schema of a file; `true` and `false` are schemas too, but say nothing."""
    text = str(path).strip()
    try:
        found = json.loads(text) if text.startswith("{") else read_json(path)
    except ValueError as error:
        raise SpecError(f"--schema: {text[:60]}: neither a file nor JSON ({error})") from None
    if not isinstance(found, dict):
        raise SpecError(f"--schema: {path}: a JSON Schema is an object, not {type(found).__name__}")
    return found


def _method(text: str) -> Any:
    """A decoding method, as the arms of a comparison are written."""
    from llmanac.core.spec import make_method
    from llmanac.lab.arms import parse_arm

    arm = parse_arm(text, "--decoding")
    try:
        return make_method("decoding", {"name": arm.name, **dict(arm.fields)})
    except SpecError as error:
        raise SpecError(f"--decoding: {error}") from None


def _texts(prompts: str, column: str) -> list[str]:
    from llmanac.cli.score import texts_of

    if not (texts := [text for text in texts_of((), prompts, column) if text.strip()]):
        raise DataError(f"{prompts}: holds no text")
    return texts


def _file(
    each: Each, path: str, texts: list[str], output: Path | None, options: Any, force: bool, how: dict[str, Any]
) -> None:
    """Continue texts; to `output`, or as JSON Lines on standard output."""
    from llmanac.cli.tables import print_table
    from llmanac.generate.prompts import continued, write_completions

    if output is None:
        for _, lines in continued(each, texts, options):
            write(lines)
        return
    with stopping(kept=f"what is done is kept next to {output}"):
        found = write_completions(each, texts, output, options, path, force=force, how=how)
    mean = f"{found.logprob / max(1, found.scored):.3f}"
    row = (f"{found.prompts:,}", f"{found.texts:,}", f"{found.tokens:,}", mean, f"{found.ended / found.texts:.0%}")
    print_table(str(output), ("prompts", "texts", "tokens", "log p a token", "ended"), [row], left=())
    print(f"Next: llmanac score {shlex.quote(path)} {shlex.quote(str(output))} --column text")


def print_completions(engine: Engine, prompt: str, **options: Unpack[Options]) -> None:
    """Print the prompt and its continuation as it is generated; several samples (`n`) one after the other.

    Of an encoder-decoder, whose answer does not continue the prompt, the answer alone.
    """
    count = options.get("n", 1)
    before = "" if capabilities(engine.model).reads_source else prompt
    if count == 1:
        engine.request(prompt, **options)  # an invalid request fails before anything is printed
        write(before)
        reason = None
        for piece in engine.stream(prompt, **options):
            write(piece.text)
            reason = piece.finish_reason or reason
        write("\n")
        if reason == "length" and any(options.get(name) for name in ("regex", "grammar", "schema")):
            print("note: cut at --max-new-tokens, so the text is not complete", file=sys.stderr)
        return
    for completion in engine.generate(prompt, **options):
        score = "" if completion.score is None else f", score {completion.score:.4f}"
        write(f"--- sample {completion.index + 1} of {count}{score}\n{before}{completion.text}\n")


def say_drafts(engine: Engine) -> None:
    """One line on standard error: what became of the drafted tokens."""
    if engine.drafter is None:
        return
    found = engine.speculation.report()
    if not found["proposed"]:
        print("drafts: none were made", file=sys.stderr, flush=True)
        return
    counts = f"{found['proposed']} tokens drafted, {found['accepted']} accepted ({found['acceptance']:.0%})"
    print(f"drafts: {counts}, {found['tokens_per_call']:.2f} tokens a call", file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Write to standard output at once; what would control a terminal is written out there, and kept in a file."""
    sys.stdout.write(for_terminal(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
