"""Deduplicate files: the same rows without duplicates, those that went, and a report."""

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from llmanac.core import files, registry
from llmanac.core.errors import DataError, SpecError, nearest
from llmanac.core.lock import locked
from llmanac.core.progress import progress
from llmanac.core.spec import dump, make_method, parse_patches
from llmanac.data.columns import no_column
from llmanac.data.command_problems import CommandProblems, asked, command_bounds, save_and_tell, up_to_damage
from llmanac.data.deduplicate import Shard, build_corpus_stage, run_corpus_stage
from llmanac.data.documents import Document
from llmanac.data.lines import text_pieces
from llmanac.data.quarantine import SHOWN, Problems
from llmanac.data.readers import table_rows
from llmanac.data.sources.files import Spec as FilesSpec
from llmanac.data.sources.files import documents_of
from llmanac.data.stages import CorpusStage, Dropped, StageSpec
from llmanac.data.texts import files_of, is_plain
from llmanac.data.unpack import COMPRESSED, TABLES, TEXTS, format_of

WORK, LOCK, REPORT, DROPPED, QUARANTINE = ".work", ".lock", "report.json", "dropped.jsonl", "quarantine.jsonl"
METHODS = ("minhash", "exact", "lines", "paragraphs", "substring")  # what messages offer
SHARDS = 128
Input = tuple[tuple[Path, str], Path]  # a file, the name it is shown under, and where its rows that stay go


def _rows(path: Path, shown: str, column: str, problems: Problems) -> Iterator[Document]:
    """The documents of a file, each with the row it came from in `meta["row"]`; bad rows are problems."""
    if not is_plain(path) and format_of(path) not in TABLES:
        for document in documents_of(path, shown, FilesSpec(text=column), problems):
            yield replace(document, group=shown, meta={"row": {"id": document.id}})
        return
    if format_of(path) not in TABLES:
        # a file is one document: where a second piece begins, there is more than a document may have
        pieces = list(itertools.islice(text_pieces(path, problems, limit=problems.bounds.document), 2))
        if len(pieces) > 1 or (pieces and _too_long(pieces[0], problems)):
            what = f"a document of more than {problems.bounds.document:,} bytes ({problems.bounds.longer})"
            problems.report(path, None, what, code="too-large")
        elif pieces:
            yield Document(shown, pieces[0], shown, {"row": {"id": shown}})
        return
    for row in table_rows(path, problems):
        text = row.values.get(column)
        if isinstance(text, str) and _too_long(text, problems):
            what = f"a text of more than {problems.bounds.document:,} bytes ({problems.bounds.longer})"
            problems.report(path, row.line, what, text[:SHOWN], code="too-large")
            continue
        if isinstance(text, str):
            yield Document(f"{shown}:{row.line}", text, shown, {"row": dict(row.values)})
            continue
        what = f"column {column!r} holds {type(text).__name__} where text was expected"
        reason = what if column in row.values else no_column(column, row.values)
        problems.report(path, row.line, reason, repr(row.values), code="no-text")


def _too_long(text: str, problems: Problems) -> bool:
    """Whether a text has more bytes than a document may; they are counted only where it may be so."""
    most = problems.bounds.document
    return 4 * len(text) > most and (len(text) > most or len(text.encode("utf-8", "surrogatepass")) > most)


@dataclass(frozen=True)
class Layout:
    """Where the results go: `kept` has one path an input, or the same path for all of them."""

    kept: list[Path]
    dropped: Path
    report: Path
    work: Path
    lock: Path
    quarantine: Path


def layout(out: Path, shown: Sequence[str]) -> Layout:
    """A folder with a file an input, or, for an `out` that ends in `.jsonl`, that file and two next to it.

    Raises:
        DataError: `out` is a file that is no `.jsonl`, or a folder with other files in it.
    """
    if out.suffix == ".jsonl" and not out.is_dir():
        ends = (".dropped.jsonl", ".report.json", ".work", ".jsonl.lock", ".quarantine.jsonl")
        others = [out.with_name(out.stem + end) for end in ends]
        return Layout([out] * len(shown), *others)
    if out.is_file():
        raise DataError(f"--out: {out} is a file; name a folder, or a file that ends in .jsonl")
    if out.is_dir() and not _begun(out / REPORT, out / WORK, out / LOCK):
        strange = sorted(path.name for path in out.iterdir())
        if strange:
            raise DataError(f"--out: {out} holds other files ({strange[0]}, ...); name a new folder")
    kept = [out / name for name in _output_names(shown)]
    return Layout(kept, out / DROPPED, out / REPORT, out / WORK, out / LOCK, out / QUARANTINE)


