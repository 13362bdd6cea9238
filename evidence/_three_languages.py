"""A folder of 200 files in English, German and Japanese, and 40 questions about it, asked of `llmanac ask`.

    python -m evidence._three_languages CLONE FOLDER [ASK OPTIONS...]

CLONE is a git clone of FastAPI, whose documentation is written in all three. Of the pages that both translations have,
each second one is taken in German, the others in Japanese; English pages by the hash of their names fill up the 200.
FOLDER gets the pages and the answers, `answers.jsonl`; the further options are those of `llmanac ask`.

The questions (`docs_assistant/three_languages.jsonl`) were written before any answer was seen: 20 ask for
a fact, 10 are answered with yes or no, 10 are not answered by any page. An answer is right where it holds a string of
`gold`; a question of kind `none` where it is refused.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

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
