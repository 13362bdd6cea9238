"""`llmanac tokenizer`: train, extend, use, inspect and compare tokenizers."""

from __future__ import annotations

import io
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Column, Fields, Include, group

if TYPE_CHECKING:
    from llmanac.tokenizers import Mixture

app = group("Train, extend, use, inspect and compare tokenizers.")
Folder = Annotated[Path, typer.Option("--folder", "-o", help="Output folder.")]
Paths = Annotated[list[str], typer.Argument(help="Files or folders (.txt, .jsonl, .parquet, ...), or label=path.")]
SomeTokenizer = Annotated[str, typer.Argument(help="A tokenizer.json, .model or .tiktoken file, or a folder with one.")]
DEFAULT_SENTENCE = (
    "The quick brown fox doesn't jump over 13 lazy dogs; die Füchsin springt über Hunde. 狐狸跳过懒狗。 x += y[0]"
)


def _reading(column: str, include: list[str] | None) -> Any:
    from llmanac.recipes.vocabulary.texts import Reading

    return Reading(column, tuple(include or ()))


def _free(folder: Path) -> Path:
    """Check that the folder is new or empty. Raises SpecError."""
    from llmanac.core.errors import SpecError
    from llmanac.core.files import has_name
    from llmanac.core.outputs import check_new

    if not has_name(folder):
        raise SpecError(f"--folder {folder}: cannot be replaced; name a folder inside it")
    check_new(folder, "--folder")
    return folder


@app.command("train")
def train_command(
    name: str, text: Paths, folder: Folder, set_: Fields = None, alpha: float | None = None,
    weight: list[str] | None = None, unit: str = "bytes", column: Column = "text", include: Include = None,
) -> Any:  # fmt: skip
    """Train a tokenizer on files: llmanac tokenizer train bpe en=en.txt de=de.txt --alpha 0.3 -o tok.

    Args:
        name: A method of `llmanac list tokenizer`, e.g. bpe.
        alpha: Exponent of label frequencies; < 1 favours small ones.
        weight (LABEL=NUMBER): Weight of a label.
        unit: Unit of the weights: bytes or documents.
    """
    from llmanac.recipes.vocabulary.train import train

    done = train(
        name, text, _free(folder), list(set_ or ()), alpha=alpha, weights=list(weight or ()), unit=unit,
        reading=_reading(column, include), mixed=_print_groups,
    )  # fmt: skip
    size, learned = done.tokenizer.vocab_size, "nothing to learn"
    if done.learns:
        learned = f"learned from {done.bytes:,} bytes in {done.seconds:.1f} s"
    print(f"{folder}: {size:,} ids, {learned}")
    if size < done.asked:
        print(f"fewer than the {done.asked:,} asked for: this text has no more to learn")
    if done.tokenizer.unknown_id is not None:
        print(f"out of vocabulary: {done.unknown_rate():.2%} of the training text's words")
    print(f"Next: llmanac tokenizer inspect {shlex.quote(str(folder))}")
    return {"folder": folder, "vocabulary": size, "bytes": done.bytes, "seconds": done.seconds}


def _print_groups(mixture: Mixture) -> None:
    from llmanac.cli.tables import print_table

    print_table(
        f"mixture, in {mixture.unit}",
        ("", "documents", "bytes", "trained on", "each taken"),
        [
            (g.name, f"{g.documents:,}", f"{g.bytes:,}", f"{g.share:.2%}", f"{g.times(mixture.unit):.2f} times")
            for g in mixture.groups
        ],
    )


@app.command("extend")
def extend_command(
    tokenizer: SomeTokenizer, text: Paths, folder: Folder, tokens: int = 1000, column: Column = "text",
    include: Include = None,
) -> None:  # fmt: skip
    """Learn more tokens on new text; old ids do not change.

    Args:
        tokens (from 1): The most tokens to add.
    """
    from llmanac.core.files import atomic_folder
    from llmanac.recipes.vocabulary import texts
    from llmanac.tokenizers.load import extend, load_tokenizer

    old, place = load_tokenizer(tokenizer), _free(folder)
    paths = [path for found in texts.labelled(text).values() for path in found]
    new = extend(old, _reading(column, include).texts(paths), tokens)
    with atomic_folder(place) as target:
        new.save(target)
        _free(place)  # again: another command may have written it meanwhile
    print(f"{place}: {new.vocab_size:,} ids, {new.vocab_size - old.vocab_size:,} of them new; old ids are unchanged")
    if new.vocab_size - old.vocab_size < tokens:
        print(f"fewer than the {tokens:,} asked for: this text has no more to learn")
    both = shlex.join([tokenizer, str(place), *(part for given in text for part in ("--on", given))])
    print(f"Next: llmanac tokenizer compare {both}")


