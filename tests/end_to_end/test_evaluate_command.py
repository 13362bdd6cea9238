"""`llmanac evaluate`: tables, files, kept answers, two models, servers, one's own benchmarks, and bad input."""

from __future__ import annotations

import http.server
import itertools
import json
import math
import threading

import pytest
from _engine_models import ByteTokenizer
from _servers import running
from _small_models import randomise, transformer

from llmanac.adapters.load import save_adapter
from llmanac.cli import main
from llmanac.core.errors import DataError, LlmanacError, RequestError, SpecError
from llmanac.core.spec import make_method
from llmanac.evaluate import evaluation
from llmanac.evaluate._benchmark_rows import BenchmarkItem, items_of
from llmanac.evaluate._jinja import Expression, RowTemplate
from llmanac.evaluate._judging import judge_generated, quac, summarise
from llmanac.evaluate.answering import Local
from llmanac.evaluate.benchmark import Benchmark, Generation
from llmanac.evaluate.evaluation import compare_all, evaluate
from llmanac.evaluate.load import load_benchmark
from llmanac.evaluate.server import ServedModel
from llmanac.evaluate.verdict.judged import verdict
from llmanac.generate.engine import Engine
from llmanac.metrics.statistics.estimates import holm
from llmanac.tokenizers.load import train_tokenizer

OWN = """
title = "Colours"
prompt = "Q: {{question}}\\nA:"
cluster = "passage"
[data]
files = ["colours*.jsonl"]
[shots]
count = 1
[choices]
texts = "options"
gold = "answer"
"""
WRITTEN = """
title = "Written"
prompt = "{{question}}"
[data]
files = ["colours.jsonl"]
[generation]
stop = ["\\n", "q"]
length = 5
references = "options"
metrics = ["squad"]
"""


@pytest.fixture(scope="module")
def engines():
    def made(seed):
        model = transformer(dim=16, max_length=256, vocab_size=260)
        return Engine(randomise(model, seed).double().eval(), ByteTokenizer())

    return made(0), made(1)


