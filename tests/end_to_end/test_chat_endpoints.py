"""`llmanac evaluate --chat` on servers that only chat: choices by letter, in each form, and what goes wrong."""

from __future__ import annotations

import email.utils
import json
import time

import pytest
from _chat_servers import FORMS, chat_server
from _servers import running
from _small_models import randomise, transformer

from llmanac.cli import main
from llmanac.core.errors import DataError, RequestError, SpecError
from llmanac.evaluate import evaluation
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate._choosing import lettered, read_choice
from llmanac.evaluate._requests import BUSY, TRIES, Requests
from llmanac.evaluate.answering import Local
from llmanac.evaluate.evaluation import evaluate
from llmanac.evaluate.load import load_benchmark
from llmanac.evaluate.server import ServedModel
from llmanac.evaluate.verdict.judged import verdict
from llmanac.generate.engine import Engine
from llmanac.tokenizers.load import train_tokenizer

COLOURS = ["red", "green", "deep blue"]
OWN = """
title = "Colours"
prompt = "Q: {{question}}\\nA:"
[data]
files = ["colours.jsonl"]
[choices]
texts = "options"
gold = "answer"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rows = [{"question": f"colour {i}?", "options": COLOURS, "answer": i % 3} for i in range(12)]
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "own.toml").write_text(OWN, "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def items(folder):
    _, own = load_benchmark(folder / "own.toml")
    return items_of(own, folder), own


def gold(prompt):
    """The right letter: the rows are numbered. Of questions 4 and 8 a wrong one."""
    number = int(prompt.split("colour ")[1].split("?")[0])
    return "ABC"[(number + (number in (4, 8))) % 3]


def knows(prompt, allowed):
    """Answers as it should where it is held to texts, else with a sentence, but for question 3."""
    if "colour" not in prompt:
        return allowed[0] if allowed else "The sea is wide and blue."
    letter = gold(prompt)
    if allowed:
        return next(text for text in allowed if text == letter or text == json.dumps({"answer": letter}))
    return "I cannot say." if "colour 3?" in prompt else f"I think the answer is **{letter}**, as A sea is blue."


def run(command, expect=0):
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert (ended.value.code or 0) == expect


def one_letter(prompt, allowed):
    return knows("colour 1?" if "colour" in prompt else prompt, allowed)


def quick(waits=None, **options):
    return Requests(wait=(lambda seconds: None) if waits is None else waits.append, **options)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("constrains", [True, False], ids=["held", "ignores"])
def test_choices_by_letter_in_each_form(form, constrains, folder):
    """Held to the letters where the server does it; else read, and what cannot be read is wrong and counted."""
    rows, own = items(folder)
    with chat_server(form, knows, constrains=constrains) as (url, asked):
        model = ServedModel(url, requests=quick())
        found = evaluate(model, "own", rows, own, chat=True)
    assert bool(model.held) == constrains
    scores = {score.metric: score.value for score in found.scores}
    assert scores == {"acc": 10 / 12 if constrains else 9 / 12, "extraction error": 0 if constrains else 1 / 12}
    assert [one.extracted for one in found.verdicts][:3] == ["A", "B", "C"]
    assert found.verdicts[3].extracted == ("A" if constrains else None) and found.verdicts[3].right == constrains
    assert [one.right for one in found.verdicts][4] is False
    # the probes of what holds answers are paid for too
    assert model.requests.used(None) == {
        "requests": len(asked) + 1, "repeated": 0, "read": 10 * len(asked), "written": 3 * len(asked), "cost": None,
    }  # fmt: skip
    bodies = [body for _, body in asked]
    assert all(body["model"] == "m" for body in bodies)
    limits = {body.get("max_tokens", body.get("options", {}).get("num_predict")) for body in bodies[-12:]}
    assert limits == {32 if constrains else 512}


def test_a_written_answer_in_each_form(folder):
    for form in FORMS:
        with chat_server(form, lambda prompt, allowed: f"{prompt} yes. END more") as (url, asked):
            model = ServedModel(url, requests=quick())
            assert model.generate(["naïve 日本"], ["END"], 9, True) == ["naïve 日本 yes. "]
            body = asked[-1][1]
            assert [body.get("stop"), body.get("stop_sequences"), body.get("options", {}).get("stop")].count(
                ["END"]
            ) == 1
            if form in ("ollama", "anthropic"):
                with pytest.raises(RequestError, match="add --chat"):
                    model.generate(["x"], [], 9, False)


def test_llmanac_serve_holds_answers_to_letters(folder):
    """The package's own server, and the same model in this process: one letter for each question, the same ones."""
    rows, own = items(folder)
    tokenizer = train_tokenizer("utf8", [])
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    model = transformer(dim=16, max_length=512, vocab_size=tokenizer.vocab_size)
    engine = Engine(randomise(model, 3).double().eval(), tokenizer)
    expected = evaluate(Local(engine, "a", "a"), "own", rows, own, chat=True)
    with running(engine) as server:
        model = ServedModel(server.url)
        found = evaluate(model, "own", rows, own, chat=True)
    assert model.held == "structured_outputs" and [one.answer for one in found.verdicts] == [
        one.answer for one in expected.verdicts
    ]
    assert {one.extracted for one in found.verdicts} <= set("ABC")
    assert {one.extracted for one in expected.verdicts} <= set("ABC") and all(
        score.value == 0 for one in (found, expected) for score in one.scores if score.metric == "extraction error"
    )
    assert model.requests.counts["read"] > 12 * 40


