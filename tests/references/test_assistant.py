"""The documentation assistant: what the model is shown, what it may say, what it trains on, how it is scored."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from _documented import COPY, GOOGLE, library

from llmanac.apps.docs_assistant.assistant import Assistant
from llmanac.apps.docs_assistant.evaluation import evaluate_assistant
from llmanac.apps.docs_assistant.facts import KINDS
from llmanac.apps.docs_assistant.index import DocumentationIndex
from llmanac.apps.docs_assistant.material import Material
from llmanac.apps.docs_assistant.passages import lines_of, passages_of
from llmanac.apps.docs_assistant.prompt import (
    ASSISTANT,
    END,
    LETTERS,
    MARKS,
    MOST_DEFAULTS,
    NOT_SHOWN,
    NUMBERS,
    PARAMETERS,
    SPECIAL,
    USER,
    Asked,
    Sheet,
    completion_ids,
    prompt,
    question_ids,
    split_completion,
    stated_defaults,
)
from llmanac.apps.docs_assistant.questions import REFUSAL, entry_passages
from llmanac.core.errors import CheckpointError, DataError, RequestError, TokenizerError
from llmanac.data.documents import Document
from llmanac.data.sources._docstrings import Entry
from llmanac.generate._requests import TokenLogprob


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    return library()


class Letters:
    """A tokenizer of single characters with the assistant's marks."""

    names = SPECIAL

    def __init__(self) -> None:
        self.special_tokens = {name: i for i, name in enumerate(self.names)}
        self.vocab_size = 0x2000

    def encode(self, text: str) -> list[int]:
        return [ord(c) + 100 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 100) if i >= 100 else self.names[i] for i in ids)


class Reader:
    """An engine that answers as a rule says; it sees token ids only. The rule gives a mark, or any text."""

    def __init__(self, rule, none: float = -9.0) -> None:  # type: ignore[no-untyped-def]
        self.rule, self.tokenizer, self.prompts = rule, Letters(), []
        self.none = none  # log-probability that no line answers

    def generate(self, prompts, *, max_new_tokens, allowed_ids, stop_ids, logprobs):  # type: ignore[no-untyped-def]
        out = []
        for ids in prompts:
            self.prompts.append(ids)
            sheet, question = self.tokenizer.decode(ids).removesuffix(ASSISTANT).split(USER)
            shown: list[list[tuple[str, str]]] = []
            for mark, line in re.findall(r"(<\|(?:[A-Z]|\d+)\|>) ?(.*?)\1", sheet):
                shown += [[]] if mark in LETTERS else []
                shown[-1].append((mark, line))
            said = self.rule(question, shown)
            known = said in MARKS
            ids = completion_ids(self.tokenizer, Sheet(), -1, "what", said) if known else self.tokenizer.encode(said)
            top = {self.tokenizer.special_tokens[NOT_SHOWN]: self.none}
            out.append(SimpleNamespace(token_logprobs=[TokenLogprob(int(id), -0.5, top) for id in ids]))
        return out


class Guesser:
    """A language model that always guesses the same; at times it is right."""

    def generate(self, prompts, *, max_new_tokens, stop):  # type: ignore[no-untyped-def]
        return [SimpleNamespace(text="\ndepth=3\nand more") for _ in prompts]


def oracle(question: str, shown: list[list[tuple[str, str]]]) -> str:
    """Reads as the model should: the block that is named, the line that the words ask for."""
    mine = next((block for block in shown if block[0][0] in question), None)
    if mine is None:
        return NOT_SHOWN
    words = {"returns": r"return|result|output|back|get from", "raises": r"rais|error|exception|throw|wrong|catch|fail"}
    for kind, asked in words.items():
        if re.search(asked, question, re.I):
            return next((mark for mark, line in mine[1:] if re.match(kind[:-1], line, re.I)), NOT_SHOWN)
    return next((mark for mark, line in mine[1:] if "=" not in line), NOT_SHOWN)