@pytest.fixture
def folder(tmp_path, monkeypatch, engines):
    """A folder with a set and two benchmarks; models `a` and `b` are loaded from memory."""
    rows = [{"question": f"colour {i}", "options": ["red", "green", "deep blue"], "answer": i % 3, "passage": i // 4}
            for i in range(12)]  # fmt: skip
    (tmp_path / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tmp_path / "own.toml").write_text(OWN, "utf-8")
    (tmp_path / "written.toml").write_text(WRITTEN, "utf-8")
    monkeypatch.chdir(tmp_path)
    asked = []

    def load(path, **_):
        asked.append(path)
        return Local(engines["ab".index(path)], path, path)

    monkeypatch.setattr("llmanac.evaluate.answering.load_local", load)
    return tmp_path


def run(*arguments, expect=0):
    try:
        main(["evaluate", *map(str, arguments)])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    assert code == expect


def test_one_model(folder, capsys):
    run("a", "--benchmarks", "own.toml,written.toml", "-o", "out")
    shown = capsys.readouterr().out
    for part in ("own", "acc_norm", "standard error", "12 in 3", "exact match", "F1", "report.html", "Next: llmanac"):
        assert part in shown
    results = json.loads((folder / "out" / "results.json").read_text("utf-8"))
    assert [one["benchmark"] for one in results["evaluations"]] == ["own", "written"]
    lines = [json.loads(line) for line in (folder / "out/items/own.A.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 12 and lines[3]["prompt"] == "Q: colour 0\nA: red\n\nQ: colour 3\nA:"
    assert lines[0]["prompt"].startswith("Q: colour 1")  # a question is no example of itself
    assert {line["right"] for line in lines} <= {True, False} and lines[0]["references"] == ["red"]
    best = max(range(3), key=lines[0]["log_likelihoods"].__getitem__)
    assert lines[0]["answer"] == lines[0]["choices"][best]
    page = (folder / "out" / "report.html").read_text("utf-8")
    assert "http" not in page.replace("http-equiv", "") and "Colours" in page  # one file, nothing from elsewhere
    data = page.split('id="data">')[1].split("</script>")[0]
    assert len(json.loads(data)) == 24 and "<" not in data


def test_an_adapters_folder_is_evaluated(tmp_path, monkeypatch, capsys):
    (tmp_path / "colours.jsonl").write_text('{"question": "a", "options": ["red"]}\n' * 3, "utf-8")
    (tmp_path / "written.toml").write_text(WRITTEN, "utf-8")
    (tmp_path / "more.toml").write_text(WRITTEN, "utf-8")
    monkeypatch.chdir(tmp_path)
    words = train_tokenizer("utf8", [], special_tokens=["<|im_start|>", "<|im_end|>", "<|endoftext|>"])
    model = randomise(transformer(dim=16, max_length=64, vocab_size=words.vocab_size), 0)
    for place in ("base", "tuned/model"):
        words.save(place)
    model.save_pretrained("base")
    change = make_method("adapter", {"name": "lora"}).build(seed=0).apply(model)
    for parameter in change.parameters().values():
        parameter.data.normal_(0, 0.3)
    save_adapter(change, "tuned/model", base="base")
    run("base", "tuned", "--benchmarks", "written.toml,more.toml", "--limit", 2, "-o", "out")
    said = capsys.readouterr()
    answers = [(tmp_path / f"out/items/written.{letter}.jsonl").read_text("utf-8") for letter in "AB"]
    assert answers[0] != answers[1]  # neither the model without its adapter, nor answers kept for it
    assert "note: tuned has a chat template; --chat" in said.err
    assert "--benchmarks written.toml,more.toml --output out --limit 4" in said.out
    run("tuned", "--benchmarks", "written.toml", "-o", "out", "--chat")
    said = capsys.readouterr()
    assert "note" not in said.err and "evaluate tuned MODEL_B --benchmarks" in said.out and "--chat" in said.out


def test_a_stopped_run_goes_on_and_another_limit_reuses_answers(folder, monkeypatch, capsys):
    monkeypatch.setattr(evaluation, "BLOCK", 4)
    monkeypatch.setattr(evaluation.evaluate, "__kwdefaults__", {**evaluation.evaluate.__kwdefaults__, "block": 4})
    real, calls = Local.likelihoods, []

    def counted(self, pairs):
        calls.append(len(pairs))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, pairs)

    monkeypatch.setattr(Local, "likelihoods", counted)
    run("a", "--benchmarks", "own.toml", "-o", "out", expect=130)
    assert "the same command goes on" in capsys.readouterr().err
    assert not (folder / "out" / "results.json").exists() and calls == [12, 12]
    run("a", "--benchmarks", "own.toml", "-o", "out", "--limit", "8")
    assert calls == [12, 12, 12]  # only the second block
    run("a", "--benchmarks", "own.toml", "-o", "out")
    assert calls == [12] * 4
    kept = next(folder.glob("out/cache/*/*.json"))
    kept.write_text("{", "utf-8")  # a damaged one is computed again
    run("a", "--benchmarks", "own.toml", "-o", "out")
    assert calls == [12] * 5 and len(json.loads(kept.read_text("utf-8"))) == 4
    run("a", "--benchmarks", "own.toml", "-o", "out", "--shots", "0")
    assert len(calls) == 8  # other prompts


def test_a_second_space_before_a_choice_is_told(folder, engines, capsys):
    said = {}
    for name, given in (("own", " "), ("spaced", " "), ("joined", "")):
        rows = (folder / "colours.jsonl").read_text("utf-8")
        (folder / "colours.jsonl").write_text(rows.replace('"red"', '" red"') if name == "spaced" else rows, "utf-8")
        made = OWN.replace("count = 1", f"count = 0\ndelimiter = '{given}'")
        (folder / f"{name}.toml").write_text(made, "utf-8")
        run("a", "--benchmarks", f"{name}.toml", "-o", name)
        said[name] = "white space of their own" in capsys.readouterr().err
    assert said == {"own": False, "spaced": True, "joined": False}
    alone = Local(engines[0], "a", "a").likelihoods([("Q: colour 0\nA:", " red")])
    items = [json.loads(line) for line in (folder / "joined/items/joined.A.jsonl").read_text("utf-8").splitlines()]
    assert items[0]["log_likelihoods"][0] == pytest.approx(next(iter(alone))[0])


def test_two_models_are_paired(folder, capsys):
    run("a", "b", "--benchmarks", "own.toml", "-o", "out", "--json")
    results = json.loads(capsys.readouterr().out)
    both = [[json.loads(line) for line in (folder / f"out/items/own.{m}.jsonl").read_text("utf-8").splitlines()]
            for m in "AB"]  # fmt: skip
    gap = [b["scores"]["acc"] - a["scores"]["acc"] for a, b in zip(*both, strict=True)]
    found = results["differences"][0]
    assert found["metric"] == "acc" and found["difference"] == pytest.approx(sum(gap) / 12)
    assert found["low"] < found["difference"] < found["high"] or not any(gap)
    again = verdict(*(folder / f"out/items/own.{m}.jsonl" for m in "AB"), group="cluster").comparisons[0]
    assert (again.p, again.low, again.high) == (found["p"], found["low"], found["high"])  # one way to compare
    run("a", "b", "--benchmarks", "own.toml", "-o", "out")
    assert "B less A" in capsys.readouterr().out


def made(values, name="n", **others):
    """An evaluation with these scores of one metric; others are of further metrics."""
    items = [BenchmarkItem(str(i), "p", ("x", "y"), (0,)) for i in range(len(values))]
    scores = [{"acc": float(v), **{m: float(o[i]) for m, o in others.items()}} for i, v in enumerate(values)]
    verdicts = [evaluation.ItemVerdict("x", "x", bool(own["acc"]), own) for own in scores]
    return evaluation.Evaluation(name, "m", items, verdicts, summarise(items, verdicts))


def compare(one, two):
    return compare_all([(one, two)])


def test_benchmarks_are_one_family_of_tests():
    """Of p = 0.0313 on one benchmark nothing is left beside two others; each kind of metric is a family by itself."""
    pairs = [(made([0] * 20, name), made([1] * count + [0] * (20 - count), name)) for name, count in (
        ("a", 6), ("b", 6), ("c", 12))]  # fmt: skip
    alone = [compare(*pair)[0] for pair in pairs]
    assert [one.verdict for one in alone] == ["better"] * 3
    found = compare_all(pairs)
    assert [one.p for one in found] == pytest.approx(holm([one.p for one in alone]))
    assert [(one.benchmark, one.verdict) for one in found] == [
        ("a", "not settled"),
        ("b", "not settled"),
        ("c", "better"),
    ]
    two = [(made([0] * 20, n, **{"extraction error": [0] * 20}), made([0] * 20, n,
    **{"extraction error": [1] * 8 + [0] * 12}))
           for n in "ab"]  # fmt: skip
    acc, error, *_ = compare_all(two)
    assert acc.metric == "acc" and acc.p == 1 and error.p == pytest.approx(2 * 2 / 2**8) and error.verdict == "worse"


def test_items_have_the_fields_of_their_rows(folder, capsys):
    """`verdict` slices and groups the package's own items by them; long texts are left out."""
    rows = [json.loads(line) for line in (folder / "colours.jsonl").read_text("utf-8").splitlines()]
    rows = [{**row, "subject": ["law", "art"][i % 2], "level": i % 3, "long": "x" * 100} for i, row in enumerate(rows)]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    run("a", "b", "--benchmarks", "own.toml", "-o", "out")
    logs = [folder / f"out/items/own.{m}.jsonl" for m in "AB"]
    line = json.loads(logs[0].read_text("utf-8").splitlines()[0])
    assert line["fields"] == {
        "file": "colours",
        "question": "colour 0",
        "answer": 0,
        "passage": 0,
        "subject": "law",
        "level": 0,
    }
    assert set(verdict(*logs, slices="subject").slices) == {"law", "art"}
    assert verdict(*logs, group="level").comparisons[0].groups == 3
    assert set(verdict(*logs, slices="fields.level").slices) == {"0", "1", "2"}


def test_verdicts_of_a_pair():
    [found] = compare(made([0] * 20), made([1] * 15 + [0] * 5))
    assert found.verdict == "better" and found.more is None
    [found] = compare(made([0, 1] * 10), made([1, 0] * 9 + [1, 1]))
    assert found.verdict == "not settled" and found.more > 100
    [found] = compare(made([0] * 20), made([1] * 5 + [0] * 15))
    assert found.low > 0 and found.p == pytest.approx(1 / 16) and found.verdict == "not settled"  # five fair coins
    [found] = compare(made([0, 1]), made([0, 1]))
    assert found.verdict == "not settled" and found.more is None
    with pytest.raises(DataError, match="other items"):
        compare(made([0, 1]), made([0, 1, 1]))


def test_a_server_gives_the_models_figures(engines, folder):
    _, own = load_benchmark(folder / "own.toml")
    items = items_of(own, folder)
    expected = evaluate(Local(engines[0], "a", "a"), "own", items, own)
    _, written = load_benchmark(folder / "written.toml")
    texts = evaluate(Local(engines[0], "a", "a"), "w", items_of(written, folder), written)
    with running(engines[0]) as server:
        model = ServedModel(server.url)
        found = evaluate(model, "own", items, own)
        again = evaluate(model, "w", items_of(written, folder), written)
        assert "tiny" in model.name
    for one, two in zip(expected.verdicts, found.verdicts, strict=True):
        assert two.values == pytest.approx(one.values, abs=1e-9) and two.scores == one.scores
    assert [one.answer for one in again.verdicts] == [one.answer for one in texts.verdicts]


def fake_server(change):
    """An OpenAI-like server whose tokens are characters; `change` alters its answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def reply(self, body):
            data = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.reply({"data": [{"id": "fake"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            choices = []
            for index, prompt in enumerate(body["prompt"]):
                new = "ab"[: body["max_tokens"]]
                text = prompt + new
                values = [None, *(-1 - (ord(a) * 7 + ord(b)) % 13 / 7 for a, b in itertools.pairwise(text))]
                start = 0 if body.get("echo") else len(prompt)
                table = {"tokens": list(text[start:]), "token_logprobs": values[start:], "top_logprobs": []}
                choices.append({"index": index, "text": text[start:], "logprobs": table})
                change(body, prompt, choices[-1])
            self.reply({"choices": choices})

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}/v1"


def _no_echo(body, prompt, choice):
    choice["text"] = choice["text"][len(prompt) :]


def _no_logprobs(body, prompt, choice):
    choice["logprobs"] = None


def _nulls(body, prompt, choice):
    choice["logprobs"]["token_logprobs"] = [None] * len(choice["logprobs"]["tokens"])


def _constant(body, prompt, choice):
    choice["logprobs"]["token_logprobs"] = [-1.5] * len(choice["logprobs"]["tokens"])


def _shifted(body, prompt, choice):
    if body.get("echo"):
        values = choice["logprobs"]["token_logprobs"]
        choice["logprobs"]["token_logprobs"] = [None, -3.0, *values[1:-1]]


def _by_length(body, prompt, choice):
    if body.get("echo"):
        values = choice["logprobs"]["token_logprobs"]
        choice["logprobs"]["token_logprobs"] = [None, *(v - len(prompt) / 50 for v in values[1:])]


def _positive(body, prompt, choice):
    choice["logprobs"]["token_logprobs"][3] = 2.0


def _generated_only(body, prompt, choice):
    """llama.cpp's: the text with the prompt, numbers of the new tokens alone."""
    if body.get("echo"):
        table = choice["logprobs"]
        choice["logprobs"] = {key: values[len(prompt) :] for key, values in table.items()}


def _content(body, prompt, choice):
    """llama.cpp's other form, that of chats."""
    table = choice["logprobs"]
    rows = zip(table["tokens"], table["token_logprobs"], strict=True)
    choice["logprobs"] = {"content": [{"token": token, "logprob": value} for token, value in rows]}


def _cut(body, prompt, choice, most=64):
    """Of a longer prompt only the end is read, and the text comes back complete."""
    if body.get("echo"):
        table, gone = choice["logprobs"], max(0, len(prompt) - most)
        table["text_offset"] = list(range(gone, len(choice["text"])))
        table["tokens"], table["token_logprobs"] = table["tokens"][gone:], [None, *table["token_logprobs"][gone + 1 :]]


def _fine(body, prompt, choice):
    pass


@pytest.mark.parametrize("wrong", [
    _no_echo, _no_logprobs, _nulls, _constant, _shifted, _by_length, _positive, _generated_only, _content, _fine
])  # fmt: skip
def test_a_server_with_wrong_log_probabilities_is_refused(wrong, tmp_path):
    server, url = fake_server(wrong)
    try:
        model = ServedModel(url)
        if wrong is _fine:
            [(total, _)] = model.likelihoods([("xy", "z")])
            assert total == pytest.approx(-1 - (ord("y") * 7 + ord("z")) % 13 / 7) and math.isfinite(total)
            data = {"title": "t", "prompt": "{{q}}", "target": "{{a}}", "data": {"files": ["x.jsonl"]}}
            own = Benchmark.from_data(data)
            (tmp_path / "x.jsonl").write_text('{"q": "xy", "a": "z"}\n')
            with pytest.raises(RequestError, match="does not name the most probable tokens"):  # not: all are the best
                evaluate(model, "t", items_of(own, tmp_path), own)
        else:
            with pytest.raises(RequestError, match="log-probabilit"):
                model.likelihoods([("a", "b")])
    finally:
        server.shutdown()
        server.server_close()


def test_a_server_that_reads_the_end_of_long_prompts_is_refused():
    server, url = fake_server(_cut)
    try:
        model = ServedModel(url)
        assert len(model.likelihoods([("A short prompt", " of it")])) == 1
        with pytest.raises(RequestError, match="begin after 22 characters; is the prompt too long"):
            model.likelihoods([("x" * 80, " of it")])
    finally:
        server.shutdown()
        server.server_close()


def test_addresses_without_a_server():
    with pytest.raises(RequestError, match="cannot be reached"):
        ServedModel("http://127.0.0.1:9", seconds=2)
    with pytest.raises(RequestError, match="not an address"):
        ServedModel("http://")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"promt": "x"}, "promt: no such field; did you mean 'prompt'"),
        ({"choices": {"texts": "options"}}, "gold must be set"),
        ({"prompt": "{% set x = 1 %}"}, "prompt: Assign is not read"),
        ({"prompt": "{{ question"}, "prompt: not a template"),
        ({"prompt": "{{ question|pprint }}"}, "filter 'pprint' is not known"),
        ({"data": {"files": ["../x"]}}, "leaves the data folder"),
        ({"shots": {"order": "best"}}, "shots.order: 'best' is not one of"),
        ({"generation": {"metrics": ["bleu"]}}, "convention: 'bleu' is not known"),
    ],
)
def test_a_wrong_key_is_named(change, message):
    plain = {"title": "t", "prompt": "{{q}}", "data": {"files": ["x.jsonl"]}}
    with pytest.raises(SpecError, match=message.replace("(", r"\(").replace("?", r"\?")):
        Benchmark.from_data({**plain, **({} if "generation" in change else {"target": "x"}), **change})


