"""The documentation assistant: its folder, the sheet that its model reads, what that trains on, how it is scored."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from _documented import COPY, library

from llmanac.apps.docs_assistant.app import (
    APPLICATION,
    Documentation,
    DocumentationAssistant,
    calibrate,
    line_of,
    measured,
    report_of,
)
from llmanac.apps.docs_assistant.collect import collect, documents, name_of, title_of
from llmanac.apps.docs_assistant.pointer import (
    ASSISTANT,
    END,
    LETTERS,
    NONE,
    NUMBERS,
    SPECIAL,
    USER,
    PointerReader,
    encoded,
    letters_of,
    question_ids,
    row_of,
    sheet_ids,
)
from llmanac.core.errors import CheckpointError, DataError, SpecError, TokenizerError
from llmanac.data.documents import Document
from llmanac.data.sources import python_docs
from llmanac.data.sources._public import Entry, Name
from llmanac.generate.requests import TokenLogprob
from llmanac.retrieve.folder import FolderIndex
from llmanac.retrieve.folder.answers import FolderAssistant
from llmanac.retrieve.folder.reader import CHOICES


class Letters:
    """A tokenizer of single characters with the assistant's marks."""

    def __init__(self) -> None:
        self.special_tokens = {name: i for i, name in enumerate(SPECIAL)}

    def encode(self, text: str) -> list[int]:
        return [ord(c) + 100 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 100) if i >= 100 else SPECIAL[i] for i in ids)


class Pointing:
    """An engine that points at the sentence that a rule chooses of (question, sentences); -1 for none."""

    def __init__(self, rule, none: float = -4.0) -> None:
        self.rule, self.none, self.tokenizer = rule, none, Letters()

    def generate(self, prompts, *, max_new_tokens, allowed_ids, logprobs):
        out = []
        for ids in prompts:
            sheet, question = self.tokenizer.decode(ids).removesuffix(ASSISTANT).split(USER)
            rows = [row for _, row in re.findall(r"(<\|\d\|>)(.*?)\1", sheet)]
            place = self.rule(question, rows)
            mark = self.tokenizer.special_tokens[NONE if place < 0 else NUMBERS[place]]
            assert mark in allowed_ids
            top = {self.tokenizer.special_tokens[NONE]: self.none} if place >= 0 else {}
            out.append(SimpleNamespace(token_logprobs=[TokenLogprob(mark, -0.1, top)]))
        return out


def most_letters(question: str, rows: list[str]) -> int:
    """The sentence that shares most with the question."""
    asked = set(re.findall(r"<\|[a-z]\|>", question))
    shared = [len(asked & set(re.findall(r"<\|[a-z]\|>", row))) for row in rows]
    return shared.index(max(shared))


class Source(python_docs.Spec):
    def entries(self) -> tuple[Entry, ...]:
        return tuple(library())

    def names(self) -> tuple[Name, ...]:
        return ()


@pytest.fixture
def run(tmp_path):
    held = [Document(name, "x", name) for name in ("mod3", "mod7", "web")]
    spec = SimpleNamespace(
        data=SimpleNamespace(source=Source()), seed=3, budget_seconds=60, train=SimpleNamespace(length=512),
        finetune=SimpleNamespace(practice_share=0.1), evaluate=SimpleNamespace(questions=40),
    )  # fmt: skip
    return SimpleNamespace(spec=spec, corpus=SimpleNamespace(held_out=held), folder=tmp_path, tokenizer=Letters())


def test_documentation_is_a_folder_with_every_name(tmp_path):
    hidden = Entry("_thr.make_lock", "()", "Create a new lock object.", "_thr", "function")
    unknown = Entry("_thr.helper", "()", "Help with a lock object.", "_thr", "function")
    odd = Entry("a.b", "(c)", "First.\n# of parts\n```\n---\nplain", "a", "function")
    topic = Entry("with", "", "The with statement.", "topic with", "topic")
    names = [Name("aio.lock", "_thr.make_lock"), Name("shutil.ct", COPY.name), Name("shutil._ct", COPY.name)]
    made = documents([COPY, hidden, unknown, odd, topic], names)
    assert set(made) == {"library/shutil.md", "library/_thr.md", "library/a.md", "topics/with.md"}
    assert made["library/shutil.md"].startswith(
        "# shutil.copytree(src, dst, symlinks=False, *, follow=True) shutil.ct\n"
    )
    assert "helper" not in made["library/_thr.md"] and "_thr.make_lock() aio.lock" in made["library/_thr.md"]
    assert [name_of(title_of(e)) for e in (COPY, topic, odd)] == ["shutil.copytree", "with", "a.b"]
    collect(Source(), tmp_path)
    (tmp_path / "library" / "odd.md").write_text(made["library/a.md"])
    index = FolderIndex.update(tmp_path)
    assert {e.name for e in library()} | {"a.b"} == {name_of(p.heading) for p in index.passages()}
    assert [p.text.count("```") for p in index.passages() if p.document.endswith("odd.md")] == [1]
    assert FolderAssistant(index).answer("What does shutil.copytree do?").citations[0].title.startswith("library/shu")
    assert DocumentationAssistant(index).examples() == sorted(DocumentationAssistant(index).examples())


