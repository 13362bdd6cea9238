"""Every stage: one answer a document under its own id, the same whatever else is in the batch, and the next time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmanac.core import registry, spec
from llmanac.core.errors import LlmanacError, SpecError
from llmanac.core.spec import make_method
from llmanac.data.documents import Document
from llmanac.data.stages import CorpusStage, Dropped, Stage

PROSE = "The committee met on Tuesday to discuss what the new bridge would cost. It was agreed that work should begin "
TEXTS = [
    "", " ", "\n\n", "word", "a\x00b", "Größe – ☃ \U0001f600", "x" * 5000, "no spaces" * 200, "the " * 3000,
    PROSE * 12, PROSE * 12, "\n".join([PROSE] * 30), "1 2 3 4 5 6 7 8 9 " * 40, "- item\n" * 60,
    "def f(x):\n    return x\n" * 40, f"<html><body><h1>Title</h1><p>{PROSE * 8}</p></body></html>",
    "日本語の文章です。" * 60, "mail a.b@example.org, 192.168.0.1",
    *(PROSE * 9 + f"Sentence number {n} stands here." for n in range(12)),
]  # fmt: skip


def documents() -> list[Document]:
    found = [Document(f"d{n}", text, f"d{n}", {"input": "x"}) for n, text in enumerate(TEXTS)]
    page = next(n for n, text in enumerate(TEXTS) if text.startswith("<html>"))
    found[page] = Document(f"d{page}", TEXTS[page], f"d{page}", {"input": "x", "format": "html"})
    return found


def built(name: str) -> Any:
    try:
        return make_method("stage", name).build()
    except LlmanacError as error:
        pytest.skip(f"{name}: {error}")


def plain(answer: Document | Dropped) -> tuple[Any, ...]:
    if isinstance(answer, Dropped):
        return answer.document.id, answer.reason, answer.detail
    return answer.id, answer.text, dict(answer.meta)


@pytest.mark.parametrize("name", sorted(registry.methods("stage")))
def test_every_spec_round_trips_and_knows_its_fields(name: str) -> None:
    made = make_method("stage", name)
    assert make_method("stage", spec.dump(made)) == made
    with pytest.raises(SpecError, match="no such field"):
        make_method("stage", {"name": name, "nonsense": 1})


@pytest.mark.parametrize("name", sorted(registry.methods("stage")))
def test_every_stage_answers_each_document_once_and_the_same(name: str, tmp_path: Path) -> None:
    stage = built(name)
    given = documents()
    if isinstance(stage, Stage):
        answers = [plain(answer) for answer in stage.apply(given)]
        assert [answer[0] for answer in answers] == [d.id for d in given]
        alone = [plain(answer) for d in given for answer in stage.apply([d])]
        assert alone == answers, "what happens to a document depends on its neighbours"
        back = [plain(answer) for d in reversed(given) for answer in built(name).apply([d])]
        assert back[::-1] == answers
        assert list(stage.apply([])) == []
        return
    assert isinstance(stage, CorpusStage)
    shards = [given[:7], [], given[7:]]
    found = []
    for turn in range(2):
        folder = tmp_path / str(turn)
        folder.mkdir()
        summaries = [folder / f"{n}.summary" for n in range(3)]
        decisions = [folder / f"{n}.decisions" for n in range(3)]
        for n in (0, 1, 2) if turn == 0 else (2, 0, 1):
            try:
                built(name).summarise(iter(shards[n]), summaries[n])
            except LlmanacError as error:  # it asks for a file
                pytest.skip(f"{name}: {error}")
        said = stage.decide(summaries, decisions, memory=32 << 20)
        answers = [[plain(a) for a in built(name).apply(iter(s), d)] for s, d in zip(shards, decisions, strict=True)]
        assert [[a[0] for a in part] for part in answers] == [[d.id for d in shard] for shard in shards]
        found.append((answers, said, [p.read_bytes() for p in (*summaries, *decisions)]))
    assert found[0] == found[1], "the order of the work, or the time, changed what was decided"