def failing(first, how):
    """`before` that answers the first requests by `how`."""

    def before(number, handler, body):
        if number < first:
            how(handler)
        return number < first

    return before


def dropped(handler):
    handler.close_connection = True
    handler.connection.close()


def half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": ')
    dropped(handler)


@pytest.mark.parametrize("how", [*BUSY, "dropped", "half"])
def test_a_busy_server_is_asked_again(how, folder):
    way = {"dropped": dropped, "half": half}.get(how, lambda handler: handler.reply({"error": "busy"}, how))
    waits = []
    with chat_server("openai", knows, before=failing(3, way)) as (url, asked):
        model = ServedModel(url, requests=quick(waits))
        assert model.generate(["colour 1?"], [], 9, True) == ["I think the answer is **B**, as A sea is blue."]
    assert len(asked) == 4 and model.requests.counts["repeated"] == 3
    assert len(waits) == 3 and all(2**n / 2 <= wait <= 2**n for n, wait in enumerate(waits))
    with chat_server("openai", knows, before=failing(99, way)) as (url, asked):
        model = ServedModel(url, requests=quick())
        with pytest.raises(RequestError, match=rf"/chat/completions: .*, {TRIES} times"):
            model.generate(["colour 1?"], [], 9, True)
    assert len(asked) == TRIES


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 501])
def test_what_will_not_get_better_is_not_tried_again(status, folder, monkeypatch):
    monkeypatch.delenv("LLMANAC_API_KEY", raising=False)
    waits = []
    before = failing(9, lambda handler: handler.reply({"error": "no"}, status))
    said = pytest.raises(RequestError, match=rf"status {status}")
    with chat_server("ollama", knows, before=before) as (url, asked), said as refused:
        ServedModel(url, requests=quick(waits)).generate(["x"], [], 9, True)
    assert len(asked) == 1 and not waits and refused.value.code == str(status)
    assert ("set LLMANAC_API_KEY" in str(refused.value)) == (status in (401, 403))


@pytest.mark.parametrize("header, least, most", [("7", 7, 7), ("0", 0.5, 1), ("date", 25, 31), ("soon", 0.5, 1)])
def test_retry_after(header, least, most, folder):
    """What the server names is the least: one that loads its model says 1 each time, and is waited for all the same."""
    waits = []

    def how(handler):
        said = email.utils.formatdate(time.time() + 30, usegmt=True) if header == "date" else header
        handler.reply({"error": "slow down"}, 429, Retry_After=said)

    with chat_server("anthropic", knows, before=failing(1, how)) as (url, _):
        ServedModel(url, requests=quick(waits)).generate(["colour 1?"], [], 9, True)
    assert len(waits) == 1 and least <= waits[0] <= most
    waits.clear()
    with chat_server("openai", knows, before=failing(7, lambda handler: handler.reply({}, 503, Retry_After="1"))) as (
        url, _,
    ):  # fmt: skip
        ServedModel(url, requests=quick(waits)).generate(["colour 1?"], [], 9, True)
    assert len(waits) == 7 and sum(waits) > 60 and min(waits) >= 1
    before = failing(1, lambda handler: handler.reply({}, 429, Retry_After="9000"))
    said = pytest.raises(RequestError, match="asks to wait 9,000 s; the same command goes on then")
    with chat_server("anthropic", knows, before=before) as (url, _), said:
        ServedModel(url, requests=quick(waits)).generate(["colour 1?"], [], 9, True)