@app.command("encode")
def encode_command(
    tokenizer: SomeTokenizer, files: list[str] | None = None, text: str | None = None, form: str = "ids",
    decode: bool = False, whole: bool = False, special: list[str] | None = None, column: Column = "text",
    include: Include = None,
) -> None:  # fmt: skip
    """Write the token ids of texts, one text per line, or decode ids.

    Args:
        files (argument): Files or folders; a line or row is a text.
        text: One text instead of files.
        form: Output: ids, pieces or json.
        decode: Read ids, write text.
        whole: A text file is one text, with its newlines.
        special: A special token to parse, or all; repeatable.
    """
    from llmanac.core.errors import SpecError
    from llmanac.recipes.vocabulary import stream
    from llmanac.tokenizers.load import load_tokenizer

    if form not in ("ids", "pieces", "json"):
        raise SpecError(f"--form: {form!r} is not ids, pieces or json")
    if text is not None and files:
        raise SpecError("--text: give a text or files, not both")
    made = load_tokenizer(tokenizer)
    lines = iter([("--text", text or "")])
    if text is None:
        lines = stream.lines_of(list(files or ()), _reading(column, include), whole=whole, ids=decode)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    if decode:
        stream.decode_lines(made, lines, sys.stdout)
        return
    allowed: Any = "never" if not special else "all" if special == ["all"] else frozenset(special)
    together = 1 << 22 if files and "-" not in files else 0
    size, tokens = stream.encode_lines(made, lines, sys.stdout, special=allowed, form=form, together=together)
    print(f"{size:,} bytes, {tokens:,} tokens, {size / max(1, tokens):.3f} bytes a token", file=sys.stderr)


@app.command("inspect")
def inspect_command(tokenizer: SomeTokenizer, text: str = DEFAULT_SENTENCE, as_json: AsJson = False) -> None:
    """Describe a tokenizer: sizes, special tokens, the longest tokens, unreachable tokens.

    Args:
        text: A sentence to tokenize.
    """
    from llmanac.recipes.vocabulary.stream import described, facts
    from llmanac.tokenizers.load import load_tokenizer

    found = facts(load_tokenizer(tokenizer), text)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    print(described(found))
    print(f"\nNext: llmanac tokenizer encode {shlex.quote(tokenizer)} --form pieces --text {shlex.quote(text)}")


@app.command("compare")
def compare_command(
    tokenizers: list[str], on: list[str], train_on: list[str] | None = None, every: int = 10,
    sentence: str = DEFAULT_SENTENCE, limit: int = 20, folder: Folder = Path("tokenizers"), as_json: AsJson = False,
    column: Column = "text", include: Include = None,
) -> None:  # fmt: skip
    """Measure tokenizers on labelled text: bytes per token, tokens per word, unknown words, speed.

    Args:
        tokenizers: Folders or files, or methods: bpe{vocab_size=4096}.
        on (--on, LABEL=PATH): Text to measure on; repeatable.
        train_on (--train, PATH): Text to train on.
        every (from 1): Without --train: hold out one part in this many.
        sentence: A sentence to tokenize.
        limit (from 1): The most megabytes of a label to measure on.
    """
    from llmanac.cli.compare import print_study
    from llmanac.lab.compare import compare
    from llmanac.lab.report import RESULT

    given: dict[str, tuple[Any, Any]] = {
        "train": (train_on, None),
        "include": (include, None),
        "every": (every, 10),
        "limit": (limit, 20),
    }
    given |= {"column": (column, "text"), "sentence": (sentence, "")}
    changes = {path: value for path, (value, default) in given.items() if value != default}
    arms = tokenizers if len(tokenizers) > 1 else [*tokenizers, "utf8"]  # one is compared with bytes
    report = (lambda line: None) if as_json else print
    done = compare("tokenizer", arms, on=",".join(on), patches=changes, folder=folder, report=report)
    if as_json:
        print((folder / RESULT).read_text("utf-8"))
        return
    print_study(done)
    print(f"Next: llmanac tokenizer inspect {shlex.quote(tokenizers[0])}" if Path(tokenizers[0]).exists() else
          f"Next: llmanac compare tokenizer --arms {shlex.quote(','.join(arms))}")  # fmt: skip
