"""Questions about documentation: true answers, forms that never meet, retrieval that finds, refusals where due."""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmanac.core.errors import CheckpointError, DataError, TokenizerError
from llmanac.data.documents import Document
from llmanac.data.sources._docstrings import Entry
from llmanac.recipes.assistant import Assistant, without_loop
from llmanac.recipes.questions import REFUSAL, QuestionMaker, entry_passages
from llmanac.recipes.quickstart_evaluation import evaluate_assistant
from llmanac.recipes.quickstart_facts import KINDS, facts_of, not_stated, parameters, wish_of
from llmanac.recipes.quickstart_forms import FORMS, HELD_OUT, OFF_TOPIC, OPENERS, TRAINING, every, expand, plain
from llmanac.recipes.quickstart_index import DocumentationIndex
from llmanac.recipes.quickstart_material import Material
from llmanac.recipes.quickstart_passages import lines_of, passages_of, sentences
from llmanac.recipes.quickstart_prompt import Asked, Sheet, completion, prompt, split_completion


def entry(name: str, signature: str, doc: str, kind: str = "function") -> Entry:
    return Entry(name, signature, doc, name.rpartition(".")[0] or "builtins", kind)  # type: ignore[arg-type]


COPY = entry(
    "shutil.copytree",
    "(src, dst, symlinks=False, *, follow=True)",
    "Recursively copy a directory tree and return\nthe destination directory.\n\nIf the `symlinks` flag is true, links "
    "stay links.\nRaises Error when a file cannot be copied.\n\n>>> copytree('a', 'b')\n'b'",
)
GOOGLE = entry(
    "web.fetch",
    "(url, timeout=30)",
    "Fetch a page.\n\nArgs:\n  url: Where the page is,\n      as text.\n  timeout: Seconds to wait.\n\nReturns:\n  "
    "The body of the page.\n\nRaises:\n  OSError: the host is down.\n  ValueError: the url is wrong.\n\n"
    "It caches nothing.",
)
REST = entry(
    "web.post",
    "(url, data)",
    "Send data to a page.\n\n:param url: Where to send it.\n:returns: The status code.\n:raises OSError: on failure.",
)
NUMPY = entry(
    "num.scale",
    "(x, by)",
    "Scale numbers.\n\nParameters\n----------\nx : array\n    The numbers.\nby : float\n    The factor.\n\n"
    "Returns\n-------\narray\n    The scaled numbers.",
)
SILENT = entry("os.nap", "(seconds)", "Sleep for a while.")
LEN = entry("len", "(obj, /)", "Return the number of items in a container.")
ENTRIES = [COPY, GOOGLE, REST, NUMPY, SILENT, LEN]


def facts(e: Entry) -> dict[tuple[str, str], str]:
    return {(f.kind, f.subject): f.answer for f in facts_of(e, 0, list(passages_of(e, 0)))}


def test_prose_becomes_one_statement_a_line_and_examples_go() -> None:
    assert lines_of(COPY.doc) == [
        "Recursively copy a directory tree and return the destination directory.",
        "If the `symlinks` flag is true, links stay links.",
        "Raises Error when a file cannot be copied.",
    ]
    assert sentences("See e.g. os.walk. It works. Mr. X said: 3.5 is ok.") == [
        "See e.g. os.walk.",
        "It works.",
        "Mr. X said: 3.5 is ok.",
    ]


def test_every_docstring_style_gives_the_same_form() -> None:
    assert lines_of(GOOGLE.doc) == [
        "Fetch a page.",
        "url: Where the page is, as text.",
        "timeout: Seconds to wait.",
        "Returns: The body of the page.",
        "Raises OSError: the host is down.",
        "Raises ValueError: the url is wrong.",
        "It caches nothing.",
    ]
    assert lines_of(REST.doc) == [
        "Send data to a page.",
        "url: Where to send it.",
        "Returns: The status code.",
        "Raises OSError: on failure.",
    ]
    assert lines_of(NUMPY.doc)[:3] == ["Scale numbers.", "x: The numbers.", "by: The factor."]
    assert any("The scaled numbers." in line for line in lines_of(NUMPY.doc))