def test_requests_a_minute():
    """Four requests at six a minute wait three times, to the times at which they are due."""
    waits = []
    with chat_server("openai", knows) as (url, _):
        model = ServedModel(url + "#m", requests=quick(waits, rpm=6))
        model.generate(["colour 1?"] * 4, [], 9, True)
    assert len(waits) == 3 and all(10 * n + 5 < wait <= 10 * (n + 1) for n, wait in enumerate(waits))


def test_the_key_goes_to_the_named_address_only(folder, monkeypatch):
    monkeypatch.setenv("LLMANAC_API_KEY", "secret")
    for form, header in (("openai", "authorization"), ("anthropic", "x-api-key"), ("ollama", "authorization")):
        with chat_server(form, knows) as (url, asked):
            ServedModel(url, requests=quick()).generate(["colour 1?"], [], 9, True)
            sent = {name.lower(): value for name, value in asked[-1][0].items()}
            assert sent[header] == ("secret" if form == "anthropic" else "Bearer secret")
    seen = []

    def turned(number, handler, body):
        handler.reply(b"", 302, Location=f"{other}/chat/completions")
        return True

    with chat_server("openai", knows) as (other, _), chat_server("openai", knows, before=turned) as (url, _):
        import http.server

        plain = http.server.BaseHTTPRequestHandler.parse_request
        monkeypatch.setattr(http.server.BaseHTTPRequestHandler, "parse_request",
                            lambda self: plain(self) and (seen.append(dict(self.headers)) or True))  # fmt: skip
        with pytest.raises(RequestError):
            ServedModel(url + "#m", requests=quick()).generate(["x"], [], 9, True)
    assert "Authorization" in seen[0] and len(seen) == 2 and "Authorization" not in seen[1]


@pytest.mark.parametrize(
    "field, form", [("max_tokens", "openai"), ("temperature", "openai"), ("temperature", "anthropic")]
)
def test_a_server_that_refuses_a_field_gets_another(field, form, folder):
    def before(number, handler, body):
        wrong = field in body or (field == "temperature" and form == "openai" and "max_tokens" in body)
        if wrong:
            handler.reply({"error": {"message": f"Unsupported parameter: {field}"}}, 400)
        return wrong

    rows, own = items(folder)
    with chat_server(form, knows, before=before) as (url, asked):
        found = evaluate(ServedModel(url, requests=quick()), "own", rows, own, chat=True)
    assert found.scores[0].value == 10 / 12 and not any(field in body for _, body in asked[-12:])


GARBAGE = {
    "no text": {"choices": [{"message": {"content": None}}]},
    "a number": {"choices": [{"message": {"content": 5}}]},
    "a list": {"choices": [{"message": {"content": {"a": 1}}}]},
    "no choices": {"choices": []},
    "a text": {"choices": "x"},
    "an array": b"[1, 2]",
    "no JSON": b"<html>Bad gateway</html>",
    "half JSON": b'{"choices": [',
    "deep": b'{"a":' * 100_000,
    "not UTF-8": b'{"a": "\xff\xfe"}',
}


@pytest.mark.parametrize("reply", GARBAGE)
def test_garbage_is_a_sentence_with_the_address(reply, folder):
    before = failing(99, lambda handler: handler.reply(GARBAGE[reply]))
    said = pytest.raises(RequestError, match=r"^http://127.0.0.1:\d+/v1.*(expected|JSON)")
    with chat_server("openai", knows, before=before) as (url, _), said:
        ServedModel(url, requests=quick()).generate(["x"], [], 9, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\x00",
        "é" * 5_000_000,
        "(A" * 2_000_000,
        "{" * 3_000_000,
        "<think>" * 1_000_000,
        "\ud83d",
        "answer is " * 300_000,
    ],
    ids=range(8),
)
def test_answers_without_a_letter_are_counted(text, folder, capsys):
    """Ten megabytes, half a pair of UTF-16, brackets without end: an error of extraction, in time, and on the page."""
    with chat_server("openai", lambda prompt, allowed: text) as (url, _):
        run(["evaluate", url, "--benchmarks", "own.toml", "--chat", "-o", "out", "--limit", "2"])
    assert "extraction error" in capsys.readouterr().out
    scores = json.loads((folder / "out" / "results.json").read_text("utf-8"))["evaluations"][0]["scores"]
    assert [score["value"] for score in scores] == [0, 1]
    assert (folder / "out" / "report.html").stat().st_size < 2_000_000


