"""The server with an assistant: its answers, what they cite, and its failures, through the `openai` client."""

from __future__ import annotations

from types import SimpleNamespace

import httpx
import openai
import pytest
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running

from llmanac.generate.engine import Engine

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