def test_facts_are_what_the_documentation_states() -> None:
    found = facts(COPY)
    assert found["what", ""] == found["returns", ""] == lines_of(COPY.doc)[0]
    assert found["raises", ""] == "Raises Error when a file cannot be copied."
    assert found["arguments", ""] == "shutil.copytree(src, dst, symlinks=False, *, follow=True)"
    assert found["default", "symlinks"] == "symlinks=False"
    assert found["default", "follow"] == "follow=True"
    assert found["parameter", "symlinks"] == "If the `symlinks` flag is true, links stay links."
    assert (
        found["which", "recursively copy a directory tree and return the destination directory"]
        == found["arguments", ""]
    )
    assert facts(GOOGLE)["parameter", "timeout"] == "timeout: Seconds to wait."
    assert facts(REST)["returns", ""] == "Returns: The status code."
    assert parameters("(a, /, b=(1, 2), *c, d=None, e, **f) -> int") == {
        "a": None,
        "b": "(1, 2)",
        "d": "None",
        "e": None,
    }
    assert parameters("([iterable[, maxlen]])") == {}
    assert wish_of("Returns the name of a file.") == "return the name of a file"
    assert wish_of("The name of a file, as it stands.") == ""


def test_what_is_left_open_is_never_stated() -> None:
    passages = list(passages_of(SILENT, 0))
    open_ = not_stated(SILENT, passages, list(facts_of(SILENT, 0, passages)))
    assert ("raises", "") in open_
    assert ("returns", "") in open_
    assert ("default", "seconds") in open_
    passages = list(passages_of(COPY, 0))
    kinds = {kind for kind, _ in not_stated(COPY, passages, list(facts_of(COPY, 0, passages)))}
    assert not {"raises", "returns"} & kinds


def test_forms_for_evaluation_never_occur_in_training() -> None:
    for kind in KINDS:
        training = {plain(form) for pattern in TRAINING[kind] for form in every(pattern)}
        held = {plain(form) for pattern in HELD_OUT[kind] for form in every(pattern)}
        assert len(training) >= 15, kind
        assert len(held) >= 8, kind
        assert not training & held, kind
        assert all("{" in form for form in training | held)
    off = [{plain(form) for pattern in OFF_TOPIC[side] for form in every(pattern)} for side in ("training", "held_out")]
    assert not off[0] & off[1]
    assert not set(OPENERS["training"]) & set(OPENERS["held_out"])
    rng = random.Random(0)
    assert {expand("a (b|c) d", rng) for _ in range(50)} == set(every("a (b|c) d")) == {"a b d", "a c d"}


@pytest.fixture(scope="module")
def entries() -> list[Entry]:
    """A made-up library, large enough to rank in."""
    rng = random.Random(5)
    verbs = ["open", "close", "merge", "split", "count", "sort", "read", "write", "send", "parse", "copy", "check"]
    things = [
        "socket",
        "table",
        "window",
        "packet",
        "header",
        "matrix",
        "archive",
        "colour",
        "signal",
        "queue",
        "cursor",
        "graph",
    ]
    out = list(ENTRIES)
    for m in range(24):
        for verb in rng.sample(verbs, 5):
            thing, other = rng.sample(things, 2)
            doc = f"{verb.title()} the {thing} of a {other} number {m}.\n\n"
            doc += f"Returns the {thing} that was {verb}ed in module {m}."
            if rng.random() < 0.5:
                doc += f"\n\nRaises {thing.title()}Error if the {other} is missing from module {m}."
            out.append(
                Entry(f"mod{m}.{verb}_{thing}", f"({thing}, {other}=None, depth={m})", doc, f"mod{m}", "function")
            )
    return list({e.name: e for e in out}.values())


def test_pairs_answer_truly_and_are_balanced(entries: list[Entry]) -> None:
    maker = QuestionMaker(entries, range(len(entries)), "training", seed=1)
    pairs = maker.answerable(700)
    assert Counter(p.sort for p in pairs) == dict.fromkeys(maker.kinds, 100)
    for pair in pairs:
        text = "\n".join(p.text for p in passages_of(entries[pair.entry], 0))
        assert pair.answer in text
        assert pair.answerable
        if pair.sort == "default":
            subject, _, value = pair.answer.partition("=")
            assert subject in pair.question
            assert parameters(entries[pair.entry].signature)[subject] == value
        elif pair.sort != "which":
            assert entries[pair.entry].name.rpartition(".")[2] in pair.question
    assert len({p.question for p in pairs}) > 600, "questions hardly repeat"
    again = QuestionMaker(entries, range(len(entries)), "training", seed=1).answerable(700)
    assert again == pairs
    assert QuestionMaker(entries, range(len(entries)), "training", seed=2).answerable(700) != pairs