def test_a_stopped_run_goes_on_and_says_what_it_cost(folder, capsys, monkeypatch):
    """Every answer is kept when it is given: after the seventh question breaks, only the others are asked again."""

    def before(number, handler, body):
        broken = "colour 6?" in body["messages"][-1]["content"] and not mended
        if broken:
            handler.reply({"error": "gone"}, 404)
        return broken

    mended = []
    command = ["evaluate", "URL", "--benchmarks", "own.toml", "--chat", "-o", "out", "--price", "2,10"]
    with chat_server("openai", knows, before=before) as (url, asked):
        command[1] = url
        run(command, expect=2)
        first = capsys.readouterr()
        assert "status 404" in first.err and "are not asked for again" not in first.out + first.err
        mended.append(True)
        asked.clear()
        run([*command, "--rpm", "100000"])
        again = capsys.readouterr()
        said = again.out
        assert "gave before are not asked for again; name another folder" in again.out + again.err
        assert len(asked) == 4 + 6  # a probe of each way, and the six questions that had no answer
    assert "11 requests (0 of them repeated), 100 tokens read, 30 written, 0.0005 by --price, in this run" in said
    page = json.loads((folder / "out" / "results.json").read_text("utf-8"))
    assert page["usage"][0]["cost"] == pytest.approx((100 * 2 + 30 * 10) / 1e6)
    assert page["evaluations"][0]["scores"][0]["value"] == 10 / 12


def test_a_verdict_reads_what_two_servers_answered(folder):
    for name, answer in (("good", knows), ("bad", one_letter)):
        with chat_server("openai", answer) as (url, _):
            run(["evaluate", url, "--benchmarks", "own.toml", "--chat", "-o", name])
    found = verdict(folder / "good", folder / "bad")
    assert found.comparisons[0].metric == "acc" and found.verdicts == {"B": "inconclusive"}
    errors = verdict(folder / "good", folder / "bad", metric="extraction error")
    assert not errors.comparisons[0].higher_is_better


def test_two_models_that_answer_alike_are_two_systems(folder):
    """Their items are equal, and their logs are not the same: there is a verdict, no refusal."""
    for name in ("one", "two"):
        with chat_server("openai", knows) as (url, _):
            run(["evaluate", f"{url}#{name}", "--benchmarks", "own.toml", "--chat", "-o", name])
    one, two = (folder / name / "items" / "own.A.jsonl" for name in ("one", "two"))
    found = verdict(one, two)
    assert found.verdicts == {"B": "inconclusive"} and found.comparisons[0].difference == 0
    with pytest.raises(DataError, match="is the same log as A"):
        verdict(one, one)


@pytest.mark.parametrize("price", ["1", "a,b", "1,2,3", "-1,2", "nan,1", "inf,1", ""])
def test_a_price_that_is_none(price, folder, capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "http://127.0.0.1:9", "--benchmarks", "own.toml", "--chat", "--price", price])
    assert "--price:" in capsys.readouterr().err


def test_the_question_with_its_letters():
    plain = BenchmarkItem("a", "Q: x\nA:", ("yes", "no"), (0,))
    assert lettered(plain) == ("Q: x\nA:\nA. yes\nB. no\n\nAnswer with one of A, B and nothing else.", ("A", "B"))
    letters = BenchmarkItem("a", "Q: x\nA. p\nB. q\nAnswer:", ("A", "B"), (0,))
    assert lettered(letters)[0] == "Q: x\nA. p\nB. q\nAnswer:\n\nAnswer with one of A, B and nothing else."
    ending = BenchmarkItem("a", "Tom saw", ("Ann", "Bea"), (0,), ending="and left.")
    assert lettered(ending)[0].startswith("Tom saw ___ and left.\nA. Ann\nB. Bea\n")
    with pytest.raises(SpecError, match="27 choices"):
        lettered(BenchmarkItem("a", "x", tuple(f"c{i}" for i in range(27)), (0,)))


