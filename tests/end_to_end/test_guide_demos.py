"""Demos: every method of a kind has its demo, and what is shown is what the package computes; bounded and queued."""

from __future__ import annotations

import html
import itertools
import json
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from _seeing_models import encoded, picture
from _small_models import block, transformer
from PIL import Image
from starlette.testclient import TestClient
from test_guide import TOKEN, form

from llmanac.core import catalogue, registry
from llmanac.core.errors import SpecError
from llmanac.core.types import Batch
from llmanac.generate.engine import Engine
from llmanac.guide import app as guide_app
from llmanac.guide import calculate
from llmanac.guide.app import create_app
from llmanac.guide.check import read_number
from llmanac.guide.demos import Field, Models, _html, _model, beam, demos, mixer, tokenizer
from llmanac.guide.demos._model import Held
from llmanac.guide.progress import ReviewLog
from llmanac.guide.question import questions
from llmanac.retrieve.bm25 import BM25, Spec

SMALL = Models(small=True)
BERT = {"model_type": "bert", "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "max_position_embeddings": 64}  # fmt: skip


def shown(name, models=SMALL, **given):
    """The rows of all tables of a demo's result, as texts."""
    text = "".join(demos()[name].run({k: str(v) for k, v in given.items()}, models))
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [[html.unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row)] for row in rows]
    return text, {row[0]: row[1:] for row in cells}


def test_every_method_of_a_kind_has_its_demo():
    ids = [(entry.id, entry.method) for entry in catalogue.entries()]
    for demo in demos().values():
        assert demo.about and demo.fields and any(demo.shows(*names) for names in ids), demo.name
        for kind in demo.kinds:
            assert kind not in registry.KINDS or all(demo.shows(m.id) for m in registry.methods(kind).values())
        for row in demo.rows:
            assert any(name.startswith(row) for names in ids for name in names), (demo.name, row)
    assert {"tokenizer", "decoding", "mixer", "quantizer", "drafter"} <= {k for d in demos().values() for k in d.kinds}
    assert len(demos()) >= 10 and not demos()["beam"].shows("decode/top-p", "decoding/top-p")


def test_tokenizers_and_decoding_show_what_the_package_gives():
    text, rows = shown("tokenizer", text="naïve <b> 日本")
    assert rows["utf8"][1] == str(len("naïve <b> 日本".encode())) and "<b>" not in text
    assert rows["bpe"][1] == str(len(_model.tokenizer("bpe").encode("naïve <b> 日本")))
    assert set(registry.methods("tokenizer")) <= rows.keys() and tokenizer.FIELDS[0].most == 400
    text, rows = shown("decoding", prompt="The model", tokens=5, seed=3)
    held = SMALL.held
    done = held.engine.generate("The model", max_new_tokens=5)[0]
    assert rows["greedy"][0] == f"{sum(done.logprobs):.2f}" and 'title="' in text
    pieces = "<wbr>".join(html.escape(_html.visible(held.text(i))) for i in done.ids)
    assert pieces in re.sub(r"</?span[^>]*>", "", text)


def test_decoding_begins_with_values_under_which_the_methods_differ():
    text, rows = shown("decoding")
    told = {name: re.sub(r"<[^>]*>", "", part) for name, part in re.findall(
        r"<h3>([\w-]+)</h3><p>.*?</p>(.*?)<details", text, re.DOTALL)}  # fmt: skip
    # the three penalties are alike where no token comes back
    assert len(told) >= 12 and len(set(told.values())) >= len(told) - 2
    assert "temperature=0.7" in text and rows["top-k"] != rows["top-p"]


@pytest.mark.parametrize(("text", "number"), [
    ("128 KiB", 131072), ("0.5 GB", 5e8), ("0.5GB", 5e8), ("2 MiB", 2 << 20), ("1,024 bytes", 1024), ("3 kB", 3000),
    ("7 B", 7), ("1.5 TB", 1.5e12), ("2 megabytes", 2e6), ("1e3 KiB", 1024000), ("12%", 0.12), ("2/3", 2 / 3),
])  # fmt: skip
def test_numbers_may_have_units_of_bytes(text, number):
    assert read_number(text) == pytest.approx(number)
    field = Field("n", "Numbers", "1", low=0.0, high=1e15)
    if "%" not in text and "/" not in text and "," not in text:
        assert field.read(text) == pytest.approx(number)
    for wrong in ("128 KiX", "KiB", "1 2 GB", "nan GB", "5 jobs", "x B"):
        with pytest.raises(SpecError, match="is no number"):
            read_number(wrong)
        with pytest.raises(SpecError, match="number"):
            field.read(wrong)
    with pytest.raises(SpecError, match="not a whole number"):
        Field("n", "Numbers", "1", low=0, high=1 << 40).read("0.0005 KiB")
    assert Field("n", "Numbers", "1", low=0, high=1 << 40).read("128 KiB") == 131072


