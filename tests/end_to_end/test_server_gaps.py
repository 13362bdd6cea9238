"""Filling gaps and sorting documents: `suffix`, /infill and /v1/rerank."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest
from _published import published
from _servers import running, saying
from _small_models import randomise

import llmanac
from llmanac.evaluate.embed import Embedded, Embedder
from llmanac.evaluate.labels import open_embedder
from llmanac.generate.load import load_writer

QWEN = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
TABLES = {
    "qwen": (QWEN, "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"),
    "starcoder": (("<fim_prefix>", "<fim_suffix>", "<fim_middle>"), "<fim_prefix>a<fim_suffix>b<fim_middle>"),
    "deepseek": (
        ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
        "<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>",
    ),
    "codestral": (("[PREFIX]", "[SUFFIX]"), "[SUFFIX]b[PREFIX]a"),
}


def post(server, path, **body):
    return httpx.post(f"{server.url}{path}", json=body, timeout=60)


@pytest.mark.parametrize("name", TABLES)
def test_a_gap_is_asked_for_by_the_models_own_tokens(name):
    special, written = TABLES[name]
    engine, asked = saying("middle<|im_end|>", "", special)
    with running(engine) as server:
        reply = post(server, "/v1/completions", model="tiny", prompt="a", suffix="b", max_tokens=20, temperature=0)
        assert reply.json()["choices"][0] | {"logprobs": None} == {
            "index": 0, "text": "middle", "finish_reason": "stop", "logprobs": None,
        }  # fmt: skip
        filled = post(server, "/infill", input_prefix="a", input_suffix="b", temperature=0).json()
        assert (filled["content"], filled["stop"], filled["stop_type"]) == ("middle", True, "eos")
        assert (
            post(server, "/api/generate", model="tiny", prompt="a", suffix="b", stream=False).json()["response"]
            == "middle"
        )
        lines = post(server, "/infill", input_prefix="a", input_suffix="b", stream=True, n_predict=3).text.split("\n\n")
        sent = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert "".join(one["content"] for one in sent) == "mid" and sent[-1]["stop_type"] == "limit"
    assert all(engine.tokenizer.decode(ids) == written for ids in asked)


def test_markers_in_texts_are_text_and_files_come_first():
    engine, asked = saying("x<|im_end|>", "", (*QWEN, "<|file_sep|>"))
    with running(engine) as server:
        files = [{"filename": "one.py", "text": "A = 1\n"}, {"filename": "two.py", "text": "B = 2\n"}]
        body = {"input_prefix": "a<|fim_suffix|>", "input_suffix": "b", "prompt": "m", "input_extra": files}
        assert post(server, "/infill", **body, temperature=0).status_code == 200
    special, ids = engine.tokenizer.special_tokens, asked[0]
    sep, (before, behind, middle) = special["<|file_sep|>"], (special[name] for name in QWEN)
    assert [i for i in ids if i in special.values()] == [sep, sep, sep, before, behind, middle]
    assert engine.tokenizer.decode(ids[ids.index(before) + 1 : ids.index(behind)]) == "a<|fim_suffix|>"
    assert engine.tokenizer.decode(ids[1 : ids.index(sep, 1)]) == "one.py\nA = 1\n"
    assert engine.tokenizer.decode(ids[ids.index(middle) + 1 :]) == "m"


def test_what_cannot_fill_gaps_says_so(server):
    for path, body in (
        ("/v1/completions", {"model": "tiny", "prompt": "a", "suffix": "b"}),
        ("/infill", {"input_prefix": "a", "input_suffix": "b"}),
    ):
        answer = post(server, path, **body)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "suffix"
    engine, _ = saying("x", "", QWEN)
    with running(engine) as found:
        extra = post(found, "/infill", input_prefix="a", input_extra=[{"filename": "f", "text": "t"}])
        assert extra.status_code == 400 and extra.json()["error"]["param"] == "input_extra"
        several = post(found, "/v1/completions", model="tiny", prompt=["a", "b"], suffix="c")
        assert several.status_code == 400 and several.json()["error"]["param"] == "suffix"


class Lengths:
    """An embedder whose vectors are a text's counts of a, b and c."""

    most = 100
    related = Embedder.related

    def texts(self, texts, on_long="cut", prompt=None):
        rows = np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)
        return Embedded(rows, [len(text) for text in texts], [])


def test_documents_are_sorted_by_their_cosine(server):
    engine, _ = saying("x", "")
    with running(engine, embedder=Lengths(), embedding_name="vectors") as found:
        body = {"model": "vectors", "query": "aab", "documents": ["c", {"text": "aaaabb"}, "ab", "", "aac"]}
        reply = post(found, "/v1/rerank", **body).json()
        scores = {one["index"]: one["relevance_score"] for one in reply["results"]}
        assert [one["index"] for one in reply["results"]] == [1, 2, 4, 0, 3]
        assert scores == pytest.approx({1: 1.0, 2: 3 / np.sqrt(10), 4: 4 / 5, 0: 0.0, 3: 0.0})
        assert reply["results"][0]["document"] == {"text": "aaaabb"}
        few = post(found, "/v1/rerank", **body, top_n=2, return_documents=False).json()["results"]
        assert [sorted(one) for one in few] == [["index", "relevance_score"]] * 2
        assert post(found, "/v1/rerank", **{**body, "model": "tiny"}).status_code == 404
    assert post(server, "/v1/rerank", **body).status_code == 404


def test_a_reranker_sorts_documents_by_its_own_numbers(tmp_path):
    """Which read question and document as a pair."""
    tokenizer = llmanac.train_tokenizer("utf8", [])
    head = {"name": "labels", "labels": ["score"], "place": "first"}
    model = llmanac.build("lm", "encoder", dim=16, layers=2, vocab_size=tokenizer.vocab_size, head=head)
    llmanac.save_model(randomise(model), tmp_path)
    tokenizer.save(tmp_path)
    reranker, texts = open_embedder(str(tmp_path)), ["ab", "cde", "a c"]
    engine, _ = saying("x", "")
    with running(engine, embedder=reranker, embedding_name="reranker") as found:
        for query in ("a", "dd"):
            reply = post(found, "/v1/rerank", model="reranker", query=query, documents=texts).json()
            scores = {one["index"]: one["relevance_score"] for one in reply["results"]}
            expected = reranker.relevance(query, texts)
            assert [scores[i] for i in range(3)] == pytest.approx(expected.tolist())
            assert [*scores] == np.argsort(-expected).tolist() and 0 < min(expected) < max(expected) < 1


@pytest.mark.pretrained
def test_a_real_model_fills_a_gap():
    with running(load_writer(published("qwen"), runner="native"), model_name="qwen") as server:
        code = {"input_prefix": "def add(a, b):\n    ", "input_suffix": "\n\nprint(add(1, 2))\n", "temperature": 0}
        filled = post(server, "/infill", **code, n_predict=32).json()["content"]
        assert filled.startswith("return a + b")
