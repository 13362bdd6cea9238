"""`llmanac index`, `retrieve` and `ask`: a folder of documents as a kept index, passages that match, answers."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmanac.cli.options import AsJson, Include, SomeRunner
from llmanac.core.errors import SpecError, for_terminal

if TYPE_CHECKING:
    from llmanac.generate.engine import Engine
    from llmanac.retrieve.folder import FolderIndex, Passage
    from llmanac.retrieve.folder.answers import FolderAssistant

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Text, Markdown, HTML, PDF, code, tables.")]
Place = Annotated[
    Path | None, typer.Option("--index", metavar="PLACE", help="Folder of the index [FOLDER/.llmanac/index].")
]
Encoder = Annotated[
    str | None, typer.Option(metavar="MODEL", help="Encoder for dense retrieval, as all-MiniLM-L6-v2's folder.")
]
Pooling = Annotated[str | None, typer.Option(help="mean, cls or last [as the encoder's folder says, or mean].")]
Method = Annotated[
    str | None, typer.Option(metavar="[bm25|dense|hybrid]", help="[hybrid where the index has vectors, else bm25].")
]
Mode = Annotated[
    str | None, typer.Option(metavar="[free|quote|extract]", help="Of answers from documents [free with a model].")
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Refuse below this probability that the best passage answers [as calibrated]."),
]
Budget = Annotated[int | None, typer.Option(min=16, help="Tokens of passages in the prompt [1024].")]
Passages = Annotated[int, typer.Option("-k", min=1, max=1000, help="Passages to find.")]


def updated(
    folder: Path, place: Path | None, encoder: str | None, include: list[str] | None = None, *, listed: int = 5,
    **fields: Any,
) -> FolderIndex:  # fmt: skip
    """The renewed index of a folder; files that could not be read are named on standard error, at most `listed`."""
    from llmanac.core.spec import make
    from llmanac.data.command_problems import CommandProblems
    from llmanac.lab.words import plural
    from llmanac.retrieve.dense import Spec
    from llmanac.retrieve.folder import FolderIndex

    given = {name: value for name, value in fields.items() if value is not None}
    if given and encoder is None:
        raise SpecError(f"--{next(iter(given))}: is of an encoder; name one with --encoder MODEL")
    name = str(Path(encoder).resolve()) if encoder is not None and Path(encoder).exists() else encoder
    spec = None if name is None else make(Spec, {"name": "dense", "model": name, **given}, "--encoder")
    problems = CommandProblems("skip")
    index = FolderIndex.update(folder, place, encoder=spec, include=include or (), problems=problems)
    if problems.counts:
        print(f"note: {plural(len(problems.counts), 'file')} could not be read, or not all of it:", file=sys.stderr)
        first = {problem.file: str(problem) for problem in reversed(problems.kept)}
        for name, count in list(problems.counts.items())[:listed]:
            others = f" (and {count - 1:,} more)" if count > 1 else ""
            print(for_terminal(f"      {first.get(name, name)}{others}"), file=sys.stderr)
        if (more := len(problems.counts) - listed) > 0:
            print(f"      and {plural(more, 'file')} more", file=sys.stderr)
    return index


def method_of(index: FolderIndex, method: str | None) -> str:
    """The method that was asked for; by default hybrid where there are vectors."""
    return method or ("bm25" if index.encoder is None else "hybrid")


def assistant_of(index: FolderIndex, engine: Engine | None, **given: Any) -> FolderAssistant:
    """What answers from an index; what was not given is as the assistant has it."""
    from llmanac.retrieve.folder.answers import FolderAssistant

    return FolderAssistant(index, engine, **{name: value for name, value in given.items() if value is not None})


def index_command(
    folder: Folder, place: Place = None, encoder: Encoder = None, pooling: Pooling = None, dtype: str | None = None,
    include: Include = None,
) -> Any:  # fmt: skip
    """Index a folder of documents, or renew its index: only files that changed are read.

    Args:
        dtype: Of vectors: float32 or float16 (half the disk) [float32].
    """
    from llmanac.cli.tables import print_table

    index = updated(folder, place, encoder, include, listed=20, pooling=pooling, dtype=dtype)
    size = sum(entry[0] for entry in index.data["files"].values())
    vectors = "none" if index.encoder is None else str(index.arrays["vectors"].shape[1])
    row = (
        f"{len(index.data['records']):,}", f"{len(index):,}", str(len(index.changed)), str(len(index.removed)),
        f"{size / 1e6:.1f} MB", vectors,
    )  # fmt: skip
    print_table(str(index.place), ("files", "passages", "read", "gone", "on disk", "vectors"), [row], left=())
    print(f'Next: llmanac retrieve {shlex.quote(str(folder))} "a question"')
    return {
        "index": index.place, "files": len(index.data["records"]), "passages": len(index), "read": index.changed,
        "gone": index.removed, "bytes": size, "unread": index.unread,
    }  # fmt: skip


def retrieve_command(
    folder: Folder, query: str, method: Method = None, k: Passages = 5, place: Place = None, encoder: Encoder = None,
    include: Include = None, rerank: str | None = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """The passages of a folder that match a query best; the index is renewed first.

    Args:
        query: What to look for.
        rerank (--rerank): A reranker's folder or hub name, which orders the 50 passages that match best.
    """
    index = updated(folder, place, encoder, include)
    chosen = method_of(index, method)
    found = index.retrieve(query, k, chosen, None if rerank is None else _reranker(rerank))
    if as_json:
        print(
            json.dumps(
                {
                    "query": query,
                    "method": chosen,
                    "passages": [{"score": one.score, **as_row(one.passage)} for one in found],
                }
            )
        )
        return
    if not found:
        print(f"Nothing in {folder} holds a word of the query.")
    else:
        from llmanac.cli.tables import print_table

        rows = [(f"{one.score:.4g}", one.passage.source, _start(one.passage)) for one in found]
        print_table(f"{chosen}: {query}", ("score", "where", "passage"), rows, left=(1, 2))
    print(f"Next: llmanac ask {shlex.quote(str(folder))} {shlex.quote(query)}")


def _reranker(path: str) -> Any:
    from llmanac.evaluate.labels import Labeller

    return Labeller.load(path).relevance


def ask_command(
    folder: Folder, question: str, model: str | None = None, mode: Mode = None, method: Method = None,
    k: Passages = 6, threshold: Threshold = None, budget: Budget = None, place: Place = None, encoder: Encoder = None,
    include: Include = None, runner: SomeRunner = "auto", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Answer a question from a folder of documents, with citations, or say that they do not answer it.

    Args:
        question: What to answer from the documents.
        model: A run's or model's folder, a .gguf file, or a hub model's name [none: quotes].
    """
    index = updated(folder, place, encoder, include)
    engine = None
    if model is not None and mode != "extract":
        from llmanac.generate.load import load_writer

        engine = load_writer(model, runner=runner)
    assistant = assistant_of(index, engine, mode=mode, method=method, k=k, threshold=threshold, budget=budget)
    answer = assistant.answer(question)
    if as_json:
        rows = [{"number": c.number, "quote": c.quote, **as_row(c.passage)} for c in answer.citations]
        about = {"mode": assistant.mode, "method": assistant.method, "support": answer.support}
        print(json.dumps({
            "question": question, "answer": answer.text, "refused": answer.refused, **about, "citations": rows,
            "dropped": answer.dropped, "unread": index.unread,
        }))  # fmt: skip
        return
    print(for_terminal(answer.text))
    for citation in answer.citations:
        print(for_terminal(f"  [{citation.number}] {citation.title}  {_start(citation.passage)}"))
    if answer.refused:
        least = f"{assistant.threshold:.2f}"
        print(f"(support {answer.support:.2f}; an answer needs {least}, and a sentence that answers)")
        if index.unread:
            from llmanac.lab.words import plural

            print(f"({plural(len(index.unread), 'file')} could not be read, or not all of it: the answer may be there)")
    print(f"Next: llmanac retrieve {shlex.quote(str(folder))} {shlex.quote(question)}")


def as_row(passage: Passage) -> dict[str, Any]:
    """A passage as JSON data."""
    return {
        "document": passage.document, "source": passage.source, "start": passage.start, "stop": passage.stop,
        "line": passage.line or None, "last": passage.last or None, "heading": passage.heading, "text": passage.text,
    }  # fmt: skip


def _start(passage: Passage) -> str:
    text = " ".join(passage.text.split())
    return text if len(text) <= 160 else text[:160] + " …"
