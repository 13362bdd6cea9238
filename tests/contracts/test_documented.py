"""Options of commands: what a docstring says below `Args:` is what the command line takes."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import llmanac.cli
from llmanac.cli.documented import _ENTRY, documented, sharing

COMMANDS = sorted((Path(llmanac.cli.__file__).parent).glob("[a-z]*.py"))


def shared() -> None:
    """Shared.

    Args:
        seed (int sets train.seed): Of all draws [0].
    """


@sharing(shared)
def command(text: str, more: str = "none", k: int = 3, loud: bool = False, *, changes: dict[str, object]) -> None:
    """Say what was given.

    Args:
        text: What to say; a long line that goes
            on below.
        more (argument, MORE): And more.
        k (-k, --k, 1 to 9): How often.
        loud: With capitals.
        lr (float sets train.lr, -1.0 to 1.0): Rate.
        stop (texts sets stop): Where to stop; repeatable.
    """
    print([text, more, k, loud, changes])


def said(*words: str) -> str:
    app = typer.Typer()
    app.command()(documented(command))
    return CliRunner().invoke(app, words).output


def test_parameters_and_fields_come_from_the_docstring() -> None:
    assert said("a") == "['a', 'none', 3, False, {}]\n"
    given = said("a", "b", "-k", "4", "--loud", "--lr", "-0.5", "--seed", "0", "--stop", "x", "--stop", "y")
    assert given == "['a', 'b', 4, True, {'train.lr': -0.5, 'stop': ['x', 'y'], 'train.seed': 0}]\n"


@pytest.mark.parametrize("words", [[], ["a", "-k", "10"], ["a", "--lr", "2"], ["a", "--seed", "x"], ["a", "--no-loud"]])
def test_ranges_types_and_unknown_options_are_refused(words: list[str]) -> None:
    assert "Error" in said(*words) or "error" in said(*words)


def test_help_is_the_docstring() -> None:
    text = " ".join(said("--help").split())
    for part in ("Say what was given.", "a long line that goes on below", "[MORE]", "1<=x<=9", "Of all draws [0]."):
        assert part in text, part
    assert "Args" not in text and "sets" not in text


def test_every_entry_of_every_command_is_a_parameter_or_sets_a_field() -> None:
    """A name that is misspelt would be an option that nothing reads."""
    entries = 0
    for path in COMMANDS:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.endswith("_command"):
                continue
            taken = {one.arg for one in (*node.args.args, *node.args.kwonlyargs)}
            rest = inspect.cleandoc(ast.get_docstring(node) or "").partition("\n\nArgs:\n")[2]
            for name, marks, _ in _ENTRY.findall(inspect.cleandoc(rest)):
                entries += 1
                assert (name in taken) != (" sets " in marks), f"{path.name}: {node.name}: {name}"
                assert "changes" in taken or " sets " not in marks, f"{path.name}: {node.name} takes no changes"
    assert entries > 250


@pytest.mark.parametrize("flag", ["--max-num-batched-tokens", "--most-tokens"])
def test_a_renamed_option_is_read_under_both_names(flag: str) -> None:
    found = CliRunner().invoke(llmanac.cli.app, ["serve", "nowhere", flag, "0"])
    assert found.exit_code == 2 and "greater than or equal to 1" in found.output, found.output