def test_answers_in_bytes_are_taken_in_every_unit():
    """Each checked number of bytes is right in its own unit and in the others, and wrong where the unit is left out."""
    tried = 0
    for q in questions().values():
        if q.check is None or q.check.kind != "number" or not re.match(r"(?:[KMG]i?B|Bytes|Megabytes)\b", q.check.ask):
            continue
        figure, unit = q.figures()[q.check.number], q.check.ask.split()[0]
        size = {"KiB": 1024, "MB": 1e6, "Megabytes": 1e6, "GB": 1e9, "Bytes": 1}[unit]
        for text in (f"{figure}", f"{figure} {unit}", f"{figure * size / 1024} KiB", f"{figure * size / 1e9} GB"):
            assert q.check.grade(text, q.figures())[0], (q.name, text)
            tried += 1
        assert not q.check.grade(f"{figure * 1.2} {unit}", q.figures())[0]
    assert tried >= 36


def test_scores_of_passages_are_those_of_the_retrievers():
    texts = ["the harbor is full", "a boat and a sailor", "", "bread"]
    text, rows = shown("retriever", query="sailors <b>", passages="\n".join(texts), variant="plus", k1=1.2, b=0.5)
    index = BM25([t for t in texts if t], Spec(variant="plus", k1=1.2, b=0.5))
    assert rows["a boat and a sailor"][0] == f"{index.scores('sailors')[1]:.3f} (1.)" and rows["bread"][0] == ""
    assert rows["a boat and a sailor"][1].endswith("(1.)") and rows["bread"][1].startswith("0.000")
    assert (
        rows["a boat and a sailor"][2] == f"{2 / 61:.3f} (1.)" and rows["sailor"][0] == f"{index.weight('sailor'):.3f}"
    )
    assert "<b>" not in text
    with pytest.raises(SpecError, match="Passages: 0 lines"):
        shown("retriever", passages=" ")


def test_the_tree_holds_what_the_search_kept():
    held = SMALL.held
    text, rows = shown("beam", prompt="The model", tokens=4, beams=3)
    best = held.engine.generate("The model", max_new_tokens=4, beams=3)[0]
    assert rows["1"][0] == _html.visible(best.text) and rows["1"][3] == f"{best.score:.3f}"
    assert text.count("<text") == 1 + 4 * 3 and text.count("<line") == 4 * 3
    request = held.engine.request("The model", max_new_tokens=4, beams=3)
    steps = beam.recorded(request)
    held.engine.run([request])
    assert all(text.ids[:-1] == parent.ids for step in steps for parent, text in step) and len(steps) == 4


def test_the_mask_allows_what_can_go_on():
    held = SMALL.held
    text, _ = shown("constrain", text='{"name": "nf4", "bits": ')
    allowed = {held.text(i) for i in range(held.engine.model.vocab_size)} & {"4", "8", "1", "16"}
    assert text.startswith(f"<p>{len(allowed)} of {held.engine.model.vocab_size}")
    assert "may not come there" in shown("constrain", text='{"nome": ')[0]
    with pytest.raises(SpecError, match="JSON Schema"):
        shown("constrain", schema="{")