@pytest.mark.parametrize(
    "row, message",
    [
        ('{"question": "q", "answer": 0}', "'options' has no value"),
        ('{"question": "q", "options": ["a"], "answer": 0}', "not a list of at least two texts"),
        ('{"question": "q", "options": ["a", "b"], "answer": 2}', "choices.gold: 2 is not the number"),
        ('{"question": "q", "options": ["a", "b"], "answer": "c"}', "choices.gold: 'c' is not the number"),
    ],
)
def test_a_bad_row_is_named_with_its_line(row, message, tmp_path):
    (tmp_path / "colours.jsonl").write_text('{"question": "a", "options": ["x", "y"], "answer": 1}\n' + row + "\n")
    plain = {"title": "t", "prompt": "{{question}}", "data": {"files": ["*.jsonl"]},
             "choices": {"texts": "options", "gold": "answer"}}  # fmt: skip
    with pytest.raises(DataError) as caught:
        items_of(Benchmark.from_data(plain), tmp_path)
    assert "colours.jsonl:2: " in str(caught.value) and message in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ x.replace('a', y).replace('a', y).replace('a', y) }}", "{{ x|replace('a', y)|replace('a', y) }}",
        "{% for a in z %}{{ y }}{% endfor %}", "{{ x|regex_replace('^(a|aa)+$', '') }}", "{{ ''.__class__ }}",
        "{{ x.format(1) }}", "{{ x.center(999999999) }}", "{% for a in z %}{% for b in z %}{% endfor %}{% endfor %}",
        "{{ 'a' * 999999999 }}", "{{ cycler }}", "{% include 'x' %}", "{{ x.encode() }}", "{{ range(9) }}",
    ],
)  # fmt: skip
def test_a_template_takes_no_memory_and_no_time(source):
    row = {"x": "a" * 40 + "b", "y": "a" * 100_000, "z": list(range(5000))}
    with pytest.raises(LlmanacError):
        RowTemplate(source, "prompt").text(row)