def assistant(entries: list[Entry], rule=oracle, **choices) -> Assistant:  # type: ignore[no-untyped-def]
    index = DocumentationIndex(entry_passages(entries))
    index.threshold = 0.4
    return Assistant(Reader(rule), index, Letters(), prompt_tokens=choices.pop("prompt_tokens", 4000), **choices)


def test_answer_is_read_cited_and_refused(entries: list[Entry]) -> None:
    helper = assistant(entries)
    answer = helper.answer("what does copytree do")
    assert answer.text == lines_of(COPY.doc)[0]
    assert len(answer.citations) == 1
    assert answer.citations[0].title.startswith("shutil.copytree(")
    assert answer.text in answer.citations[0].text
    assert not answer.refused
    assert helper.answer("What does os.nap raise?").refused
    before = len(helper.engine.prompts)
    refused = helper.answer("Who won the cup in 1998?")
    assert refused.refused
    assert refused.text == REFUSAL
    assert refused.citations == ()
    assert len(helper.engine.prompts) == before, "what nothing is found for never reaches the model"
    with pytest.raises(DataError, match="question 2 is blank"):
        helper.answers(["What does len do?", " "])
    for ask in (helper.answer, lambda text: helper.prompt([{"role": "user", "content": text}])):
        with pytest.raises(RequestError, match="at most 4,000 are looked up"):
            ask("What does copytree do? " * 1000)


def test_answer_is_the_line_pointed_at_and_nothing_else(entries: list[Entry]) -> None:
    last = assistant(entries, rule=lambda q, shown: shown[-1][-1][0])
    question = "open the socket of a graph"
    shown = last.index.find(question).passages
    answer = last.answer(question)
    assert answer.line == last.index.passages[shown[-1]].lines[-1]
    assert len(answer.citations) == 3, "an entry that no name asks for comes with the next best"
    assert answer.citations[0].title == last.index.passages[shown[-1]].title
    summary = next(p.lines for p in last.index.passages if p.name == COPY.name)
    for nowhere in (NUMBERS[-1], LETTERS[-1], NOT_SHOWN, "made up", ""):
        helper = assistant(entries, rule=lambda q, shown, said=nowhere: said)
        assert set(helper.answer("copytree").text.split("\n")) <= set(summary), "nothing is ever made up"
        assert helper.answer("which version of copytree").refused


def test_marks_lead_to_their_lines_and_back() -> None:
    passages = [*passages_of(GOOGLE, 0), *passages_of(COPY, 1)]
    sheet = Sheet.of(passages)
    assert [block.entry for block in sheet.blocks] == [0, 1]
    marked = list(sheet.marked())
    assert [mark for mark, _, _ in marked] == ["<|A|>", *NUMBERS[:8], "<|B|>", *NUMBERS[8:13]]
    for mark, block, line in marked:
        assert sheet.read(mark) == (block, line)
        assert sheet.mark(block.entry, line) == mark
    assert sheet.blocks[1].lines[:2] == ("symlinks=False", "follow=True"), "defaults are lines of their own"
    assert sheet.mark(1, "follow=True") == "<|10|>"
    assert sheet.mark(1, "nowhere") is None
    assert (sheet.letter(1), sheet.letter(7)) == ("<|B|>", None)
    assert sheet.read("<|C|>") is None
    assert Sheet.of(passages[::-1]).blocks[0].lines == sheet.blocks[1].lines, "a block keeps its own order"


def test_defaults_are_read_from_a_signature() -> None:
    assert stated_defaults("f(a, *, b=1, c='x')") == ("b=1", "c='x'")
    for none in ("f", "f(a, b)", "f(a, ...", "f([a[, b]])", "topic with"):
        assert stated_defaults(none) == ()
    assert len(stated_defaults(f"f({', '.join(f'a{i}={i}' for i in range(20))})")) == MOST_DEFAULTS