def test_normalizers_enumerate_the_policy():
    """With Dr. GRPO's advantages and a constant the step is (1 - 1/n) times the true gradient, over the constant."""
    _, rows = shown("normalizers", advantage="dr-grpo", group=2)
    shares, rewards, lengths = np.array([0.4, 0.3, 0.2, 0.1]), np.array([1, 0, 1, 0]), np.array([4, 20, 8, 40])
    true = shares * (rewards - shares @ rewards)
    step = {"micro": 0.0, "sequence": 0.0}
    for group in itertools.product(range(4), repeat=2):
        g = np.array(group)
        pull = (rewards[g] - rewards[g].mean()) * np.prod(shares[g])
        score = np.eye(4)[g] - shares
        step["micro"] = step["micro"] + (pull / lengths[g].sum()) @ score
        step["sequence"] = step["sequence"] + (pull / lengths[g]) @ score
    cosine = [float(v @ true / np.linalg.norm(v) / np.linalg.norm(true)) for v in (step["sequence"], step["micro"])]
    found = [float(v) for v in rows["cosine with the true gradient"]]
    assert found[4] == 1.0 and found[2] == pytest.approx(1.0) and cosine[1] < 0.9999
    assert [found[1], found[3]] == pytest.approx(cosine, abs=1e-4)


def test_the_trace_of_a_pipeline_is_that_of_the_schedule():
    text = "".join(demos()["schedule"].run({"schedule": "1f1b", "ranks": "3", "rounds": "1"}, Models()))
    lines = re.search(r"<pre>(.*?)</pre>", text, re.DOTALL).group(1).splitlines()
    assert [re.findall(r"[FB]\d", line) for line in lines] == [
        ["F0", "F1", "F2", "B0", "B1", "B2"], ["F0", "F1", "B0", "F2", "B1", "B2"], ["F0", "B0", "F1", "B1", "F2", "B2"]
    ]  # fmt: skip
    assert "<td>zero-bubble</td><td>18.18%</td><td>18.18%</td>" in text


def test_drafts_leave_the_text_and_errors_are_measured():
    _, rows = shown("drafter")
    assert rows["the same text as without"] == ["yes"] and int(rows["accepted"][0]) > 0
    assert int(rows["calls of the model"][0]) == int(rows["tokens"][0]) - int(rows["accepted"][0])
    _, rows = shown("quantizer", outlier=50)
    plain = shown("quantizer")[1]
    error = {name: float(row[1].rstrip("%")) for name, row in plain.items() if row[1].endswith("%")}
    assert error["int8"] < error["nf4"] < error["binary"] and {"bf16", "gptq", "ternary"} <= error.keys()
    assert float(rows["int4"][1].rstrip("%")) != error["int4"]