def test_unanswerable_questions_have_no_answer(entries: list[Entry]) -> None:
    maker = QuestionMaker(entries, range(len(entries)), "training", seed=1)
    names = {e.name for e in entries}
    pairs = maker.unanswerable(300)
    assert Counter(p.sort for p in pairs) == {"unknown name": 100, "not stated": 100, "off topic": 100}
    for pair in pairs:
        assert pair.answer == REFUSAL
        if pair.sort == "unknown name":
            said = set(re.findall(r"[\w.]+\w", pair.question))
            assert not said & {n for n in names if "." in n}
        if pair.sort == "not stated" and pair.asks == "raises":
            assert not re.search("rais|error", entries[pair.entry].doc, re.I)


def test_names_are_found_however_they_are_written(entries: list[Entry]) -> None:
    index = DocumentationIndex(entry_passages(entries))
    for question in (
        "What does shutil.copytree return?",
        "what does COPYTREE do",
        "copytree()",
        "explain `copytree` to me",
        "the copytree function in shutil",
        "What is symlinks in shutil.copytree?",
        "Tell me about shutil.copytree.",
    ):
        found = index.find(question)
        assert entries[found.entry].name == "shutil.copytree", question
        assert "shutil.copytree" in found.asked.text
        assert index.passages[found.passages[0]].entry == found.entry
        assert found.coverage == 1.0
    assert entries[index.find("What does len do?").entry].name == "len"
    assert index.find("what is the length of a river").entry == -1
    assert index.find("What does shutil.copyall return?").coverage == 0.0
    assert index.find("who won the match").entry == -1


def test_words_find_what_has_no_name(entries: list[Entry]) -> None:
    index = DocumentationIndex(entry_passages(entries))
    found = index.find("how do I recursively copy a whole directory tree?")
    assert entries[index.passages[found.passages[0]].entry].name == "shutil.copytree"
    assert found.entry == -1


def test_associations_lead_to_the_passage_that_answers() -> None:
    filler = "\n\n".join(f"Statement {i} about nothing in particular that fills the page." for i in range(30))
    long = entry(
        "big.load", "(path)", f"Load a page.\n\n{filler}\n\nRaises OSError {'where ' * 30}it is full.\n\n{filler}"
    )
    rest = [
        entry(f"m.f{i}", "(q)", f"Do the thing of number {i} at once.\n\nRaises ValueError on day {i}.")
        for i in range(60)
    ]
    all_ = [long, *rest]
    index = DocumentationIndex(entry_passages(all_))
    maker = QuestionMaker(all_, range(1, len(all_)), "training")

    def shows(question: str) -> bool:
        return any("OSError" in index.passages[n].text for n in index.find(question).passages)

    assert not shows("What can go wrong with big.load?")
    index.associate((p.question, p.answer) for p in maker.answerable(2000))
    assert shows("What can go wrong with big.load?")
    assert shows("Can big.load throw an error?")


def test_threshold_comes_from_the_questions_given(entries: list[Entry]) -> None:
    index = DocumentationIndex(entry_passages(entries))
    maker = QuestionMaker(entries, range(len(entries)), "training")
    wishes = [p.question for p in maker.answerable(100, weights=dict.fromkeys(KINDS, 0.0) | {"which": 1.0})]
    index.calibrate(wishes, [p.question for p in maker.unanswerable(200, ["unknown name", "off topic"])])
    assert 0 < index.threshold <= 1
    strange = [
        p.question for p in QuestionMaker(entries, range(len(entries)), "held_out").unanswerable(100, ["off topic"])
    ]
    assert np.mean([index.find(q).coverage < index.threshold for q in strange]) > 0.8
    assert np.mean([index.find(q).coverage < index.threshold for q in wishes]) < 0.1


class Letters:
    """A tokenizer of single characters with the assistant's marks."""

    marks = ("<|doc|>", "<|user|>", "<|assistant|>", "<|end|>")

    def __init__(self) -> None:
        self.special_tokens = {mark: i for i, mark in enumerate(self.marks)}
        self.vocab_size = 0x2000

    def encode(self, text: str) -> list[int]:
        return [ord(c) + 10 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 10) for i in ids if i >= 10)


class Reader:
    """An engine that answers as a rule says; it sees token ids only. Without a mark the rule says all of the answer."""

    def __init__(self, rule) -> None:  # type: ignore[no-untyped-def]
        self.rule, self.tokenizer, self.prompts = rule, Letters(), []

    def generate(self, prompts, *, max_new_tokens, stop_ids):  # type: ignore[no-untyped-def]
        out = []
        for ids in prompts:
            self.prompts.append(ids)
            text = "".join(Letters.marks[i] if i < 4 else chr(i - 10) for i in ids)
            docs, question = text.split("<|user|>")
            shown = [[line.partition(" ") for line in d.strip().split("\n")] for d in docs.split("<|doc|>")[1:]]
            blocks = [[(mark, rest.removesuffix(f"|{mark}")) for mark, _, rest in block] for block in shown]
            said = self.rule(question.removesuffix("<|assistant|>"), blocks)
            out.append(SimpleNamespace(ids=[*self.tokenizer.encode(said), self.tokenizer.special_tokens["<|end|>"]]))
        return out


