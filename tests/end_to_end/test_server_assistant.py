"""The server with an assistant: its answers, what they cite, and its failures, through the `openai` client."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import openai
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running
from _small_models import transformer

from llmanac.cli import main
from llmanac.core.errors import RequestError
from llmanac.generate.engine import Engine
from llmanac.retrieve.folder.answers import REFUSAL
from llmanac.tokenizers.load import train_tokenizer

NEAREST = [{"name": "time.sleep", "signature": "time.sleep(seconds)", "summary": "Wait.", "more": 1}]


class Librarian:
    """Answers from one document."""

    asked: list[str] = []  # noqa: RUF012

    def answer(self, question):
        self.asked.append(question)
        if "fail" in question:
            raise ValueError("the index is broken")
        if "weather" in question:
            return SimpleNamespace(text="I do not know.", citations=[], refused=True, nearest=NEAREST)
        passage = SimpleNamespace(title="os.path.join", text="Join path components 日本.")
        return SimpleNamespace(text="It joins paths 日本.", citations=[passage], refused=False)

    def prompt(self, messages):
        return [1, 2, 3, 4, 5]

    def examples(self):
        return ["What does os.path.join do?"]


@pytest.fixture(scope="module")
def library():
    with running(Engine(HistoryModel(max_length=8), ByteTokenizer()), assistant=Librarian()) as found:
        yield found


CITED = {"citations": [{"title": "os.path.join", "text": "Join path components 日本."}], "refused": False}


def test_an_assistant_answers_and_cites(library):
    messages = [
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "join?"},
    ]
    raw = library.client.chat.completions.with_raw_response.create(model="tiny", messages=messages, temperature=0.3)
    reply = raw.parse()
    assert reply.choices[0].message.content == "It joins paths 日本." and reply.choices[0].finish_reason == "stop"
    assert reply.llmanac == CITED and Librarian.asked[-1] == "join?"
    assert reply.usage.prompt_tokens == 5 and reply.usage.completion_tokens == len("It joins paths 日本.".encode())
    assert raw.headers["x-llmanac-ignored"] == "messages[earlier], messages[role=assistant], temperature"
    refused = library.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "weather?"}])
    assert refused.llmanac == {
        "citations": [],
        "refused": True,
        "nearest": [{"name": "time.sleep", "signature": "time.sleep(seconds)", "summary": "Wait."}],
    }


def test_what_an_assistant_does_not_read_is_named_or_refused(library):
    create = library.client.chat.completions.with_raw_response.create
    messages = [{"role": "system", "content": "Answer in French."}, {"role": "user", "content": "join?"}]
    raw = create(model="tiny", messages=messages, seed=3, top_p=0.5, user="me")
    assert raw.headers["x-llmanac-ignored"] == "messages[role=system], seed, top_p, user"
    plain = create(model="tiny", messages=messages[1:])
    assert "x-llmanac-ignored" not in plain.headers
    for field in ({"logprobs": True}, {"logprobs": True, "top_logprobs": 2}):
        with pytest.raises(openai.BadRequestError) as caught:
            create(model="tiny", messages=messages, **field)
        assert caught.value.param == "logprobs" and caught.value.code == "unsupported"


def test_earlier_questions_go_to_an_assistant_that_reads_them():
    seen = []

    class Reader(Librarian):
        def answer(self, question, history=()):
            seen.append((question, list(history)))
            passage = {"title": "a", "text": "b", "summary": "c"}
            return SimpleNamespace(text="yes", citations=[passage], refused=False)

    turns = [("user", "one?"), ("assistant", "yes"), ("user", "two?")]
    with running(Engine(HistoryModel(), ByteTokenizer()), assistant=Reader()) as found:
        raw = found.client.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": role, "content": content} for role, content in turns]
        )
    assert seen == [("two?", ["one?"])] and raw.headers["x-llmanac-ignored"] == "messages[role=assistant]"
    assert raw.parse().llmanac["citations"] == [{"title": "a", "text": "b", "summary": "c"}]


def test_the_chat_page_begins_with_questions_of_the_assistant(library):
    assert library.client.models.list().data[0].llmanac["examples"] == ["What does os.path.join do?"]
    page = httpx.get(library.url).text
    assert "demonstration of the whole pipeline" in page and "one question at a time" in page
    assert "card.llmanac.examples" in page and "Nearest entries" in page


def test_an_assistants_answer_streams_and_cites_once(library):
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "join?"}], "stream": True}
    chunks = list(library.client.chat.completions.create(**ask, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "It joins paths 日本."
    cited = [c.llmanac for c in chunks if getattr(c, "llmanac", None)]
    assert cited == [CITED] and chunks[-2].choices[0].finish_reason == "stop"
    short = list(library.client.chat.completions.create(**ask, stop="paths", max_tokens=50))
    assert "".join(c.choices[0].delta.content or "" for c in short) == "It joins "
    cut = library.client.chat.completions.create(**{**ask, "stream": False}, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("It", "length")


def test_an_assistant_that_fails(library):
    with pytest.raises(openai.InternalServerError):
        library.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "fail"}])
    with pytest.raises(openai.APIError):
        list(
            library.client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "fail"}], stream=True
            )
        )
    with pytest.raises(openai.BadRequestError, match="last user message"):
        library.client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": " "}])
    assert library.client.completions.create(
        model="tiny", prompt="abc", max_tokens=2
    ).choices  # the bare model is there too


def test_a_folder_of_documents_is_served(tmp_path, monkeypatch, capsys):
    """`llmanac serve MODEL --documents FOLDER --mode quote`, with a small untrained model, over HTTP."""
    tokenizer = train_tokenizer("utf8", [])
    transformer(vocab_size=tokenizer.vocab_size, max_length=1024).float().save_pretrained(tmp_path / "model")
    tokenizer.save(tmp_path / "model")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "zoo.md").write_text("# Zoo\n\nThe zebra Marty weighs 310 kilograms. Its keeper is Lotte Brandt.\n")
    (notes / "ship.txt").write_text("The ferry Aurora leaves Bergen at 14:30. It carries 220 passengers.\n")
    loaders = []
    monkeypatch.setattr("llmanac.web.serve.serve", lambda models, **options: loaders.append(models[0].load))
    command = ["serve", str(tmp_path / "model"), "--documents", str(notes)]
    kept = tmp_path / "kept" / "index"
    asked = ["--mode", "quote", "--method", "bm25", "-k", "1", "--threshold", "0.9", "--index", str(kept)]
    for options in (["--mode", "quote"], ["--mode", "guess"], [*asked, "--include", "*.txt"]):
        with pytest.raises(SystemExit) as done:
            main([*command, *options])
        assert done.value.code == 0
    with pytest.raises(RequestError, match="--mode: 'guess'"):
        loaders[1]()
    for flag, value in (("--mode", "quote"), ("--threshold", "0.5"), ("-k", "3"), ("--encoder", "none")):
        with pytest.raises(SystemExit) as done:
            main([*command[:2], flag, value])
        assert done.value.code == 2 and f"{flag}: is of answers from documents" in capsys.readouterr().err
    _, strict = loaders[2]()
    assert (strict.k, strict.threshold, strict.method, strict.mode) == (1, 0.9, "bm25", "quote")
    assert kept.is_dir() and {p.document for p in strict.index.passages()} == {"ship.txt"}
    engine, assistant = loaders[0]()
    question = "How much does the zebra Marty weigh?"
    direct = assistant.answer(question)  # kernels are compiled here, not while a client waits
    ask = {"model": "tiny", "messages": [{"role": "user", "content": question}]}
    with running(engine, assistant=assistant) as found:
        create = found.client.chat.completions.create
        reply = create(**ask)
        [cited] = reply.llmanac["citations"]
        assert cited["title"] == "zoo.md:1-3" and "310 kilograms" in cited["text"] and not reply.llmanac["refused"]
        assert reply.choices[0].message.content == direct.text == f'"{direct.citations[0].quote}" [1]'
        assert cited == {"title": direct.citations[0].title, "text": direct.citations[0].text}
        assert reply.choices[0].finish_reason == "stop"
        chunks = list(create(**ask, stream=True))
        assert (
            "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == reply.choices[0].message.content
        )
        assert [c.llmanac for c in chunks if getattr(c, "llmanac", None)] == [reply.llmanac]
        refused = create(model="tiny", messages=[{"role": "user", "content": "Who wrote the opera Aida?"}])
        assert refused.choices[0].message.content == REFUSAL
        assert refused.llmanac["refused"] and refused.llmanac["citations"] == []
        turns = [*ask["messages"], {"role": "assistant", "content": "310"}, {"role": "user", "content": "Its keeper?"}]
        assert create(model="tiny", messages=turns).llmanac["citations"][0]["title"] == "zoo.md:1-3"
        with pytest.raises(openai.BadRequestError):
            create(model="tiny", messages=[{"role": "user", "content": "?!"}])