def test_attention_is_the_layers_own_and_the_rest_is_seen_by_its_gradient():
    words = _model.tokenizer("bpe")
    model = transformer(vocab_size=words.vocab_size, blocks=block({"name": "grouped-query", "heads": 4}))
    layer, ids, kept = model.model.layers[1].self_attn, words.encode("The state of a row"), {}
    layer.v_proj.register_forward_hook(lambda _, given, out: kept.update(v=out[0]))
    layer.o_proj.register_forward_hook(lambda _, given, out: kept.update(read=given[0][0]))
    plain = model(Batch(ids=torch.tensor([ids]))).logits
    for head in range(4):
        found = torch.tensor(mixer.weights(model, layer, ids, head), dtype=torch.float64)
        values = kept["v"].view(len(ids), 2, -1)[:, head // 2]
        torch.testing.assert_close(found @ values, kept["read"].view(len(ids), 4, -1)[:, head])
        torch.testing.assert_close(found.sum(1), torch.ones(len(ids), dtype=torch.float64))
        assert not found.triu(1).any() and found.std() > 0.05
    assert torch.equal(model(Batch(ids=torch.tensor([ids]))).logits, plain) and "attend" not in vars(layer.score)
    held = SimpleNamespace(held=Held("a small Transformer", Engine(model, words)))
    _, rows = shown("mixer", held, what=mixer.OWN, layer=1, head=1, new=2, text="The state of")
    assert len(rows) >= 3
    with pytest.raises(SpecError, match="numbered from 0"):
        demos()["mixer"].run({"what": mixer.OWN, "layer": "2"}, held)
    for name in registry.methods("mixer"):
        if name != "cross":
            text, rows = shown("mixer", what=name, text="The state")
            assert "bytes held" in text and len(rows) >= 3, name


def test_the_calculators_are_those_of_the_command(tmp_path):
    module = demos()["calculators"].module
    text, rows = shown("calculators", rows=2, length=4096)
    (tmp_path / "config.json").write_text(json.dumps(module.CONFIG))
    model = calculate.read(tmp_path / "config.json")
    used = calculate.bytes_of(model, length=4096, rows=2)
    assert rows["in use"][1] == f"{used.inference / 1e9:,.3f}" and rows["training"][1] == f"{used.training / 1e9:,.3f}"
    machine = calculate.Machine(400e12, 2000e9, "given")
    step = calculate.latency(model, machine, prompt=4096, rows=2, dtype="bfloat16")[1]
    assert rows["each next"][-1] == f"{1000 * step.seconds:.4g} ms" and "8,030,261,248 parameters" in text
    for config, said in (
        ("{", "config.json:"),
        ("[]", "model_type of a family"),
        (json.dumps({**module.CONFIG, "num_hidden_layers": 10**9}), "2000 layers"),
        (json.dumps({**module.CONFIG, "hidden_size": -1}), "^config.json"),
        (json.dumps({"model_type": "llmanac"}), "model_type of a family"),
    ):
        with pytest.raises(SpecError, match=said):
            demos()["calculators"].run({"config": config}, SMALL)
    assert "each next" not in shown("calculators", config=json.dumps(BERT))[0]


def test_inputs_are_bounded():
    for name, given, said in (
        ("tokenizer", {"text": "x" * 401}, "400 at most"),
        ("decoding", {"tokens": "33"}, "not between 1 and 32"),
        ("decoding", {"tokens": "1e9"}, "not a whole number"),
        ("decoding", {"method": "top_p"}, "did you mean"),
        ("quantizer", {"std": "nan"}, "not between"),
        ("normalizers", {"lengths": "1 2 x"}, "not a list of numbers"),
        ("normalizers", {"rewards": "1 0"}, "each answer"),
        ("mixer", {"what": "attention of the model"}, "no attention"),
    ):
        with pytest.raises(SpecError, match=said):
            demos()[name].run(given, SMALL)
    with pytest.raises(SpecError, match="longer than"):
        _model.finish(SMALL.held.engine, [SMALL.held.engine.request("a")], time.monotonic() - 1)


@pytest.fixture
def client(tmp_path):
    app = create_app(ReviewLog(tmp_path / "p.sqlite"), token=TOKEN, models=SMALL)
    return TestClient(app, base_url="http://127.0.0.1:8090", follow_redirects=False)


def test_a_demo_is_run_in_its_form(client):
    assert "/demo/quantizer.html?method=int8" in client.get("/row/quant/int8.html").text
    assert "<option selected>int8</option>" in client.get("/demo/quantizer.html?method=int8").text
    assert "<option selected>nf4</option>" not in client.get("/demo/quantizer.html?method=%3Cb%3E").text
    text = client.get("/demo/normalizers.html").text
    assert 'for="lengths"' in text and "Result" not in text
    answer = client.post("/demo/normalizers.html", **form(group="2", rewards="0 1 0 0"))
    assert answer.status_code == 200 and "over 16 groups" in answer.text and 'value="0 1 0 0"' in answer.text
    answer = client.post("/demo/normalizers.html", **form(group="<script>", rewards="1"))
    assert 'role="alert"' in answer.text and "<script>" not in answer.text
    assert client.post("/demo/none.html", **form()).status_code == 404
    assert client.post("/demo/beam.html", **form(token="x")).status_code == 403
    answer = client.post("/demo/beam.html", headers={"origin": "http://evil.example"} | form()["headers"],
                         content=form()["content"])  # fmt: skip
    assert answer.status_code == 403


def test_demos_wait_for_each_other_and_nothing_else_does(tmp_path, monkeypatch):
    go, running = threading.Event(), []

    def slow(values, models, until):
        running.append(1)
        assert len(running) == 1 and go.wait(20)
        running.pop()
        return []

    monkeypatch.setattr(demos()["normalizers"].module, "run", slow)
    app = create_app(ReviewLog(tmp_path / "p.sqlite"), token=TOKEN, models=SMALL)
    with TestClient(app, base_url="http://127.0.0.1:8090") as client:
        found = []

        def send():
            found.append(client.post("/demo/normalizers.html", **form()).status_code)

        threads = [threading.Thread(target=send) for _ in range(guide_app.WAITING + 1)]
        for thread in threads:
            thread.start()
        while 429 not in found:
            time.sleep(0.01)
        assert client.get("/demos.html").status_code == 200
        go.set()
        for thread in threads:
            thread.join()
    assert sorted(found) == [200] * guide_app.WAITING + [429]


# ---------------------------------------------------------------- pictures


@pytest.fixture
def few(monkeypatch, tmp_path):
    """The demo's own model after fewer steps, and no run that would take its place."""
    module = demos()["similarity"].module
    monkeypatch.setattr(module, "STEPS", 12)
    monkeypatch.setattr(module, "RUN", tmp_path / "none")
    module.model.cache_clear()
    yield module
    module.model.cache_clear()


def uploaded(files, **fields):
    """A form with files, as a browser sends it."""
    parts = [("texts", None, fields.pop("texts").encode())] if "texts" in fields else []
    parts += [("token", None, fields.get("token", TOKEN).encode()), *(("pictures", name, data) for name, data in files)]
    body = b""
    for field, name, data in parts:
        file = f'; filename="{name}"\r\nContent-Type: image/png' if name is not None else ""
        body += f'--edge\r\nContent-Disposition: form-data; name="{field}"{file}\r\n\r\n'.encode() + data + b"\r\n"
    return {"content": body + b"--edge--\r\n", "headers": {"content-type": "multipart/form-data; boundary=edge"}}


def test_similarities_are_the_models(client, few):
    """Cosines of the page are those of the model for the very files that were sent, bytes that look like a line too."""
    texts = "a large red circle in the top left\na small blue ring in the bottom right"
    files = [(f"bild {n} ü.png", encoded(picture(n)) + b"\r\n--edg\r\n") for n in (0, 3)]
    answer = client.post("/demo/similarity.html", **uploaded([*files, ("", b"")], texts=texts))
    assert answer.status_code == 200, answer.text
    rows = re.findall(r"<td>(-?[01]\.\d\d) \((\d+)%\)</td>", answer.text)
    found, _ = few.model()
    with torch.no_grad():
        clip = found.model
        seen = (
            clip.images(found.pixels([picture(0), picture(3)]))
            @ clip.texts(found.rows(texts.split("\n"), clip.text.spec.max_length)).T
        )
    assert [float(c) for c, _ in rows] == pytest.approx(seen.flatten().tolist(), abs=0.006)
    assert [sum(int(p) for _, p in rows[i : i + 2]) for i in (0, 2)] == pytest.approx([100, 100], abs=1)
    assert answer.text.count('src="data:image/png;base64,') == 2 and few.model()[1].startswith("a CLIP trained here")
    plain = client.post("/demo/similarity.html", **uploaded([], texts=texts)).text
    assert "drawn from the texts" in plain and plain.count("<img") == 2


def test_uploads_are_bounded(client, few):
    def said(files, **fields):
        answer = client.post("/demo/similarity.html", **uploaded(files, **fields))
        return answer.status_code, html.unescape(answer.text)

    good = encoded(picture())
    assert 'enctype="multipart/form-data"' in client.get("/demo/similarity.html").text
    assert "7 files" in said([("a.png", good)] * 7)[1]
    assert "400,000 bytes" in said([("a.png", bytes(400_001))])[1]
    assert "picture 1: not an image" in said([("a.png", b"GIF89a")])[1]
    assert "pixels" in said([("a.png", encoded(Image.new("1", (3000, 2000))))])[1]
    assert "give 2 to 8" in said([], texts="one")[1]
    assert "does not know" in said([], texts="a zebra\na red circle")[1]
    assert said([("a.png", bytes(4 << 20))])[0] == 413
    assert said([("a.png", good)], token="x")[0] == 403
    sent = uploaded([("a.png", good)])
    for headers, content in (
        ({"content-type": "multipart/form-data"}, sent["content"]),
        (sent["headers"], sent["content"][:-8]),
        (sent["headers"], b"--edge\r\n\r\nx\r\n--edge--"),
        (sent["headers"], b"--edge\r\n" * 60 + b"--edge--"),
    ):
        assert client.post("/demo/similarity.html", headers=headers, content=content).status_code == 400
    assert client.post("/exercise/elo.html", **sent).status_code == 415
    large = form(code="x" * (guide_app.MAX_BODY + 1))
    assert client.post("/exercise/elo.html", **large).status_code == 413
