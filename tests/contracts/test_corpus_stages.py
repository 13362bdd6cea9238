"""Every corpus stage: the same files whatever the memory, the process or an interruption; clear refusals; odd texts."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from llmanac.core import registry, spec
from llmanac.core.errors import DataError
from llmanac.core.spec import make_method
from llmanac.data.deduplicate import run_corpus_stage
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped

# What a stage needs set to have something to do on `shards`; a stage that is not named is built as it is.
CHOICES: dict[str, dict[str, Any]] = {
    "minhash": {"threshold": 0.6, "width": 2},
    "lines": {"min_length": 8},
    "paragraphs": {"min_length": 8},
    "substring": {"min_length": 20},
}


def made(name: str, folder: Path) -> CorpusStage | None:
    choices = CHOICES.get(name, {})
    if name == "decontamination":
        path = folder / "items.jsonl"
        path.write_text(json.dumps({"q": "the common line of the corpus, number 3, with words in it"}) + "\n")
        choices = {"evaluation": [str(path)], "n": 5}
    built = make_method("stage", {"name": name, **choices}).build()
    return built if isinstance(built, CorpusStage) else None


def corpus_stages() -> list[str]:
    """The names whose file has a stage that needs the corpus; none is built, which reads tables and compiles."""
    files = {name: sys.modules[type(make_method("stage", name)).__module__] for name in registry.methods("stage")}
    return sorted(
        name
        for name, module in files.items()
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, CorpusStage) and one.__module__ == module.__name__
    )


def shards(seed: int = 0) -> list[list[Document]]:
    rng = random.Random(seed)
    lines = [f"the common line of the corpus, number {i}, with words in it" for i in range(40)]
    odd = ["", " \n", "\x00", "\ud800 half", "日本語の文", "e\u0301", "x" * 500, "\r\n\r\n", "😀" * 30]
    texts = [rng.choice(["\n", "\n\n"]).join(rng.choices(lines, k=rng.randrange(1, 6))) for _ in range(120)] + odd * 2
    rng.shuffle(texts)
    documents = [Document(f"d{i}", text, "g", {"n": i}) for i, text in enumerate(texts)]
    return [documents[:50], [], documents[50:51], documents[51:]]


def run(stage: CorpusStage, parts: list[list[Document]], folder: Path, memory: int) -> tuple[list[Any], dict[str, Any]]:
    results, report = run_corpus_stage(stage, [lambda p=part: p for part in parts], folder, memory=memory)
    return [list(result) for result in results], report


@pytest.mark.parametrize("name", corpus_stages())
def test_every_stage_gives_the_same_again_and_changes_something(name: str, tmp_path: Path) -> None:
    stage = made(name, tmp_path)
    assert stage is not None
    parts = shards()
    first, report = run(stage, parts, tmp_path / "a", 1 << 30)
    again, report_again = run(stage, parts, tmp_path / "b", 5_000_000)
    assert (first, json.dumps(report)) == (again, json.dumps(report_again))
    changed = 0
    for part, result in zip(parts, first, strict=True):
        assert len(part) == len(result)
        for document, outcome in zip(part, result, strict=True):
            if isinstance(outcome, Dropped):
                assert outcome.document == document and outcome.reason and " " not in outcome.reason
            else:
                assert (outcome.id, outcome.group, outcome.meta) == (document.id, document.group, document.meta)
            changed += outcome != document
    assert changed > 10
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name
    assert len(list((tmp_path / "a").iterdir())) == 2 * len(parts), "nothing else is left behind"


@pytest.mark.parametrize("name", corpus_stages())
def test_every_stage_takes_an_empty_corpus(name: str, tmp_path: Path) -> None:
    stage = made(name, tmp_path)
    assert stage is not None
    assert run(stage, [], tmp_path / "a", 1 << 24)[0] == []
    assert run(stage, [[]], tmp_path / "b", 1 << 24)[0] == [[]]


@pytest.mark.parametrize("name", corpus_stages())
def test_every_stage_notices_that_a_shard_has_changed(name: str, tmp_path: Path) -> None:
    stage = made(name, tmp_path)
    assert stage is not None
    part = shards()[0]
    summary, decisions = tmp_path / "summary", tmp_path / "decisions"
    stage.summarise(part, summary)
    stage.decide([summary], [decisions], memory=1 << 24)
    with pytest.raises(DataError, match="decisions"):
        list(stage.apply(part[:-1], decisions))


@pytest.mark.parametrize("name", sorted(registry.methods("stage")))
def test_every_stage_spec_round_trips(name: str) -> None:
    made_spec = make_method("stage", name)
    assert make_method("stage", spec.dump(made_spec)) == made_spec


def test_an_interrupted_summary_leaves_nothing(tmp_path: Path) -> None:
    stage = made("exact", tmp_path)
    assert stage is not None

    def failing() -> Any:
        yield from shards()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage.summarise(failing(), tmp_path / "summary")
    assert not list(tmp_path.iterdir())