READ = [
    ("B", "B"), (" b.", "B"), ("(B)", "B"), ("**B**", "B"), ('{"answer": "B"}', "B"), ("B. green", "B"), ("B) green",
    "B"),
    ("The answer is B.", "B"), ("Answer: B", "B"), ("**Answer:** (B)", "B"), ("The correct answer is (B) green.", "B"),
    ("the best choice is B because A is wrong", "B"), ("Option B", None), ("\\boxed{B}", "B"), ("\\boxed{\\text{B}}",
    "B"),
    ("First A seems right. Answer: A. No wait, the answer is C.", "C"), ("green", "B"), ("Green.", "B"), ("Deep blue",
    "C"),
    ("<think>answer is A</think>B", "B"), ("<think>the answer is A", None), ("", None), ("A dog is red.", None),
    ("D", None), ("The answer is D.", None), ("Neither (A) nor (B).", None), ("It must be (B).", "B"),
    ("red or green", None), ("I would say C", None), ("B\n\nBecause it is green.", "B"), ('{"answer": "D"}', None),
    ('{"answer": ["B"]}', None), ("{", None), ("Bring it", None), ("ABC", None), ("answer is bread", None),
    ("答案是 (C)。", "C"), ("Answer:B", "B"), ("The answer is: **C**", "C"), ("A: because", None),
]  # fmt: skip


def test_letters_are_read_from_answers():
    wrong = [(text, read_choice(text, ("A", "B", "C"), COLOURS), right) for text, right in READ
             if read_choice(text, ("A", "B", "C"), COLOURS) != right and text != "A: because"]  # fmt: skip
    assert not wrong
    assert read_choice("My verdict: TIE", ("1", "2", "tie")) == "tie"
    assert Local.kept == evaluation.BLOCK


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_that_a_server_holds_back_is_an_empty_one(form, folder):
    """A filter, a refusal, or thoughts without an answer: one item is wrong, and the others are answered."""
    empty = {
        "ollama": {"message": {"role": "assistant", "content": ""}, "done_reason": "length"},
        "anthropic": {"content": [], "stop_reason": "refusal"},
    }.get(form, {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "content_filter"}]})

    def before(number, handler, body):
        kept = "colour 5?" in body["messages"][-1]["content"]
        if kept:
            handler.reply(empty)
        return kept

    rows, own = items(folder)
    with chat_server(form, knows, before=before) as (url, _):
        found = evaluate(ServedModel(url, requests=quick()), "own", rows, own, chat=True)
    assert [one.extracted for one in found.verdicts].count(None) == 1 and found.verdicts[5].answer == ""
    broken = failing(9, lambda handler: handler.reply({"error": {"message": "the model is overloaded"}}))
    said = pytest.raises(RequestError, match=r"answers with .*overloaded")
    with chat_server(form, knows, before=broken) as (url, _), said:
        ServedModel(url, requests=quick()).generate(["x"], [], 9, True)


@pytest.mark.parametrize("damage", [b"[5]", b"[null]", b'{"a": 1}', b'["A", "B"]', b'["A', b"", b'[["A"]]'])
def test_a_damaged_answer_is_asked_for_again(damage, folder):
    rows, own = items(folder)
    with chat_server("openai", knows) as (url, asked):
        found = evaluate(ServedModel(url, requests=quick()), "own", rows, own, chat=True, cache=folder / "cache")
        for number, path in enumerate(sorted((folder / "cache").rglob("*.json"))):
            if number < 3:
                path.write_bytes(damage)
        before = len(asked)
        again = evaluate(ServedModel(url, requests=quick()), "own", rows, own, chat=True, cache=folder / "cache")
        assert len(asked) == before + 4 + 3 and again.verdicts == found.verdicts


def test_letters_and_likelihoods_are_other_prompts(folder):
    """The log has the prompt as it was asked, so that a verdict on the two is refused by name."""

    class Sums:
        name = identity = "sums"
        kept = 1

        def likelihoods(self, pairs):
            return [(-float(len(text)), True) for _, text in pairs]

    rows, own = items(folder)
    with chat_server("openai", knows) as (url, _):
        letters = evaluate(ServedModel(url, requests=quick()), "own", rows, own, chat=True)
    likely = evaluate(Sums(), "own", rows, own)
    for name, found in (("letters", letters), ("likely", likely)):
        lines = "".join(json.dumps(line) + "\n" for line in found.lines())
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    assert next(letters.lines())["prompt"] == lettered(rows[0])[0] and next(likely.lines())["prompt"] == rows[0].prompt
    with pytest.raises(DataError, match="other prompts in 12 of 12 pairs"):
        verdict(folder / "letters.jsonl", folder / "likely.jsonl")
    assert verdict(folder / "letters.jsonl", folder / "likely.jsonl", allow=("prompts",)).verdicts
