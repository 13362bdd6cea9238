"""The command line: parse, call the library, print.

A command's module is imported when the command is called, and what it needs when it runs, so that listing starts
without torch.
"""

import atexit
import functools
import gc
import importlib
import inspect
import io
import os
import sys
from collections.abc import Iterable
from typing import Annotated, Any, NoReturn

from llmanac.core import interrupts

with interrupts.ending():
    import typer

    from llmanac.core.errors import LlmanacError, printable
    from llmanac.core.extras import naming
    from llmanac.core.files import DISK, refused

# Where each command and each group of commands is; a module is imported when its command is called or described.
COMMANDS = {
    "list": "methods.list_command", "show": "methods.show_command", "run": "run.run_command",
    "chat": "chat.chat_command", "generate": "generate.generate_command", "score": "score.score_command",
    "correct": "score.correct_command", "embed": "embed.embed_command", "evaluate": "evaluate.evaluate_command",
    "verdict": "verdict.verdict_command", "rate": "rate.rate_command", "serve": "chat.serve_command",
    "bench": "bench.bench_command",
    "compare": "compare.compare_command", "complexity": "complexity.complexity_command",
    "convert": "methods.convert_command", "quantize": "quantize.quantize_command", "tune": "tune.tune_command",
    "reason": "reason.reason_command", "act": "act.act_command", "align": "align.align_command",
    "distill": "tune.distill_command", "merge": "adapter.merge_command", "dedup": "dedup.dedup_command",
    "contamination": "dedup.contamination_command", "guide": "guide.guide_command",
    "context": "context.context_command", "caption": "pictures.caption_command",
    "classify-image": "pictures.classify_image_command", "generate-image": "pictures.generate_image_command",
    "index": "documents.index_command", "ask": "documents.ask_command", "retrieve": "documents.retrieve_command",
    "doctor": "methods.doctor_command", "specialize": "specialize.specialize_command",
    "verify": "specialize.verify_command", "lint": "specialize.lint_command", "warm-up": "methods.warm_up_command",
}  # fmt: skip
GROUPS = {
    "calculate": "calculate.app", "exercise": "exercise.app", "question": "guide.question_app",
    "classify": "classify.app", "data": "data.app", "tokenizer": "tokenizer.app", "ngram": "ngram.app",
    "quality": "quality.quality_app", "metric": "metric.app", "benchmark": "benchmark.app", "memory": "memory.app",
    "parallel": "parallel.parallel_app", "scaling": "scaling.app", "new": "new.app",
    "launch": "launch.app",
}  # fmt: skip


OTHERWISE = {  # what other programs call it
    "train": "`llmanac run` pretrains from text, `llmanac tune` trains a model that is there",
    "pretrain": "`llmanac run` pretrains from text",
    "finetune": "`llmanac tune` trains a model that is there",
    "eval": "`llmanac evaluate` runs benchmarks",
    "export": "`llmanac convert` writes a model in another layout",
}


def _instead(name: str) -> str:
    """What to call in place of a command that does not exist."""
    from llmanac.core.errors import nearest

    hint = OTHERWISE.get(name.replace("-", "")) or nearest(name, [*COMMANDS, *GROUPS]).removeprefix("; ")
    return hint or "`llmanac --help` names all"


def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from llmanac import __version__

        print(f"llmanac {__version__}")
        raise typer.Exit


def _found(place: str) -> Any:
    module, _, name = place.partition(".")
    with interrupts.ending():
        return getattr(importlib.import_module(f"llmanac.cli.{module}"), name)


def _made(names: Iterable[str], *, described: bool = False) -> typer.Typer:
    """The commands of these names; only their names and descriptions, if that is all that is to be printed."""
    app = typer.Typer(
        name="llmanac",
        help="The almanac of language-model methods that runs: list them, run them, compare them.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich is imported only by the commands that draw tables
    )
    app.callback(invoke_without_command=True)(_version)
    for name in names:
        found = _found(COMMANDS.get(name) or GROUPS[name])
        if described:
            text = found.__doc__ if name in COMMANDS else found.info.help
            app.command(name, help=inspect.cleandoc(text).partition("\n\nArgs:")[0])(lambda: None)
        elif name in GROUPS:
            app.add_typer(found, name=name)
        elif name == "contamination":
            app.command(name, cls=_found("options.SeveralValues"))(_found("documented.documented")(found))
        else:
            app.command(name)(_found("documented.documented")(found))
    return app


def __getattr__(name: str) -> Any:
    if name == "app":  # all commands
        return _made([*COMMANDS, *GROUPS])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _fail(error: LlmanacError) -> NoReturn:
    print(f"llmanac: {printable(str(error))}", file=sys.stderr)
    raise SystemExit(2)


def _being_completed() -> str | None:
    """The command of the line that a shell asks to complete; typer reads the rest."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    words = line.split()
    return words[1] if "_LLMANAC_COMPLETE" in os.environ and len(words) + line.endswith((" ", "\n")) > 2 else None


@functools.cache
def _command(first: str | None) -> Any:
    """The tree of commands, which takes a tenth of a second to make; of the command that is called, much less."""
    names = [first] if first in COMMANDS or first in GROUPS else [*COMMANDS, *GROUPS]
    return typer.main.get_command(_made(names, described=first in (None, "--help")))


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a LlmanacError becomes one sentence on standard error and exit status 2, Ctrl-C 130."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may contain bytes that are not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    if arguments is None:
        gc.set_threshold(10_000, 10, 10)  # else half of what reading text takes is looking at torch's million objects
        atexit.register(gc.freeze)  # looking for garbage once more at the end takes half a second
    with interrupts.noted(program=arguments is None):
        try:
            given = sys.argv[1:] if arguments is None else arguments
            if given and given[0][:1] != "-" and given[0] not in {**COMMANDS, **GROUPS}:
                _fail(LlmanacError(f"no command {given[0]!r}; {_instead(given[0])}"))
            with naming(f"llmanac {given[0]}" if given else "llmanac"):
                return _command(given[0] if given else _being_completed())(args=arguments)
        except LlmanacError as error:
            _fail(error)
        except BrokenPipeError:  # `llmanac list | head`
            if arguments is None:  # what is still in the buffer goes nowhere when the process ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(0) from None
        except OSError as error:  # a full disk, or a folder without permission
            if error.errno not in DISK:
                raise
            _fail(refused(error, "the disk"))
