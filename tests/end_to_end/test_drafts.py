"""Speculative decoding from the command line and in the server: the same text, and counts of the drafts."""

from __future__ import annotations

import httpx
import pytest
import torch
from _engine_models import ByteTokenizer, HistoryModel
from _servers import running

import llmanac
from llmanac.cli import main
from llmanac.generate.engine import Engine
from llmanac.models.save import export_model
from llmanac.tokenizers.load import train_tokenizer

TEXT = "the cat sat on the mat and the dog sat on the log; " * 20


def saved(folder, *, vocab_size=280, seed=0, dim=16, text=TEXT):
    tokenizer = train_tokenizer("bpe", [text], vocab_size=vocab_size)
    model = llmanac.build("lm", "transformer", dim=dim, layers=1, max_length=128, vocab_size=tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.3)
    export_model(model, folder)
    tokenizer.save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    other_text = "quite other words than those, pairs of them as well; " * 20
    return {
        "model": saved(folder / "model"),
        "draft": saved(folder / "draft", dim=8, seed=1),
        "other": saved(folder / "other", text=other_text),
        "small": saved(folder / "small", vocab_size=270),
    }


def say(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*arguments])
    return ended.value.code, capsys.readouterr()


def test_generate_says_what_became_of_the_drafts(places, capsys):
    asked = ["generate", places["model"], "--prompt", "the cat sat on the cat sat", "--max-new-tokens", "40"]
    code, plain = say(capsys, *asked)
    assert code == 0 and plain.err == ""
    for draft in (["prompt-lookup"], [places["draft"]], [places["draft"], "--draft-tokens", "2"]):
        code, found = say(capsys, *asked, "--draft", *draft)
        assert code == 0 and found.out == plain.out
        assert "drafts: " in found.err and ("accepted" in found.err or "none were made" in found.err)


@pytest.mark.parametrize(
    ("draft", "words"),
    [
        (["other"], r"--draft .*other: its tokens are not those of .*model \(token \d+ is .*the same tokenizer"),
        (["small"], r"270 tokens, the model has 280; both must have the same tokens"),
        (["model"], r"--draft model: give the draft model itself"),
        (["./nowhere"], r"--draft \./nowhere: no such folder.*drafters without a model: prompt-lookup"),
        (["prompt-lookup", "--draft-tokens", "0"], r"tokens: 0 must be from 1 to 64"),
        ([None, "--draft-tokens", "2"], r"--draft-tokens: there is no drafter; give --draft too"),
    ],
    ids=["other tokens", "fewer tokens", "no path", "no folder", "no tokens", "no drafter"],
)
def test_what_cannot_draft_is_refused(places, capsys, draft, words):
    import re

    given = [places.get(draft[0], draft[0]), *draft[1:]] if words[:15] != r"--draft model: " else draft
    flags = given[1:] if draft[0] is None else ["--draft", *given]
    code, found = say(capsys, "generate", places["model"], "--prompt", "the", *flags)
    assert code == 2 and re.search(words, found.err), found.err


def test_the_server_reports_its_drafts():
    model = HistoryModel(script=lambda ids: 97 + len(ids) % 3)
    engine = Engine(model, ByteTokenizer(), drafter="prompt-lookup")
    engine.speculation.always = True
    with running(engine) as server:
        assert httpx.get(f"{server.url}/health").json()["speculation"]["proposed"] == 0
        body = {"model": "tiny", "prompt": "abcabcabc", "max_tokens": 50, "temperature": 0}
        said = server.client.completions.create(**body).choices[0].text
        report = httpx.get(f"{server.url}/health").json()["speculation"]
        assert report["accepted"] > 30 and report["tokens_per_call"] > 2
    with running(Engine(model, ByteTokenizer())) as server:
        assert server.client.completions.create(**body).choices[0].text == said
        assert "speculation" not in httpx.get(f"{server.url}/health").json()
