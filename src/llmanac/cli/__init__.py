"""The command line. Each command imports what it needs when it is called, so that listing starts without torch."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

from llmanac.core import interrupts

with interrupts.ending():
    import typer

    from llmanac.cli.classify import app as classify_app
    from llmanac.cli.data import app as data_app
    from llmanac.cli.ngram import app as ngram
    from llmanac.cli.options import Column, Include, SeveralValues
    from llmanac.cli.quality import quality_app
    from llmanac.cli.tokenizer import app as tokenizer_app
    from llmanac.core.errors import LlmanacError
    from llmanac.core.files import DISK, refused

app = typer.Typer(
    name="llmanac",
    help="The almanac of language-model methods that runs: list them, run them, compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich is imported only by the commands that draw tables
)
app.add_typer(classify_app, name="classify")

app.add_typer(data_app, name="data")
app.add_typer(tokenizer_app)
app.add_typer(ngram, name="ngram")
app.add_typer(quality_app)

OnError = Annotated[
    str, typer.Option("--on-error", metavar="[fatal|skip]", help="A row that cannot be used: stop, or set it aside.")
]
MaxBytes = Annotated[str, typer.Option("--max-bytes", help="What one document may have, e.g. 50MB.")]
Patches = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="PATH=VALUE", help="Patch, e.g. -s train.steps=200.")
]


@app.command("list")
def list_methods(
    kind: Annotated[str | None, typer.Argument(help="Only rows and methods of this kind, e.g. position.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
    status: Annotated[str | None, typer.Option(help="Only done, reference, built or planned.")] = None,
) -> None:
    """List every method, with how far it is: done, reference (proved, not yet measured), built (neither) or planned."""
    from llmanac.core import catalogue, registry
    from llmanac.core.errors import SpecError, nearest

    entries = catalogue.entries()
    kinds = sorted({e.id.partition("/")[0] for e in entries} | set(registry.KINDS))
    if kind and kind not in kinds:
        raise SpecError(f"no kind named {kind!r}{nearest(kind, kinds)} (known: {', '.join(kinds)})")
    if status and status not in catalogue.STATUSES:
        raise SpecError(f"--status: {status!r} is not one of {', '.join(catalogue.STATUSES)}")
    if kind:
        entries = catalogue.of_kind(kind)
    if status:
        entries = [e for e in entries if e.status == status]
    if as_json:
        print(json.dumps([e.as_json() for e in entries], indent=1))
        return
    width = max((len(e.id) for e in entries), default=0)
    for entry in entries:
        other = f" ({entry.method})" if entry.method not in ("", entry.id) else ""
        print(f"{entry.id:<{width}}  {entry.status:<9}  {entry.title}{other}")
    counts = {s: sum(e.status == s for e in entries) for s in catalogue.STATUSES}
    print(f"\n{len(entries)} entries: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    if entries:
        example = next((e.id for e in entries if e.status != "planned"), entries[0].id)
        print(f"Next: llmanac show {example}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="kind/name, as `llmanac list` prints it.")]) -> None:
    """Show one method: what it is, its choices, what proves it and what it was measured to do."""
    from llmanac.core.describe import describe
    from llmanac.lab.axis import AS_THEY_ARE

    print(describe(name, AS_THEY_ARE))


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="quickstart, or the path of a recipe.toml.")],
    set_: Patches = None,
    budget: Annotated[str | None, typer.Option(help="Time to spend, e.g. 60s, 5m, 2h.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the run goes [runs/<name>].")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    show_: Annotated[bool, typer.Option("--show", help="Print the resolved recipe and stop.")] = False,
) -> None:
    """Run a recipe: text to a tokenizer, a model, an evaluation and a report."""
    began = time.monotonic()  # loading the libraries takes a part of the budget
    from llmanac.recipes.run import run_command

    run_command(
        recipe, list(set_ or ()), budget=budget, folder=folder, seed=seed, resume=resume, show=show_, began=began
    )


@app.command()
def chat(path: Annotated[Path, typer.Argument(help="A run's folder, or a model's.")]) -> None:
    """Talk to a run: it retrieves, answers and shows its source."""
    from llmanac.cli.chat import chat_command
    from llmanac.recipes.documentation import open_assistant

    chat_command(path, open_assistant=open_assistant)


@app.command()
def generate(
    path: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub model's name.")],
    prompt: Annotated[str | None, typer.Option(help="Text to go on from; else standard input is read.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    seed: Annotated[int, typer.Option()] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; repeatable.")] = None,
) -> None:
    """Continue a text."""
    from llmanac.cli.chat import generate_command

    text = sys.stdin.read() if prompt is None else prompt
    generate_command(
        path,
        text,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
    )


@app.command()
def score(
    path: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub model's name.")],
    file: Annotated[str | None, typer.Argument(help="Lines of text, a table, a folder; else standard input.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Score this text; repeatable.")] = None,
    tokens: Annotated[bool, typer.Option("--tokens", help="Show every token's log-probability too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
    column: Column = "text",
    include: Include = None,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens that windows of a long text share [1].")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float64 or bfloat16 [float32].")] = None,
    labels: Annotated[str | None, typer.Option(help="Say which fits: positive,negative or pos=good,neg=bad.")] = None,
    template: Annotated[str | None, typer.Option(help="Prompt with one {text} and one {label}.")] = None,
    channel: Annotated[bool, typer.Option("--channel", help="Score the text after the label instead.")] = False,
    calibrate: Annotated[str | None, typer.Option(help="Take off each label's score for this text, e.g. N/A.")] = None,
) -> None:
    """Say how probable a model finds each text, or which label fits it best."""
    from llmanac.cli.score import score_command

    score_command(
        path,
        file,
        list(text or ()),
        labels=labels,
        template=template,
        channel=channel,
        calibrate=calibrate,
        table=tokens,
        as_json=as_json,
        column=column,
        include=include or (),
        context=context,
        dtype=dtype,
    )


@app.command()
def correct(
    path: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub model's name.")],
    file: Annotated[str | None, typer.Argument(help="Lines of text, a table, a folder; else standard input.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Correct this text; repeatable.")] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Text with known words [Python's documentation].")] = None,
    margin: Annotated[float | None, typer.Option(help="Nats that a change must gain; higher changes less.")] = None,
    kinds: Annotated[str | None, typer.Option(help="Only these, e.g. agreement,article,spelling.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a text.")] = False,
    column: Column = "text",
    include: Include = None,
) -> None:
    """Correct grammar and spelling: edits proposed by rule, judged by the language model."""
    from llmanac.cli.score import correct_command

    correct_command(
        path,
        file,
        list(text or ()),
        vocabulary=vocabulary,
        margin=margin,
        kinds=kinds,
        as_json=as_json,
        column=column,
        include=include or (),
    )


@app.command()
def serve(
    path: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub model's name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further name that requests may give this server (repeatable); * for every name."),
    ] = None,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get status 429.")] = 64,
    prefix_cache: Annotated[int, typer.Option(min=0, help="MiB kept of what prompts share; 0 for nothing.")] = 256,
) -> None:
    """Serve a run with an OpenAI-compatible API and a chat page."""
    from llmanac.web.serve import serve_command

    serve_command(
        path,
        host=host,
        port=port,
        max_queue=max_queue,
        prefix_cache_bytes=prefix_cache * 2**20,
        allow_hosts=allow_host or (),
    )


@app.command()
def compare(
    kind: Annotated[str, typer.Argument(help="The kind to vary (position, ffn, ...), or the path of a study.toml.")],
    arms: Annotated[str | None, typer.Option(help="Comma-separated methods, e.g. rope,learned,none.")] = None,
    budget: Annotated[str | None, typer.Option(help="Total time, e.g. 3m [3m].")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Paired seeds; fewer than 3 give no verdict [3].")] = None,
    hold: Annotated[str | None, typer.Option(help="What is held equal: params, flops, tokens or time.")] = None,
    tune: Annotated[str | None, typer.Option(help="Give every arm the same sweep, e.g. lr=3.")] = None,
    margin: Annotated[float | None, typer.Option(help="Relative margin of equivalence [0.005].")] = None,
    baseline: Annotated[str | None, typer.Option(help="Arm that the others are compared with [the first].")] = None,
    base: Annotated[str | None, typer.Option(help="Recipe that everything else comes from.")] = None,
    artefact: Annotated[str | None, typer.Option(help="Run that post-hoc arms are applied to.")] = None,
    set_: Patches = None,
    folder: Annotated[Path | None, typer.Option(help="Where the study goes [studies/<name>].")] = None,
) -> None:
    """Compare methods at equal budget over paired seeds, with intervals and a verdict."""
    from llmanac.cli.compare import compare_command

    compare_command(
        kind,
        arms,
        budget=budget,
        seeds=seeds,
        hold=hold,
        tune=tune,
        margin=margin,
        baseline=baseline,
        base=base,
        artefact=artefact,
        patches=list(set_ or ()),
        folder=folder,
    )


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A run's or model's folder, or a hub model's name.")],
    target: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    family: Annotated[str, typer.Option(help="Hugging Face family: llama or gpt2.")] = "llama",
) -> None:
    """Write a model and its tokenizer in a Hugging Face family's own layout."""
    from llmanac.recipes.convert import convert_command

    convert_command(source, target, family)