def oracle(question: str, shown: list[list[tuple[str, str]]]) -> str:
    """Reads as the model should: the block that is named, the line that the words ask for."""
    mine = next((block for block in shown if f"|{block[0][0][0]}|" in question), None)
    if mine is None:
        return completion("what", "?")
    words = {"returns": r"return|result|output|back|get from", "raises": r"rais|error|exception|throw|wrong|catch|fail"}
    for kind, asked in words.items():
        if re.search(asked, question, re.I):
            found = next((completion(kind, mark, line) for mark, line in mine[1:] if kind[:-1] in line.lower()), None)
            return found or completion(kind, mine[0][0][0] + "?")
    return completion("what", *mine[1]) if len(mine) > 1 else completion("what", "?")


def assistant(entries: list[Entry], rule=oracle, **choices) -> Assistant:  # type: ignore[no-untyped-def]
    index = DocumentationIndex(entry_passages(entries))
    index.threshold = 0.4
    return Assistant(Reader(rule), index, Letters(), prompt_tokens=choices.pop("prompt_tokens", 4000), **choices)


def test_answer_is_read_cited_and_refused(entries: list[Entry]) -> None:
    helper = assistant(entries)
    answer = helper.answer("what does copytree return")
    assert answer.text == lines_of(COPY.doc)[0]
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


def test_loops_are_cut(entries: list[Entry]) -> None:
    helper = assistant(entries, rule=lambda q, shown: "It is this. " * 30)
    assert helper.answer("What does len do?").text == "It is this."
    assert without_loop([1, 2, 3, 2, 3, 2, 3, 2]) == [1, 2, 3, 2]
    assert without_loop([5, 5, 5, 5]) == [5]
    for fine in ([], [1], [1, 1], [1, 2, 1, 2], [7, 8, 9, 7, 8, 9, 4]):
        assert without_loop(fine) == fine


def test_citation_is_the_block_of_the_line_that_the_model_names(entries: list[Entry]) -> None:
    cited = assistant(entries, rule=lambda q, shown: f" what|{shown[-1][0][0]} said in other words")
    question = "open the socket of a graph"
    shown = cited.index.find(question).passages
    answer = cited.answer(question)
    assert answer.text == "said in other words"
    assert (
        [c.title for c in answer.citations]
        == [cited.index.passages[shown[-1]].title]
        != [cited.index.passages[shown[0]].title]
    )
    for wrong in (" what x|Z9 said", "|A99 said", "said"):
        answer = assistant(entries, rule=lambda q, shown, wrong=wrong: wrong).answer("copytree")
        assert answer.text == "said"
        assert answer.citations == ()


def test_marks_lead_to_their_lines_and_back() -> None:
    passages = [*passages_of(GOOGLE, 0), *passages_of(COPY, 1)]
    sheet = Sheet.of(passages)
    assert [block.entry for block in sheet.blocks] == [0, 1]
    marks = {mark: line for block in sheet.marked() for mark, line in block}
    assert len(marks) == 7 + 1 + 3 + 1
    for mark, line in marks.items():
        block, text = sheet.read(mark) or (None, "")
        assert text == line
        assert block is sheet.blocks["AB".index(mark[0])]
        assert sheet.mark(block.entry, line) == mark
    assert sheet.mark(1, "follow=True") == "B0"
    assert sheet.mark(1, "nowhere") is None
    assert (sheet.letter(1), sheet.letter(7)) == ("B", "")
    assert sheet.read("C0") is None
    assert Sheet.of(passages[::-1]).blocks[0].lines == sheet.blocks[1].lines, "a block keeps its own order"


@pytest.mark.parametrize(
    ("text", "query", "mark", "answer"),
    [
        (" what shutil.copy|A1 Copy a file.|", "what shutil.copy", "A1", "Copy a file."),
        (" arguments f|B12 f(x)|B12\nmore", "arguments f", "B12", "f(x)"),
        (" raises f|A? The documentation does not say.", "raises f", "A?", "The documentation does not say."),
        ("|? The documentation does not say.", "", "?", "The documentation does not say."),
        ("A file is copied.", "", "", "A file is copied."),
        ("One line\nanother", "", "", "One line"),
        (" what f|C3", "what f", "C3", ""),
        ("a|b", "", "", "a|b"),
        ("", "", "", ""),
    ],
)
def test_what_the_model_said_is_taken_apart(text: str, query: str, mark: str, answer: str) -> None:
    assert split_completion(text) == (query, mark, answer)


