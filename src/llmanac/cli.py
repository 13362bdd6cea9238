"""The command line. Each command imports what it needs when it is called, so that listing starts without torch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from llmanac.core.errors import LlmanacError
from llmanac.data.quality_cli import quality_app

app = typer.Typer(
    name="llmanac",
    help="The almanac of language-model methods that runs: list them, run them, compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich is imported only by the commands that draw tables
)
app.add_typer(quality_app)

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
        entries = [e for e in entries if e.id.startswith(f"{kind}/") or e.method.startswith(f"{kind}/")]
    if status:
        entries = [e for e in entries if e.status == status]
    if as_json:
        print(json.dumps([e.as_json() for e in entries], indent=1))
        return
    width = max((len(e.id) for e in entries), default=0)
    for entry in entries:
        print(f"{entry.id:<{width}}  {entry.status:<9}  {entry.title}")
    counts = {s: sum(e.status == s for e in entries) for s in catalogue.STATUSES}
    print(f"\n{len(entries)} entries: " + ", ".join(f"{n} {s}" for s, n in counts.items()))
    if entries:
        example = next((e.id for e in entries if e.status != "planned"), entries[0].id)
        print(f"Next: llmanac show {example}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="kind/name, as `llmanac list` prints it.")]) -> None:
    """Show one method: what it is, its choices, what proves it and what it was measured to do."""
    from llmanac.core.describe import describe

    print(describe(name))


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
    from llmanac.recipes.run import run_command

    run_command(recipe, list(set_ or ()), budget=budget, folder=folder, seed=seed, resume=resume, show=show_)


@app.command()
def chat(path: Annotated[Path, typer.Argument(help="A run's folder, or a model's.")]) -> None:
    """Talk to a run: it retrieves, answers and shows its source."""
    from llmanac.generate.console import chat_command
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
    from llmanac.generate.console import generate_command

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
def serve(
    path: Annotated[str, typer.Argument(help="A run's folder, a model's folder, or a hub model's name.")],
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless you say otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; more get status 429.")] = 64,
) -> None:
    """Serve a run with an OpenAI-compatible API and a chat page."""
    from llmanac.web.serve import serve_command

    serve_command(path, host=host, port=port, max_queue=max_queue)


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
    from llmanac.lab.compare import compare_command

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
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Report versions, cores, instruction sets, measured speed, and what is missing."""
    from llmanac.recipes.doctor import doctor_command

    doctor_command(as_json=as_json)


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
    """Run the command line; a LlmanacError becomes one sentence on standard error and exit status 2."""
    try:
        return app(args=arguments)
    except LlmanacError as error:
        _fail(error)
    except BrokenPipeError:  # `llmanac list | head`
        sys.stderr.close()
        raise SystemExit(0) from None


if __name__ == "__main__":
    main()