def test_templates():
    row = {"a": {"b": [1, 2]}, "t": " x "}
    assert RowTemplate("{{ a.b[1] }}|{{ t.strip() }}|{% if a.b %}yes{% endif %}\n").text(row) == "2|x|yes\n"
    assert Expression("a.b|map('string')|list").value(row) == ["1", "2"]
    with pytest.raises(DataError, match="'c' is undefined; the row has: a, t"):
        RowTemplate("{{ c }}", "prompt").text(row)


def test_flags_that_are_wrong(folder, capsys):
    (folder / "text.toml").write_text(OWN.split("[choices]")[0].replace("[data]", 'target = "x"\n[data]'), "utf-8")
    run("a", "--benchmarks", "text.toml", "--chat", expect=2)
    assert "--chat: text scores the likelihood of a text" in capsys.readouterr().err
    run("a", expect=2)
    assert "--benchmarks: give at least one of arc_challenge, arc_easy" in capsys.readouterr().err
    run("a", "--benchmarks", "helaswag", expect=2)
    assert "did you mean 'hellaswag'" in capsys.readouterr().err
    run("a", "--benchmarks", "piqa", expect=2)
    assert "--data: name the folder that holds piqa/valid.jsonl" in capsys.readouterr().err
    run("a", "--benchmarks", "piqa", "--data", "elsewhere", expect=2)
    assert "no file matches piqa/valid.jsonl" in capsys.readouterr().err