def _begun(report: Path, work: Path, lock: Path) -> bool:
    """Whether a `dedup` wrote here before, or began to."""
    if work.exists() or lock.exists():
        return True
    try:
        found = files.read_json(report)
    except DataError:
        return False
    return isinstance(found, dict) and {"method", "inputs", "outputs", "stage"} <= found.keys()


@dataclass(frozen=True)
class Deduplicated:
    """What came of it.

    Attributes:
        report: what `report.json` holds.
        dropped: the file of the rows that went.
        left_out: what was set aside, if anything was.
    """

    report: dict[str, Any]
    dropped: Path
    left_out: dict[str, int | str] | None


def dedup_files(
    paths: Sequence[str],
    *,
    method: str,
    out: Path,
    text: str = "text",
    memory: int = 2 * 10**9,
    patches: Sequence[str] = (),
    on_error: str = "fatal",
    max_bytes: int | None = None,
    include: Sequence[str] = (),
) -> Deduplicated:
    """Read files, decide what goes, write what stays.

    The report takes its name last and is on the disk, with the folder's entries, when this returns. The contents of
    many output files are on the disk once the system has written them back: waiting for each would take far longer.

    Args:
        paths: files, folders or patterns.
        method: a corpus stage, see `METHODS`. patches: of its fields.
        out: see `layout`.
        text: the column of the text, in tables.
        memory: bytes that may be held at once.
        on_error: "skip" sets rows that cannot be used aside in `quarantine.jsonl` next to the report.
        max_bytes: bytes of text that a document may have, `LimitSpec.max_bytes` if nothing is said.
        include: patterns that files of folders must match, all of them if nothing is said.

    Raises:
        LlmanacError: bad input or choices, a disk that refuses, or a folder that holds something else.
    """
    source = files_of(paths, column=text, include=include)
    with files.refusing(out):
        spec, stage = _made(method, patches)
        bounds = command_bounds(max_bytes)
        with progress("list", unit="files") as bar:
            inputs = []
            for found in source.files(CommandProblems()):
                inputs.append(found)
                bar.advance()
        places = layout(out, [shown for _, shown in inputs])
        # files are read more than once
        problems, seen_before = (
            asked(on_error, places.quarantine, inputs=[path for path, _ in inputs], bounds=bounds, column="--text")
            for _ in range(2)
        )
        _check_apart(inputs, places)
        held = [place for place in (out, places.dropped, places.report) if place.is_file() or place.is_symlink()]
        if held and not _begun(places.report, places.work, places.lock):
            raise DataError(f"--out: {held[0]} is there already, and no llmanac dedup wrote it; name another file")
        with locked(places.lock, busy=f"{out}: another llmanac dedup is writing there"):
            shutil.rmtree(places.work, ignore_errors=True)
            groups = _grouped(list(zip(inputs, places.kept, strict=True)))
            shards, counted = (
                [functools.partial(_rows_of_all, group, text, found) for group in groups]
                for found in (seen_before, problems)
            )
            sizes = [sum(path.stat().st_size for (path, _), _ in group) for group in groups]
            try:
                results, report = run_corpus_stage(stage, shards, places.work, memory=memory, sizes=sizes)
                if seen_before.total and not report.get("documents", 1):
                    raise DataError(
                        f"{', '.join(source.paths)}: no usable text; all was set aside: {seen_before.kept[0]}"
                    )
                counts = _write_all(groups, counted, results, places, text, report.get("documents"))
                places.quarantine.unlink(missing_ok=True)  # of a run before
                left_out = save_and_tell(problems)
            finally:
                shutil.rmtree(places.work, ignore_errors=True)
            document = {
                "method": dump(spec), "inputs": [shown for _, shown in inputs],
                "outputs": list(dict.fromkeys(place.name for place in places.kept)),
                "documents": counts["documents"], "kept": counts["kept"], "changed": counts["changed"],
                "dropped": {
                    k.removeprefix("dropped "): n for k, n in sorted(counts.items()) if k.startswith("dropped ")
                },
                "bytes_in": counts["bytes in"], "bytes_out": counts["bytes out"], "stage": report,
            }  # fmt: skip
            document |= left_out or {}
            files.write_json(places.report, document)
        return Deduplicated(document, places.dropped, left_out)


