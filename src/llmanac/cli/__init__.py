"""The command line: parse, call the library, print.

Each command imports what it needs when it is called, so that listing starts without torch.
"""

from __future__ import annotations

import functools
import io
import sys
from typing import Annotated, Any, NoReturn

from llmanac.core import interrupts

with interrupts.ending():
    import typer

    from llmanac.cli import (
        act,
        adapter,
        align,
        bench,
        benchmark,
        calculate,
        chat,
        classify,
        compare,
        complexity,
        context,
        data,
        dedup,
        documents,
        embed,
        evaluate,
        exercise,
        generate,
        guide,
        memory,
        methods,
        metric,
        ngram,
        parallel,
        pictures,
        quality,
        quantize,
        rate,
        reason,
        run,
        scaling,
        score,
        tokenizer,
        tune,
    )
    from llmanac.cli.options import SeveralValues
    from llmanac.core.errors import LlmanacError, printable
    from llmanac.core.files import DISK, refused

app = typer.Typer(
    name="llmanac",
    help="The almanac of language-model methods that runs: list them, run them, compare them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich is imported only by the commands that draw tables
)
app.command("list")(methods.list_command)
app.command("show")(methods.show_command)
app.command("run")(run.run_command)
app.command("chat")(chat.chat_command)
app.command("generate")(generate.generate_command)
app.command("score")(score.score_command)
app.command("correct")(score.correct_command)
app.command("embed")(embed.embed_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("rate")(rate.rate_command)
app.command("serve")(chat.serve_command)
app.command("bench")(bench.bench_command)
app.command("compare")(compare.compare_command)
app.command("complexity")(complexity.complexity_command)
app.command("convert")(methods.convert_command)
app.command("quantize")(quantize.quantize_command)
app.command("tune")(tune.tune_command)
app.command("reason")(reason.reason_command)
app.command("act")(act.act_command)
app.command("align")(align.align_command)
app.command("distill")(tune.distill_command)
app.command("merge")(adapter.merge_command)
app.command("dedup")(dedup.dedup_command)
app.command("contamination", cls=SeveralValues)(dedup.contamination_command)
app.command("guide")(guide.guide_command)
app.command("context")(context.context_command)
app.command("caption")(pictures.caption_command)
app.command("classify-image")(pictures.classify_image_command)
app.command("generate-image")(pictures.generate_image_command)
app.command("index")(documents.index_command)
app.command("ask")(documents.ask_command)
app.command("retrieve")(documents.retrieve_command)
app.command("doctor")(methods.doctor_command)
app.add_typer(calculate.app, name="calculate")
app.add_typer(exercise.app, name="exercise")
app.add_typer(guide.question_app, name="question")
app.add_typer(classify.app, name="classify")
app.add_typer(data.app, name="data")
data.app.command("emoji")(pictures.emoji_command)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(ngram.app, name="ngram")
app.add_typer(quality.quality_app, name="quality")
app.add_typer(metric.app, name="metric")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(memory.app, name="memory")
app.add_typer(parallel.parallel_app, name="parallel")
app.add_typer(scaling.app, name="scaling")


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from llmanac import __version__

        print(f"llmanac {__version__}")
        raise typer.Exit


def _fail(error: LlmanacError) -> NoReturn:
    print(f"llmanac: {printable(str(error))}", file=sys.stderr)
    raise SystemExit(2)


@functools.cache
def _command() -> Any:
    """The tree of commands, which takes a tenth of a second to make."""
    return typer.main.get_command(app)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a LlmanacError becomes one sentence on standard error and exit status 2, Ctrl-C 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    with interrupts.noted(program=arguments is None):
        try:
            return _command()(args=arguments)
        except LlmanacError as error:
            _fail(error)
        except BrokenPipeError:  # `llmanac list | head`
            sys.stderr.close()
            raise SystemExit(0) from None
        except OSError as error:  # a full disk, or a folder without permission
            if error.errno not in DISK:
                raise
            _fail(refused(error, "the disk"))