def test_names_and_parameters_are_letters() -> None:
    tokenizer = Letters()
    sheet = Sheet.of([*passages_of(GOOGLE, 0), *passages_of(COPY, 1)])
    shown = tokenizer.decode(sheet.ids(tokenizer))
    assert "<|A|> web.fetch(<|a|>,<|b|>=30)<|A|><|1|><|b|>=30<|b|><|1|>" in shown
    assert "<|a|>: Where the page is" in shown
    assert "If the `<|e|>` flag is true, links stay links.<|e|><|12|>" in shown, "it speaks of one parameter"

    def asked(before: str, after: str, entry: int = 0) -> str:
        name = ("web.fetch", "shutil.copytree")[entry]
        text = tokenizer.decode(question_ids(tokenizer, Asked(before, name, after, entry), sheet))
        return text.removeprefix(USER).removesuffix(ASSISTANT)

    assert asked("What is url in ", "?") == " What is<|a|> in<|A|>?"
    assert asked("What is `timeout` of ", " by default") == " What is<|b|> of<|A|> by default"
    assert asked("", " url") == "<|A|><|a|>"
    assert asked("the src of ", "", 1) == " the<|c|> of<|B|>"
    assert asked("What is src in ", "?") == " What is src in<|A|>?", "not a parameter of this name"
    assert asked("Does the urls of ", " matter") == " Does the urls of<|A|> matter"


def test_a_parameter_with_a_common_name_must_be_set_off() -> None:
    tokenizer = Letters()
    f = Entry("m.f", "(value, x=1)", "Do it.\n\nvalue -- what to do", "m", "function")
    sheet = Sheet.of(list(passages_of(f, 0)))

    def asked(before: str, after: str = "?") -> str:
        return tokenizer.decode(question_ids(tokenizer, Asked(before, "m.f", after, 0), sheet))

    assert "<|a|>" not in asked("What is the return value of ")
    for said in ("What is `value` in ", "What is the parameter value of ", "Explain the value argument of "):
        assert "<|a|>" in asked(said)
    assert "<|b|>" not in asked("x y of "), "a single letter may be any word"
    assert "<|b|>" in asked("What is the default of the argument x in ")


def test_what_the_model_said_is_taken_apart() -> None:
    tokenizer = Letters()
    sheet = Sheet.of([*passages_of(GOOGLE, 0), *passages_of(COPY, 1)])
    for query, entry, mark in (("what", 0, "<|A|>"), ("parameter timeout", 0, "<|12|>"), ("default dst", 1, NOT_SHOWN)):
        ids = completion_ids(tokenizer, sheet, entry, query, mark)
        assert all(i < 100 for i in ids), "marks and letters, no spelling"
        assert split_completion(tokenizer, ids, sheet) == (query, mark)
        assert split_completion(tokenizer, ids[:-1], sheet) == (query, mark)
        assert split_completion(tokenizer, [*ids, *ids], sheet) == (query, mark)
    assert completion_ids(tokenizer, sheet, 0, "default unheard", None) == completion_ids(
        tokenizer, sheet, 0, "default", NOT_SHOWN
    )
    assert split_completion(tokenizer, tokenizer.encode("said <|A|> in text"), sheet) == ("", None)
    assert split_completion(tokenizer, [], sheet) == ("", None)