def _check_apart(inputs: Sequence[tuple[Path, str]], places: Layout) -> None:
    """Raise DataError for an input that would be written over. Each path is resolved once."""
    written = {os.path.realpath(place) for place in (*places.kept, places.dropped, places.report, places.quarantine)}
    work = os.path.join(os.path.realpath(places.work), "")
    for path, shown in inputs:
        real = os.path.realpath(path)
        if real in written or real.startswith(work):
            raise DataError(f"--out: {shown} would be written over; name another place")


def _made(method: str, patches: Sequence[str]) -> tuple[StageSpec, CorpusStage]:
    """The method's spec and stage. Raises SpecError that lists the methods for a name that is none of them."""
    known = registry.methods("stage")
    if method not in known:
        raise SpecError(f"--method: no method {method!r}{nearest(method, METHODS)} (known: {', '.join(METHODS)})")
    spec = make_method("stage", {"name": method, **parse_patches(patches)}, "--method")
    try:
        return spec, build_corpus_stage(spec)
    except SpecError as error:
        if error.field != "stage":
            raise SpecError(f"--method: {error}") from None
        raise SpecError(f"--method: {error.reason}; use one of {', '.join(METHODS)}") from None


def _grouped(inputs: Sequence[Input]) -> list[Sequence[Input]]:
    """Inputs in order, as at most `SHARDS` shards: deciding has a file of each open."""
    most = max(1, -(-len(inputs) // SHARDS))
    return [inputs[first : first + most] for first in range(0, len(inputs), most)]


def _rows_of_all(group: Sequence[Input], column: str, problems: Problems) -> Iterator[Document]:
    for (path, shown), _ in group:
        yield from up_to_damage(_rows(path, shown, column, problems), path, problems)


def _write_all(
    groups: Sequence[Sequence[Input]],
    shards: Sequence[Shard],
    results: Sequence[Iterator[Document | Dropped]],
    places: Layout,
    text: str,
    total: int | None,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with (
        contextlib.ExitStack() as together,
        files.atomic_file(places.dropped) as dropped,
        progress("write", total=total, unit="documents") as bar,
    ):
        one = len(set(places.kept)) < len(places.kept)
        shared = together.enter_context(files.atomic_file(places.kept[0])) if one else None
        for group, shard, result in zip(groups, shards, results, strict=True):
            by_file = itertools.groupby(zip(shard(), result, strict=True), key=lambda pair: pair[0].group)
            name, pairs = next(by_file, (None, iter(())))
            for (_, shown), place in group:
                with contextlib.nullcontext(shared) if shared else files.atomic_file(place, durable=False) as kept:
                    if name != shown:  # no document came out of it
                        continue
                    for document, outcome in pairs:
                        _write(document, outcome, text, kept, dropped, counts)
                        bar.advance()
                name, pairs = next(by_file, (None, iter(())))
    return counts


def _output_names(shown: Sequence[str]) -> list[str]:
    """One `.jsonl` name an input: its own, numbered where two would have the same."""
    bare = []
    for name in shown:
        stem = Path(name).name
        for suffix in (*COMPRESSED, *TABLES, *TEXTS):
            stem = stem.removesuffix(suffix) or stem
        # a name may hold anything, also a line break: what cannot be printed is no part of ours
        printable = "".join(letter if letter.isprintable() else "_" for letter in stem)
        bare.append(printable.encode()[:240].decode("utf-8", "ignore"))  # a name with its ending has 255 bytes at most
    taken = Counter([*bare, Path(DROPPED).stem, Path(QUARANTINE).stem])
    return [f"{stem}.jsonl" if taken[stem] == 1 else f"{number:05}-{stem}.jsonl" for number, stem in enumerate(bare)]


def _write(
    document: Document,
    outcome: Document | Dropped,
    column: str,
    kept: BinaryIO,
    dropped: BinaryIO,
    counts: Counter[str],
) -> None:
    counts["documents"] += 1
    counts["bytes in"] += len(document.text.encode("utf-8", "surrogatepass"))
    if isinstance(outcome, Dropped):
        counts[f"dropped {outcome.reason}"] += 1
        dropped.write(_line({"id": document.id, "reason": outcome.reason, "detail": outcome.detail}))
        return
    counts["kept"] += 1
    counts["changed"] += outcome.text != document.text
    counts["bytes out"] += len(outcome.text.encode("utf-8", "surrogatepass"))
    row = document.meta["row"]
    kept.write(_line({**row, (column if column in row else "text"): outcome.text}))


def _line(row: dict[str, Any]) -> bytes:
    text = json.dumps(row, ensure_ascii=False, default=str) + "\n"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half a surrogate pair: as an escape
        return json.dumps(row, default=str).encode("ascii") + b"\n"