def test_what_question_and_sentence_share_is_a_letter(tmp_path):
    index = FolderIndex.update(collect(Source(), tmp_path))
    assistant, tokenizer = FolderAssistant(index), Letters()
    question = "Does copytree copy the <|end|> directories <|1|> of a zebra?"
    quotes = assistant.ranker.quotes(*assistant.found(question))[:CHOICES]
    rows = [row_of(quote) for quote in quotes]
    assert rows[0].startswith("copytree: Recursively copy")
    letters = letters_of(question, rows)
    assert list(letters.values()) == list(LETTERS[: len(letters)]) and "zebra" not in letters
    shown = tokenizer.decode(sheet_ids(tokenizer, rows, letters))
    assert shown.startswith("<|1|>") and "Recursively<|" in shown and shown.count("<|2|>") == 2
    asked = question_ids(tokenizer, question, letters)
    special = [SPECIAL[i] for i in asked if i < 100]
    assert special[0] == USER and special[-1] == ASSISTANT and set(special[1:-1]) == set(letters.values())
    assert "<|end|>" in tokenizer.decode(asked), "a special token spelled out in a question stays plain text"
    assert len(encoded(tokenizer, "word " * 99, {}, 20)) == 20
    tokenizer.special_tokens.pop(NUMBERS[2])
    with pytest.raises(TokenizerError, match=r"no '<\|3\|>'"):
        PointerReader(SimpleNamespace(tokenizer=tokenizer))


def test_rows_are_of_training_modules_and_carry_loss_on_answers(run):
    material = Documentation(run)
    held = {name_of(p.heading) for p in material.whole.passages()} - {
        name_of(p.heading) for p in material.practice.passages()
    }
    assert "web.fetch" in held and "shutil.copytree" not in held and len(held) == 12
    asked = material.questions(80, held_out=False)
    assert not {name_of(one.passage.heading) for one in asked} & held
    assert {name_of(one.passage.heading) for one in material.questions(80, held_out=True)} <= held
    marks, none, turns = run.tokenizer.special_tokens, 0, 0
    for ids, mask in material.rows(asked):
        assert len(ids) == len(mask) <= material.length
        inside = False
        for i, carries in zip(ids.tolist(), mask.tolist(), strict=True):
            inside = inside and i != marks[USER]
            assert carries == inside, "from the assistant's mark to the next question, and nowhere else"
            inside = inside or i == marks[ASSISTANT]
        said = ids[mask].tolist()
        assert set(said[1::2]) == {marks[END]} and set(said[::2]) <= {marks[m] for m in (*NUMBERS, NONE)}
        none, turns = none + said.count(marks[NONE]), turns + len(said) // 2
    assert turns > 200 and 0.02 < none / turns < 0.5


def test_evaluation_tells_a_reader_from_one_that_refuses(run):
    material = Documentation(run)
    asked, alone = material.questions(40, held_out=True), SimpleNamespace(
        generate=lambda prompts, **more: [SimpleNamespace(text="\nFetch a page.\nmore") for _ in prompts]
    )  # fmt: skip

    def scored(rule):
        reader = PointerReader(Pointing(rule))
        one, other = (FolderAssistant(index, reader=reader) for index in (material.whole, material.practice))
        return measured(one, other, asked, alone)

    good, refuses = scored(most_letters), scored(lambda question, rows: -1)
    best, without = good["scores"]["retrieved, read by the model"], good["scores"]["without retrieval"]
    assert best["f1"] > 0.6 and best["questions"] == 40 and without["f1"] < best["f1"]
    assert refuses["refused_answerable"] == refuses["refused_unanswerable"] == 1.0
    assert good["refused_unanswerable"] > good["refused_answerable"]
    assert all(set(e) == {"question", "answer", "expected", "citations"} for e in good["examples"])
    assert refuses["misses"] == [] and len(refuses["refusals"]) == 2
    part = report_of({"answers": good})
    assert part.sections[0].title == "Answers" and "retrieved, read by the model" in part.card


def test_caution_costs_few_right_answers(run):
    material = Documentation(run)
    reader = PointerReader(Pointing(most_letters, none=-3.0))
    assistant, asked = FolderAssistant(material.practice, reader=reader), material.questions(60, held_out=False)

    def right():
        return sum(line_of(assistant.answer(one.text)) == one.gold for one in asked)

    before = right()
    calibrate(assistant, reader, asked)
    assert reader.caution > 0 and 0.95 * before <= right() <= before
    reader.caution += 20
    assert right() == 0


def test_what_cannot_be_a_run_or_an_assistant_is_refused(run, tmp_path):
    run.spec.train.length = 100
    with pytest.raises(SpecError, match=r"train\.length"):
        Documentation(run)
    run.spec.train.length, run.corpus.held_out = 512, []
    with pytest.raises(DataError, match="too few modules"):
        Documentation(run)
    run.spec.data.source = object()
    with pytest.raises(DataError, match="python-docs"):
        Documentation(run)
    place = tmp_path / "assistant"
    place.mkdir()
    for text in ("{}", '{"format_version": 1}', '{"format_version": 2, "caution": "x"}'):
        (place / "assistant.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"assistant\.json"):
            APPLICATION.assistant(tmp_path, SimpleNamespace(model=None))