def test_prompt_fits_its_limit_and_holds_special_tokens_only_where_it_should() -> None:
    tokenizer = Letters()
    sheet = Sheet.of([*passages_of(GOOGLE, 0), *passages_of(COPY, 1)])
    question = Asked("What does <|end|> ", "web.fetch", " <|A|> do?", 0)
    whole, shown = prompt(tokenizer, question, sheet, limit=10_000)
    special = tokenizer.special_tokens
    assert shown == sheet
    assert tokenizer.decode(whole).count(" web.fetch") == 1, "in the question, the name is its block's letter"
    asked = question_ids(tokenizer, question, sheet)
    assert [i for i in asked if i < 100] == [special[USER], special["<|A|>"], special[ASSISTANT]]
    assert tokenizer.decode(asked) == f"{USER} What does <|end|><|A|> <|A|> do?{ASSISTANT}"
    assert "<|end|> web.fetch <|A|> do?" in tokenizer.decode(question_ids(tokenizer, question, Sheet()))
    marks = [mark for mark, _, _ in sheet.marked() for _ in range(2)]
    outer = [i for i in whole if Letters.names[i : i + 1] and Letters.names[i] not in PARAMETERS]
    assert outer == [*(special[m] for m in marks), *(i for i in asked if i < 100)]
    for limit in (900, 500, 300, 120):
        ids, shown = prompt(tokenizer, question, sheet, limit=limit)
        assert len(ids) <= limit
        assert ids[-1] == special[ASSISTANT]
        text = tokenizer.decode(ids)
        assert all(text.count(mark) >= 2 for mark, _, _ in shown.marked())
        assert all(block.lines == sheet.blocks[i].lines[: len(block.lines)] for i, block in enumerate(shown.blocks))
    tokenizer.special_tokens.pop("<|7|>")
    with pytest.raises(TokenizerError, match=r"no '<\|7\|>'"):
        Assistant(Reader(oracle), DocumentationIndex(list(passages_of(COPY, 0))), tokenizer)


def test_lines_without_a_number_are_not_shown() -> None:
    many = Entry("m.f", "(x)", "\n\n".join(f"Line {i} of many." for i in range(90)), "m", "function")
    sheet = Sheet.of(list(passages_of(many, 0)))
    assert len(sheet.blocks[0].lines) > len(NUMBERS)
    shown = sheet.fitted(Letters(), 100_000)
    assert [mark for mark, _, _ in shown.marked()] == ["<|A|>", *NUMBERS]
    assert len(shown.blocks[0].lines) == len(NUMBERS)


def test_saved_assistant_answers_the_same(tmp_path: Path, entries: list[Entry]) -> None:
    helper = assistant(entries)
    helper.save(tmp_path)
    back = Assistant.load(tmp_path, Reader(oracle), Letters())
    for question in ("what does copytree return", "Who won the cup?", "send data to a page"):
        assert back.answer(question) == helper.answer(question)
    assert back.index.threshold == 0.4
    (tmp_path / "assistant.json").unlink()
    with pytest.raises(CheckpointError, match=r"assistant\.json"):
        Assistant.load(tmp_path, Reader(oracle), Letters())


def test_caution_refuses_what_the_model_answers_without_being_sure(material: Material, tmp_path: Path) -> None:
    class Doubtful(Reader):
        """Always points at a line, and is less sure of it where none answers."""

        def generate(self, prompts, **given):  # type: ignore[no-untyped-def]
            said = []
            for ids in prompts:
                self.rule = oracle
                (one,) = super().generate([ids], **given)
                none = {self.tokenizer.special_tokens[NOT_SHOWN]} & {token.id for token in one.token_logprobs}
                if none:
                    self.none, self.rule = -1.5, lambda q, shown: shown[0][-1][0]
                else:
                    self.none = -9.0
                said += super().generate([ids], **given)
            return said

    maker = material.maker(held_out=False, salt=4)
    asked, vain = maker.examination(70), [pair.question for pair in maker.unanswerable(70)]
    helper = Assistant(Doubtful(oracle), material.practice, Letters(), prompt_tokens=4000)

    def measured() -> tuple[float, float]:
        right = [a.line == p.answer for a, p in zip(helper.answers([p.question for p in asked]), asked, strict=True)]
        return sum(right) / 70, sum(a.refused for a in helper.answers(vain)) / 70

    before = measured()
    helper.calibrate(asked)
    after = measured()
    assert helper.caution > 1.0 and after[1] > before[1] + 0.05 and after[0] >= before[0]
    helper.save(tmp_path)
    assert Assistant.load(tmp_path, Reader(oracle), Letters()).caution == helper.caution


