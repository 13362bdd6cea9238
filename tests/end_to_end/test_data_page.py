"""docs/data.md: its blocks are run in order, and its table of stages names all there are."""

from __future__ import annotations

import gzip
import importlib
import inspect
import json
import random
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from _builds import text
from _pages import Session

from llmanac.core import registry
from llmanac.core.spec import make_method
from llmanac.data.stages import CorpusStage

PAGES = ("docs/data.md", "docs/data-reference.md")
LEAKED = "which of these fourteen words in a row was found in the notes that somebody left here"


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A folder with what the page's recipes read."""
    rng = random.Random(0)
    for folder in ("crawl", "wanted", "unwanted"):
        (tmp_path / folder).mkdir()
    for n in range(8):
        body = "".join(f"<p>{text(rng, 60)}.</p>" for _ in range(3))
        (tmp_path / "crawl" / f"{n}.html").write_text(f"<html><body><article>{body}</article></body></html>")
    for n in range(60):
        (tmp_path / "wanted" / f"{n}.txt").write_text(text(rng, 30))
        (tmp_path / "unwanted" / f"{n}.txt").write_text("BUY NOW! " * rng.randint(3, 9))
    notes = [text(rng, 40) for _ in range(20)]
    notes += [notes[0], f"{notes[1]} {LEAKED} {notes[2]}"]
    data = "".join(json.dumps({"text": note}) + "\n" for note in notes).encode()
    (tmp_path / "notes.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": LEAKED, "answer": "none"}) + "\n")
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.mark.slow  # a process for each of its commands; test_build_command.py runs the same ones on less
@pytest.mark.timeout(600)
def test_every_block_of_the_page_runs(root: Path, session: Session) -> None:
    session.page("\n".join((root / page).read_text("utf-8") for page in PAGES))
    built = {path.parent.name: json.loads(path.read_text()) for path in session.folder.glob("corpora/*/manifest.json")}
    dropped = {name: {s["name"]: s["dropped"] for s in manifest["stages"]} for name, manifest in built.items()}
    assert dropped["dedup"]["exact"] == {"exact-duplicate": 1}
    assert sum(dropped["decontaminated"]["decontamination"].values()) == 1
    assert built["judged"]["output"]["documents"] > 0
    assert built["plain"]["output"]["documents"] == built["python"]["output"]["documents"] == 30
    assert all("html_pages" not in manifest["output"] for manifest in built.values())


def test_the_table_of_stages_is_whole_and_true(root: Path) -> None:
    section = (root / PAGES[0]).read_text("utf-8").partition("## The stages")[2].partition("###")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    table = {name.strip("`"): (choices, sees) for name, _, choices, sees in lines[1:]}
    assert table.keys() == registry.methods("stage").keys()
    for name, (choices, sees) in table.items():
        made = make_method("stage", name)
        assert {*re.findall(r"`(\w+)`", choices)} <= {field.name for field in fields(made)}, name
        module = importlib.import_module(type(made).__module__)
        classes = [one for _, one in inspect.getmembers(module, inspect.isclass) if one.__module__ == module.__name__]
        assert any(issubclass(one, CorpusStage) for one in classes) == (sees == "the corpus"), name
