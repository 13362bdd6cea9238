"""`llmanac tokenizer train` and `compare`."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import spec
from llmanac.core.errors import SpecError
from llmanac.core.files import atomic_folder, write_json
from llmanac.core.outputs import check_pages
from llmanac.core.progress import progress
from llmanac.lab.vocabulary import page, seen, texts
from llmanac.lab.vocabulary.measure import Measured, measure, open_or_train
from llmanac.tokenizers._mixture import Mixture, parse_weights


def train_command(
    name: str, items: Sequence[str], folder: Path, patches: Sequence[str], alpha: float | None,
    weights: Sequence[str], unit: Any, reading: texts.Reading,
) -> None:  # fmt: skip
    """Learn a tokenizer, write it, and say what came out.

    Raises:
        SpecError: an unknown method, choice or label. DataError: text that cannot be used.
    """
    made = spec.make_method("tokenizer", {"name": name, **spec.parse_patches(patches)}, f"tokenizer/{name}")
    groups = texts.labelled(items)
    given = parse_weights(weights) if weights else None
    mixed = alpha is not None or given is not None
    if mixed and not texts.has_labels(items):
        raise SpecError("--alpha and --weight mix labelled text; write label=path for every file or folder")
    stream: Iterable[str] = texts.Texts([path for found in groups.values() for path in found], reading)
    if mixed:
        stream = Mixture(
            lambda: ((label, text) for label, paths in groups.items() for text in reading.cut(paths)),
            weights=given, alpha=alpha, unit=unit,
        )  # fmt: skip
        _print_groups(stream)
    counted = _Counted(stream)
    start = time.perf_counter()
    tokenizer = made.train(counted)
    seconds = time.perf_counter() - start
    about = {
        "tokenizer": spec.dump(made),
        "files": {label: list(paths) for label, paths in groups.items()},
        "places": seen.places(path for paths in groups.values() for path in paths),
        "mixture": stream.as_json() if isinstance(stream, Mixture) else None,
        "texts": counted.texts,
        "bytes": counted.bytes,
        "seconds": round(seconds, 3),
        "fingerprint": tokenizer.fingerprint(),
    }
    with atomic_folder(folder) as target:
        tokenizer.save(target)
        write_json(target / seen.TRAINING, about)
    learned = f"learned from {counted.bytes:,} bytes in {seconds:.1f} s" if type(made).learns else "nothing to learn"
    print(f"{folder}: {tokenizer.vocab_size:,} ids, {learned}")
    if tokenizer.vocab_size < getattr(made, "vocab_size", 0):
        print(f"fewer than the {made.vocab_size:,} asked for: this text has no more to learn")
    if tokenizer.unknown_id is not None:
        print(f"out of vocabulary: {tokenizer.unknown_rate(stream):.2%} of the training text's words")
    print(f"Next: llmanac tokenizer inspect {shlex.quote(str(folder))}")


class _Counted:
    """A stream that counts what is taken from it."""

    def __init__(self, inner: Iterable[str]) -> None:
        self._inner, self.texts, self.bytes = inner, 0, 0

    def __iter__(self) -> Any:
        for text in self._inner:
            self.texts += 1
            self.bytes += len(text.encode("utf-8", "replace"))
            yield text


def _print_groups(mixture: Mixture) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=f"mixture, in {mixture.unit}", title_justify="left")
    for head in ("", "documents", "bytes", "share trained on", "each taken"):
        shown.add_column(head, justify="right" if head else "left")
    for g in mixture.groups:
        shown.add_row(
            escape(g.name), f"{g.documents:,}", f"{g.bytes:,}", f"{g.share:.2%}", f"{g.times(mixture.unit):.2f} times"
        )
    Console().print(shown)


def compare_command(
    items: Sequence[str], on: Sequence[str], train_on: Sequence[str], every: int, sentence: str, limit: int,
    folder: Path, as_json: bool, reading: texts.Reading,
) -> None:  # fmt: skip
    """Measure tokenizers on labelled text and write the page.

    Raises:
        SpecError: a tokenizer that is neither a file nor a method. DataError: text that cannot be used.
    """
    groups = texts.labelled(on)
    read = [path for found in groups.values() for path in found]
    check_pages(folder, "--folder", (page.RESULT, page.PAGE, page.PICTURE, page.DRAWING), "tokenizers", [*read, *items])
    trains = any(not Path(item).exists() for item in items)
    apart = every if trains and not train_on else 1
    held, leaves = texts.held_apart(groups, apart, limit * 1_000_000, reading)

    def to_train() -> Iterable[str]:
        if train_on:
            return reading.texts(learned)
        return texts.left_to_train(groups, apart, reading)

    plan = (
        f"Measured on one part in {apart} of the text, methods trained on the rest."
        if leaves
        else (f"Methods trained on {', '.join(train_on)}." if train_on else "Measured on all of the text.")
    )
    measured, notes = seen.places(read), {}
    learned = [path for paths in texts.labelled(train_on).values() for path in paths] if train_on else []
    if trains and (where := seen.overlap(seen.places(learned), measured)):
        notes["methods"] = f"Methods were trained on {where}, which they are measured on: other text takes more tokens."
    found: list[Measured] = []
    with progress("tokenizers", total=len(items), unit="tokenizers") as bar:
        for item in items:
            label, tokenizer, seconds = open_or_train(item, to_train if train_on or leaves else None)
            if any(one.label == label for one in found):
                label = item
            if seconds is None and (said := seen.note(label, item, tokenizer, measured)):
                notes[label] = said
            found.append(dataclasses.replace(measure(label, tokenizer, held, sentence), train_seconds=seconds))
            bar.advance()
    about = {
        "plan": plan,
        "notes": list(notes.values()),
        "groups": {label: list(paths) for label, paths in groups.items()},
    }
    place = page.write(folder, found, sentence, about)
    if as_json:
        print((folder / page.RESULT).read_text("utf-8"))
        return
    page.print_table(found, notes)
    for one in found:
        print(f"\n{one.label}, {len(one.pieces)} tokens: {' '.join(one.pieces)}")
    print("\n".join(["", *(f"* {said}" for said in notes.values()), plan, f"page: {place}"]))
    print(f"Next: llmanac tokenizer inspect {shlex.quote(items[0])}" if Path(items[0]).exists() else
          f"Next: llmanac compare tokenizer --arms {shlex.quote(','.join(items))}")  # fmt: skip