@pytest.fixture(scope="module")
def material(entries: list[Entry]) -> Material:
    class Source:
        def entries(self) -> list[Entry]:
            return entries

    held = {"mod3", "mod7", "web", "shutil"}
    corpus = SimpleNamespace(held_out=[Document(g, "x", g) for g in held])
    return Material.collect(Source(), corpus, seed=3)  # type: ignore[arg-type]


def test_training_rows_never_show_held_out_modules_or_forms(material: Material) -> None:
    held = {material.entries[i].name for i in material.held_out}
    assert "shutil.copytree" in held
    refused = 0
    asked = 0
    order = {"first": 0, "other": 0}
    for passages, turns in material.examples(600):
        assert not {p.name for p in passages} & held
        said = [(entry, query) for _, entry, query, answer in turns if answer != REFUSAL]
        assert not passages or len(set(said)) == len(said), "no answer can be copied from an earlier one"
        for question, entry, _, answer in turns:
            asked += 1
            assert not any(n in question.text for n in held)
            assert entry not in material.held_out
            if answer == REFUSAL:
                refused += bool(passages)
                continue
            assert not passages or any(answer in p.text for p in passages), (
                "what carries loss can be read in the prompt"
            )
            assert not passages or any(p.entry == entry for p in passages)
        if len(passages) == 3 and turns[0][3] != REFUSAL:
            order["first" if turns[0][3] in passages[0].text else "other"] += 1
    assert asked > 1200
    assert 0.1 < refused / asked < 0.35
    assert order["other"] > 0.1 * order["first"], "the best passage does not always stand first"


def test_rows_carry_loss_on_the_answer_and_its_end(material: Material) -> None:
    tokenizer = Letters()
    for ids, mask in material.rows(tokenizer, 50, limit=3000):
        marks = tokenizer.special_tokens
        assert len(ids) == len(mask)
        inside = False
        for i, carries in zip(ids.tolist(), mask.tolist(), strict=True):
            inside = inside and i != marks[USER]
            assert carries == inside, "from the assistant's mark to the next question, and nowhere else"
            inside = inside or i == marks[ASSISTANT]
        assert (ids[-1] == marks[END]) == (ids[0] == marks["<|A|>"]), (
            "where nothing is shown, only what is asked is said"
        )
    short = [len(ids) for ids, _ in material.rows(tokenizer, 50, limit=900, length=1000)]
    assert max(short) <= 1000, "further questions end where the row is full"


def test_evaluation_tells_a_reader_from_a_rule(material: Material) -> None:
    def run(rule) -> dict:  # type: ignore[no-untyped-def, type-arg]
        helper = Assistant(Reader(rule), material.index, Letters(), prompt_tokens=4000)
        return evaluate_assistant(helper, material, alone=Guesser(), questions=70)

    good, refuses = run(oracle), run(lambda q, shown: NOT_SHOWN)
    first = run(lambda q, shown: shown[0][-1][0] if shown else "none")
    assert good["kinds"]["raises"]["f1"] > 0.9
    assert good["kinds"]["returns"]["f1"] > 0.9
    assert good["scores"]["retrieved, with near misses"]["f1"] > good["scores"]["first-sentence rule"]["f1"]
    assert good["scores"]["without retrieval"]["f1"] < good["scores"]["retrieved, with near misses"]["f1"]
    assert good["scores"]["without retrieval"]["exact"] > 0, "a guess can be right"
    assert refuses["refused_answerable"] > 0.3, "words that training never shows are looked for in any case"
    assert refuses["refused_unanswerable"] > good["refused_unanswerable"]
    assert refuses["scores"]["right passage among near misses"]["exact"] == 0.0
    assert first["refused"]["not stated"] < refuses["refused"]["not stated"]
    assert good["refused"]["not stated"] > 0.15
    assert set(good["kinds"]) == set(KINDS)
    assert {e["question"] for e in good["examples"]}
    assert all(set(e) == {"question", "answer", "expected", "citations"} for e in good["examples"])