def test_quac_by_its_rules():
    """Leave one reference out; questions that people disagree on are left out; HEQ compares with people."""
    assert quac("the cat", ["the cat"]) == {"F1": 1.0, "HEQ-Q": 1.0}
    assert quac("a b", ["x y", "p q", "r s"]) == {}  # people agree on nothing
    found = quac("red", ["red cat", "red cat", "dog"])
    one = 2 * 1 / 3
    people = (1 + 1 + 0) / 3
    assert found["F1"] == pytest.approx((one + one + one) / 3) and found["HEQ-Q"] == float(found["F1"] >= people)
    assert quac("CANNOTANSWER", ["CANNOTANSWER", "CANNOTANSWER", "x"])["F1"] == 1.0
    items = [BenchmarkItem(str(i), "p", references=("the cat",), cluster=str(i // 2)) for i in range(4)]
    own = Generation(references="x", metrics=("quac",), strip="first-line")
    texts = [" the cat\nmore", "the cat", "dog", "cat"]
    verdicts = [judge_generated(own, item, text) for item, text in zip(items, texts, strict=True)]
    scores = {score.metric: score for score in summarise(items, verdicts)}
    assert scores["HEQ-Q"].value == 0.75 and scores["HEQ-D"].value == 0.5 and scores["HEQ-D"].items == 2


# rows of the sets that the data folder holds; of others tests have rows of their own in the published form
SIZES = {"drop": 947, "gsm8k": 1319, "hellaswag": 10042, "humaneval": 164, "lambada": 5153, "math": 500, "mbpp": 500,
         "mmlu": 14042, "piqa": 1838, "quac": 12, "squad": 1190, "strategyqa": 229, "triviaqa": 3000}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_real_sets_are_read(name, shared_data):
    _, own = load_benchmark(name)
    items = items_of(own, shared_data, limit=60)
    assert len(items) == min(60, SIZES[name]) and all(item.prompt for item in items)
    assert len({item.name for item in items}) == len(items)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_real_sets_are_read_whole(name, shared_data):
    _, own = load_benchmark(name)
    assert len(items_of(own, shared_data)) == SIZES[name]