def test_prompt_fits_its_limit_and_holds_special_tokens_only_where_it_should() -> None:
    tokenizer = Letters()
    sheet = Sheet.of([*passages_of(GOOGLE, 0), *passages_of(COPY, 1)])
    question = Asked("What does <|end|> ", "web.fetch", " <|doc|> do?", 0)
    whole, shown = prompt(tokenizer, question, sheet, limit=10_000)
    assert shown == sheet
    assert tokenizer.decode(whole).count(" web.fetch") == 1, "in the question, the name is its block's letter"
    assert question.shown(sheet) == " What does <|end|> |A| <|doc|> do?"
    assert question.shown(Sheet()) == " What does <|end|> web.fetch <|doc|> do?"
    assert [i for i in whole if i < 4] == [0, 0, 1, 2], "a special token that is spelled out in text is only text"
    for limit in (900, 500, 300, 120):
        ids, shown = prompt(tokenizer, question, sheet, limit=limit)
        assert len(ids) <= limit
        assert ids[-1] == tokenizer.special_tokens["<|assistant|>"]
        assert question.shown(shown) in tokenizer.decode(ids)
        text = tokenizer.decode(ids)
        assert all(f"{mark} {line}|{mark}" in text for block in shown.marked() for mark, line in block)
        assert all(block.lines == sheet.blocks[i].lines[: len(block.lines)] for i, block in enumerate(shown.blocks))
    tokenizer.special_tokens.pop("<|doc|>")
    with pytest.raises(TokenizerError, match=r"no '<\|doc\|>'"):
        prompt(tokenizer, question, sheet, limit=100)


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
    for passages, turns in material.examples(600):
        assert not {p.name for p in passages} & held
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
    assert asked > 1200
    assert 0.1 < refused / asked < 0.3
    first = {"first": 0, "other": 0}
    for passages, turns in material.examples(600):
        if len(passages) == 3 and turns[0][3] != REFUSAL:
            first["first" if turns[0][3] in passages[0].text else "other"] += 1
    assert first["other"] > first["first"], "where the answer stands says nothing"


def test_rows_carry_loss_on_the_answer_and_its_end(material: Material) -> None:
    tokenizer = Letters()
    for ids, mask in material.rows(tokenizer, 50, limit=3000):
        marks = tokenizer.special_tokens
        assert len(ids) == len(mask)
        inside = False
        for i, carries in zip(ids.tolist(), mask.tolist(), strict=True):
            assert carries == inside, "from the assistant's mark to the end mark, and nowhere else"
            inside = (inside or i == marks["<|assistant|>"]) and i != marks["<|end|>"]
        assert not inside
    short = [len(ids) for ids, _ in material.rows(tokenizer, 50, limit=900, length=1000)]
    assert max(short) <= 1000 + 400, "only a row's first answer may pass the length"


def test_evaluation_tells_a_reader_from_a_rule(material: Material) -> None:
    def run(rule) -> dict:  # type: ignore[no-untyped-def, type-arg]
        helper = Assistant(Reader(rule), material.index, Letters(), prompt_tokens=4000)
        return evaluate_assistant(helper, material, questions=70)

    good, refuses = run(oracle), run(lambda q, shown: completion("what", "?"))
    first = run(lambda q, shown: completion("what", *shown[0][1]) if shown and len(shown[0]) > 1 else "none")
    assert good["kinds"]["raises"]["f1"] > 0.9
    assert good["kinds"]["returns"]["f1"] > 0.9
    assert good["scores"]["retrieved, with near misses"]["f1"] > good["scores"]["first-sentence rule"]["f1"]
    assert good["scores"]["without retrieval"]["f1"] < 0.2
    assert refuses["refused_answerable"] == refuses["refused_unanswerable"] == 1.0
    assert refuses["scores"]["retrieved, with near misses"]["exact"] == 0.0
    assert first["refused"]["not stated"] == 0.0
    assert good["refused"]["not stated"] > 0.15
    assert set(good["kinds"]) == set(KINDS)
    assert {e["question"] for e in good["examples"]}
    assert all(set(e) == {"question", "answer", "expected", "citations"} for e in good["examples"])


def test_forms_table_is_plain_data() -> None:
    assert ast.literal_eval(repr({k: list(v) for k, v in FORMS["training"].items()})).keys() == set(KINDS)