@app.command()
def dedup(
    paths: Annotated[list[str], typer.Argument(metavar="FILES...", help="Files, folders or glob patterns.")],
    out: Annotated[Path, typer.Option(help="Folder for the rows that stay, those that went, and report.json.")],
    method: Annotated[str, typer.Option(help="minhash, exact, lines, paragraphs or substring.")] = "minhash",
    text: Annotated[str, typer.Option(help="Column that holds the text, for tables.")] = "text",
    include: Include = None,
    memory: Annotated[str, typer.Option(help="What may be held at once, e.g. 500MB.")] = "2GB",
    set_: Patches = None,
    on_error: OnError = "fatal",
    max_bytes: MaxBytes = "100MB",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Drop duplicate and near-duplicate documents, or cut repeated lines and substrings out of them."""
    from llmanac.data.dedup_command import dedup_command

    dedup_command(
        paths, method=method, out=out, text=text, memory=memory, patches=list(set_ or ()), as_json=as_json,
        on_error=on_error, max_bytes=max_bytes, include=include or (),
    )  # fmt: skip


@app.command(cls=SeveralValues)
def contamination(
    train: Annotated[list[str], typer.Option(metavar="FILES", help="Training files, folders or glob patterns.")],
    evaluation: Annotated[list[str], typer.Option("--eval", metavar="FILES", help="Evaluation files to look for.")],
    column: Annotated[list[str] | None, typer.Option(help="Column of an item: text or numbers [all texts].")] = None,
    text: Annotated[str, typer.Option(help="Column that holds the training text, for tables.")] = "text",
    include: Include = None,
    n: Annotated[int, typer.Option("-n", "--n", min=1, help="Words in a row that count.")] = 13,
    shortest: Annotated[int, typer.Option(min=1, help="Shorter items are not looked for.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Write a row an item to this .jsonl file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there already.")] = False,
    on_error: OnError = "fatal",
    max_bytes: MaxBytes = "100MB",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say how much of evaluation sets stands in training files, item by item."""
    from llmanac.evaluate.contamination_command import contamination_command

    contamination_command(
        train, evaluation, columns=list(column or ()), text=text, n=n, shortest=shortest, out=out, as_json=as_json,
        on_error=on_error, force=force, max_bytes=max_bytes, include=include or (),
    )  # fmt: skip


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Report versions, cores, instruction sets, measured speed, and what is missing."""
    from llmanac.recipes.doctor import doctor_command

    doctor_command(as_json=as_json)


@data_app.command("weights")
def data_weights(
    folder: Annotated[Path, typer.Argument(help="A finished build whose inputs have domains.")],
    out: Annotated[Path | None, typer.Option(help="Where the two models and weights.json go [FOLDER-weights].")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each model.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
) -> None:
    """Learn how to weigh the domains of a build from a proxy's loss (DoReMi)."""
    from llmanac.recipes.mixing import weights_command

    weights_command(folder, out, steps=steps, seed=seed)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from llmanac import __version__

        print(f"llmanac {__version__}")
        raise typer.Exit


def _fail(error: LlmanacError) -> NoReturn:
    print(f"llmanac: {error}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a LlmanacError becomes one sentence on standard error and exit status 2, Ctrl-C 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may hold bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    with interrupts.noted(program=arguments is None):
        try:
            return app(args=arguments)
        except LlmanacError as error:
            _fail(error)
        except BrokenPipeError:  # `llmanac list | head`
            sys.stderr.close()
            raise SystemExit(0) from None
        except OSError as error:  # a disk that is full, a folder that may not be read or written
            if error.errno not in DISK:
                raise
            _fail(refused(error, "the disk"))
