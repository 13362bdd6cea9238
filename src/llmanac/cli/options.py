"""Options that several commands share, groups of commands, and how sizes are written."""

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from llmanac.cli.documented import AsJson as AsJson
from llmanac.cli.documented import CommandGroup
from llmanac.core.errors import SpecError
from llmanac.core.threads import use_threads


def _use_threads(count: int | None) -> int | None:
    if count is not None:
        use_threads(count)
    return count


LineAsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per text.")]
Column = Annotated[str, typer.Option(help="Column of a table that holds the text.")]
Include = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="Files to read in folders, e.g. '*.md'; repeatable.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
OnError = Annotated[str, typer.Option(metavar="[fatal|skip]", help="At a row that cannot be used: stop, or skip it.")]
MaxBytes = Annotated[str, typer.Option(help="Largest document, e.g. 50MB.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Show = Annotated[bool, typer.Option("--show", help="Print the resolved recipe and stop.")]
Patches = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="PATH=VALUE", help="Set a field, e.g. -s train.steps=200; repeatable."),
]
Fields = Annotated[
    list[str] | None, typer.Option("--set", "-s", metavar="FIELD=VALUE", help="Set a field of the method; repeatable.")
]
Processes = Annotated[
    int | None, typer.Option(help="Processes of this machine to train on; torchrun starts those of several machines.")
]
SomeModel = Annotated[str, typer.Argument(help="A run's or model's folder, a .gguf file, or a hub model's name.")]
Draft = Annotated[
    str | None,
    typer.Option(
        metavar="DRAFTER|MODEL",
        help="Speculative decoding: prompt-lookup, or a small model with the same tokens. The text is the same.",
    ),
]
DraftTokens = Annotated[int | None, typer.Option(help="Most tokens to draft at once, 1 to 64.")]
SomeRunner = Annotated[
    str,
    typer.Option(
        "--runner", help="auto, native[:float16|float32|q8_0] (compiled, Llama-shaped; of keys and values) or torch."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, max=512, callback=_use_threads, help="Threads that compute [as many as processors]."),
]
Tensor = Annotated[int, typer.Option(min=1, help="Processes to divide each layer over (torch runner, CPU).")]
Pipeline = Annotated[int, typer.Option(min=1, help="Processes to divide the layers over; goes with --tensor.")]
OnEngine = Annotated[
    str, typer.Option("--engine", metavar="[local|ray]", help="Where: this process, or those of a Ray cluster.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes of --engine ray [one a GPU, else one a machine].")]
Rope = Annotated[
    str | None, typer.Option(metavar="TYPE:FACTOR", help="Scale rotary positions for a longer context, as yarn:4.")
]
Sinks = Annotated[
    str | None, typer.Option(metavar="FIRST+WINDOW", help="Read the first and the last tokens only, as 4+1020.")
]
IgnoreConfig = Annotated[
    list[str] | None,
    typer.Option("--ignore-config", metavar="KEY", help="Read config.json as if it lacked this key; repeatable."),
]
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)


def group(help: str) -> typer.Typer:
    """A group of commands; without a command it prints its help."""
    return CommandGroup(help=help, no_args_is_help=True, rich_markup_mode=None)


@contextlib.contextmanager
def stopping(again: str = "the same command", kept: str = "nothing is lost") -> Iterator[None]:
    """Ctrl-C inside ends the command with status 130, and says what is kept and how to go on."""
    from llmanac.core.run_folder import NothingKept

    try:
        yield
    except NothingKept:
        print("\nStopped before anything was kept; the same command starts again.")
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        print(f"\nStopped; {kept}. Continue with: {again}")
        raise SystemExit(130) from None


def read_size(text: str, flag: str = "--memory", *, thousand: int = 1000) -> int:
    """`"2GB"`, `"500M"` or `"1000000"` in bytes; `thousand` is 1,024 for binary units. Raises SpecError."""
    if found := _SIZE.fullmatch(text):
        size = float(found[1]) * thousand ** " kmgt".index(found[2].lower() or " ")
        if 1 <= size < 1 << 60:
            return int(size)
    raise SpecError(f"{flag}: {text!r} is not a size; write for example 500MB or 2GB")


class SeveralValues(TyperCommand):
    """A command whose repeatable options take several values: `--train a b` is read as `--train a --train b`.

    Such a command takes no positional arguments. Give it as `cls` of a typer command.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {
            name
            for option in self.params
            if isinstance(option, TyperOption) and option.multiple
            for name in option.opts
        }
        spread: list[str] = []
        flag, values = None, 0
        for argument in args:
            if argument.startswith("-") and argument != "-":
                flag, values = (argument if argument in several else None), 0
            elif flag is not None:
                values += 1
                if values > 1:
                    spread.append(flag)
            spread.append(argument)
        return super().parse_args(ctx, spread)


def followed(what: str = "llmanac.train.team") -> bool:
    """Whether this process is a further rank of torchrun's; then it has been one of `what` until rank 0 ended."""
    from llmanac.parallel import launch

    if not launch.is_further_rank():
        return False
    from llmanac.parallel.mesh import further_rank

    further_rank(importlib.import_module(what).follow)
    return True


def on_ray(engine: str, workers: int | None) -> bool:
    """Whether --engine is ray. Raises SpecError."""
    if engine not in ("local", "ray"):
        raise SpecError(f"--engine: {engine!r} is not one of local, ray")
    if workers is not None and engine == "local":
        raise SpecError("--workers: is of --engine ray")
    return engine == "ray"


def on_processes(changes: dict[str, Any], processes: int | None, recipe: Any = None) -> dict[str, Any]:
    """The patches of a recipe with that of --processes: ranks share rows where neither patches nor the recipe say more.

    recipe: its data.
    """
    axes = ("data", "context", "tensor", "pipeline")
    mesh = recipe.get("parallel") if isinstance(recipe, dict) else None
    said = any(f"parallel.{axis}" in changes for axis in axes) or (isinstance(mesh, dict) and bool(mesh.keys() & axes))
    return {**changes, "parallel.data": processes} if processes and not said else changes
