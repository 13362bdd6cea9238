"""A folder of 200 files in English, German and Japanese, and 40 questions about it, asked of `llmanac ask`.

    python -m evidence._three_languages CLONE FOLDER OUT.json [MODEL]

CLONE is a git clone of FastAPI, whose documentation is written in all three. Of the pages that both translations have,
each second one is taken in German, the others in Japanese; English pages by the hash of their names fill up the 200.
FOLDER gets the pages. OUT.json gets what became of each question, without a model, or with MODEL in the mode `quote`,
next to what it holds of other models.

The questions (`docs_assistant/three_languages.jsonl`) were written before any answer was seen: 20 ask for
a fact, 10 are answered with yes or no, 10 are not answered by any page. An answer is right where it holds a string of
`gold`; a question of kind `none` where it is refused.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.progress import progress
from llmanac.generate.load import load_engine
from llmanac.metrics.statistics.intervals import wilson_interval
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant

COMMIT = "c3f316b7e814667e8ee81e03a7330d00ee61e45c"
QUESTIONS = Path(__file__).with_name("docs_assistant") / "three_languages.jsonl"
FILES = 200


def git(clone: Path, *words: str) -> bytes:
    """What a git command prints."""
    return subprocess.run(["git", "-C", str(clone), *words], check=True, capture_output=True).stdout


def pages(clone: Path) -> list[tuple[str, str]]:
    """(language, page) of all files of the folder."""

    def of(language: str) -> list[str]:
        root = f"docs/{language}/docs/"
        found = git(clone, "ls-tree", "-r", "--name-only", COMMIT, root).decode().split()
        return [path.removeprefix(root) for path in found if path.endswith(".md")]

    both = sorted({*of("de")} & {*of("ja")})
    chosen = [("ja" if number % 2 else "de", page) for number, page in enumerate(both)]
    english = sorted(of("en"), key=lambda page: hashlib.sha256(page.encode()).hexdigest())
    return chosen + [("en", page) for page in english[: FILES - len(chosen)]]


def write(clone: Path, folder: Path) -> None:
    """Write the pages."""
    for language, page in pages(clone):
        place = folder / language / page
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(git(clone, "show", f"{COMMIT}:docs/{language}/docs/{page}"))


def ask(folder: Path, model: str | None) -> dict[str, Any]:
    """By kind of question, how many answers are right, of how many, with the 95% interval, and which."""
    engine = None if model is None else load_engine(model, device="cpu")
    assistant = FolderAssistant(FolderIndex.update(folder), engine, mode="extract" if engine is None else "quote")
    found: dict[str, list[bool]] = defaultdict(list)
    questions = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    with progress("ask", total=len(questions), unit="questions") as bar:
        for one in questions:
            answer = assistant.answer(one["question"])
            held = any(gold in answer.text for gold in one.get("gold", ()))
            found[one["kind"]].append(answer.refused if one["kind"] == "none" else held and not answer.refused)
            bar.advance(1)
    answered = [right for kind, all_ in found.items() if kind != "none" for right in all_]
    parts = {**found, "answerable": answered}
    return {
        kind: {"right": sum(all_), "of": len(all_), "interval": wilson_interval(sum(all_), len(all_))[1:], "each": all_}
        for kind, all_ in parts.items()
    }


def main(clone: str, folder: str, out: str, model: str | None = None) -> None:
    if not Path(folder).exists():
        write(Path(clone), Path(folder))
    found = ask(Path(folder), model)
    for kind, row in found.items():
        print(f"{kind:12}{row['right']:4} of {row['of']}")
    kept = files.read_json(Path(out)) if Path(out).is_file() else {}
    files.write_json(Path(out), kept | {"no model" if model is None else Path(model).stem: found})


if __name__ == "__main__":
    main(*sys.argv[1:])
